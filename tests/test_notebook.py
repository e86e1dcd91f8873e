"""The notebooks, executed by a kernel; what they show is kept in them, and is small."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "train.ipynb"
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHEAP = "leaderboard"
"""The notebook that the default suite runs: it imports no torch."""


def _kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the package that executes notebooks, with this interpreter as the kernel ``this``."""
    pytest.importorskip("ipykernel")
    kernel = tmp_path / "share" / "kernels" / "this"
    kernel.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "this", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return pytest.importorskip("nbclient")


def _executed(cells: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what each cell of a notebook left below it."""
    nbclient, nbformat = _kernel(tmp_path, monkeypatch), pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook, timeout=400, kernel_name="this", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    return [" ".join(o.get("text", "") + str(o.get("data", "")) for o in cell.outputs) for cell in notebook.cells]


def _kinds(cell: Any) -> set[str]:
    """Return types of what stands below a cell; what it printed, and second copies of pictures, are left out."""
    return {kind for o in cell.get("outputs", ()) for kind in o.get("data", {})} - {"image/jpeg"}


def test_there_are_notebooks_and_one_of_them_is_cheap() -> None:
    assert {book.stem for book in BOOKS} >= {"tour", "own_data", "own_model", "likelihood_and_latents", "leaderboard",
                                             "guidance_and_samplers"}  # fmt: skip


_PLACE = re.compile(r"(?<![\w.:/<-])/(?!tmp/)[a-z]+/[\w.-]+/")  # an absolute path; of an address the host comes first


@pytest.mark.parametrize("book", BOOKS, ids=lambda p: p.stem)
def test_outputs_are_there_and_small(book: Path) -> None:
    content = json.loads(book.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run it from its first cell"
    assert book.stat().st_size < 150_000 and content["cells"][0]["source"][0].startswith("# ")
    for cell in code:
        assert all(o["output_type"] != "error" for o in cell["outputs"])
        shown = json.dumps(cell["outputs"])
        said = json.dumps([{k: v for k, v in o.get("data", o).items() if k != "image/png"} for o in cell["outputs"]])
        assert len(shown) < 60_000 and not _PLACE.search(said), "a path of the machine that it ran on"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("book", [pytest.param(b, id=b.stem, marks=() if b.stem == CHEAP else pytest.mark.slow)
                                  for b in BOOKS])  # fmt: skip
def test_notebooks_run_and_show_what_they_are_kept_with(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient, nbformat = _kernel(tmp_path, monkeypatch), pytest.importorskip("nbformat")
    pytest.importorskip("pandas")
    kept = nbformat.read(book, as_version=4)
    again = nbformat.from_dict(json.loads(json.dumps(kept)))
    client = nbclient.NotebookClient(
        again, timeout=600, kernel_name="this", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    for one, other in zip(kept.cells, again.cells, strict=True):
        assert _kinds(one) == _kinds(other), one.source


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_trains_shows_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = _kernel(tmp_path, monkeypatch), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (steps,) = (cell for cell in notebook.cells if "STEPS = " in cell.source)
    steps.source = steps.source.replace("STEPS = 200", "STEPS = 20")
    client = nbclient.NotebookClient(
        notebook, timeout=400, kernel_name="this", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = {cell.source.splitlines()[0]: cell.outputs for cell in notebook.cells if cell.get("outputs")}

    def kinds(first: str) -> set[str]:
        return {kind for o in outputs[first] for kind in o.get("data", {})}

    assert "image/png" in kinds("done.show()") and "text/html" in kinds("done.metrics")
    assert "torch.Size([4, 1, 28, 28])" in str(outputs["done.sample(4, seed=0).shape"])
    fit = " ".join(o.get("text", "") + str(o.get("data", "")) for o in outputs["done = zoo.fit("])
    assert "training" in fit and "20/20" in fit and "finished at step 20" in fit and "Traceback" not in fit
    (history,) = (o["data"]["text/plain"] for o in outputs["more = zoo.fit(resume=own, max_steps=STEPS + 20)"][-1:])
    assert "'step': 20" in history and "'trainer.max_steps': [20, 40]" in history
    assert len(list((tmp_path / "runs" / "vae-mnist").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_trains_on_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By forks of the kernel, after it has imported and computed; the handle is that of any run."""
    cells = [
        "import torch, zoo\nx = (torch.rand(64, 1, 8, 8) * 255).to(torch.uint8)\n"
        "quiet = dict(batch_size=8, limit_val_batches=0, training={'log_every': 1, 'sample_every': 0, 'threads': 1})",
        "one = zoo.fit('vae', x, max_steps=2, run='one', **quiet)",
        "two = zoo.fit('vae', x, max_steps=3, run='two', devices=2, accelerator='cpu', **quiet)",
        "print(two.status, two.facts['step'], len(two.metrics), two.sample(2, seed=0).shape)\ntwo.show()",
        "more = zoo.fit(resume=two, max_steps=5, devices=2, accelerator='cpu')\nprint(more.facts['step'])",
        "zoo.fit('wgan_gp', x, max_steps=2, devices=2, accelerator='cpu', strategy='ddp_notebook', **quiet)",
    ]
    outputs = _executed(cells, tmp_path, monkeypatch)
    assert "3/3" in outputs[2] and "finished 3 3 torch.Size([2, 1, 8, 8])" in outputs[3] and "image/png" in outputs[3]
    assert "5" in outputs[4].split() and "finished at step 2" in outputs[5]
