"""The notebook of the examples, executed by a kernel."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "train.ipynb"

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_trains_shows_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    kernel = tmp_path / "share" / "kernels" / "this"
    kernel.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "this", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
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
