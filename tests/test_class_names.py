"""Names of classes: from the folders of a data set into the model, its run, its card, and back as labels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo._cli import main
from zoo.checking import labels_of
from zoo.classes import checked_names, same_names
from zoo.data.folder import ImageFolder
from zoo.errors import ConfigError, DataError
from zoo.hub import load_pretrained, save_pretrained
from zoo.runs import load_run
from zoo.training.fit import fit

NAMES = ("cat", "frog", "10")


def _numbers(labels: Any, n: int, names: tuple[str, ...] = NAMES) -> list[int]:
    model = SimpleNamespace(num_classes=len(names) or 3, class_names=names, device="cpu")
    return labels_of(model, n, labels).tolist()


def test_labels_may_be_names() -> None:
    assert _numbers("frog", 2) == [1, 1] and _numbers(["10", "cat", 2], 3) == [2, 0, 2]
    assert _numbers(2, 1) == [2] and _numbers((np.int64(1), 0), 2, ()) == [1, 0]
    assert _numbers("cafe\u0301", 1, ("caf\u00e9",)) == [0]
    assert _numbers(torch.tensor([1, 2]), 2) == [1, 2]
    for wrong, sentence in (
        ("frgo", "or one of cat, frog, 10..*'frog'"),
        ([None, 1], "integers between 0 and 2, one for all or 2 of them; got None"),
        ([1.0, 1], "got 1.0"),
        ([True, 1], "got True"),
        ({1, 2}, "got {1, 2}"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            _numbers(wrong, 2)
    with pytest.raises(ConfigError, match="got '7'"):
        _numbers("7", 1, ())


def test_foreign_names_are_checked() -> None:
    assert checked_names(None, 3) == checked_names([], 0) == () and checked_names(["a", "b"], 2) == ("a", "b")
    for names in (["a"], ["a", "a"], ["a", 1], "ab", ["a", ""], ["a", "\x1b[2J"], ["a", "b" * 300], {"a": 1, "b": 2}):
        with pytest.raises(ConfigError, match="class_names must be 2 different names"):
            checked_names(names, 2)
    same_names((), ("a",), "m")
    with pytest.raises(DataError, match="label 1 is 'b'; in the data there are 2, and it is 'c'"):
        same_names(("a", "b"), ("a", "c"), "m")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional model trained for two steps on a folder of three classes."""
    top = tmp_path_factory.mktemp("names")
    for i, name in enumerate(NAMES):
        (top / "pics" / name).mkdir(parents=True)
        for k in range(6):
            Image.new("L", (4, 4), 40 * i + k).save(top / "pics" / name / f"{k}.png")
    return fit(entry(top / "pics"), folder=top / "run")


def entry(folder: Path, classes: int = 3, **data: Any) -> dict[str, Any]:
    mlp = "zoo.nets.mlp.MLP"
    init_args = {
        "encoder": {"class_path": mlp, "init_args": {"features": [16 + classes, 4]}},
        "decoder": {"class_path": mlp, "init_args": {"features": [2 + classes, 16]}},
        "shape": [1, 4, 4], "latent_dim": 2, "num_classes": classes, "likelihood": "discretized_logistic",
        "scale": "shared",
    }  # fmt: skip
    how = {"folder": str(folder), "size": 4, "channels": 1, "batch_size": 4, **data}
    return {
        "name": "cvae-pics",
        "model": {"class_path": "zoo.families.cvae.CVAE", "init_args": init_args},
        "data": {"class_path": "zoo.data.folder.ImageFolder", "init_args": how},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False},
        "training": {"checkpoint_every": 1, "sample_every": 0, "log_every": 1},
    }


def test_a_run_keeps_the_names_and_takes_them_as_labels(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_run(run)
    order = ("10", "cat", "frog")  # as the folders are sorted
    assert model.class_names == order == ImageFolder(str(run.parent / "pics")).class_names
    assert torch.equal(model.sample(2, seed=0, labels="frog"), model.sample(2, seed=0, labels=2))
    assert torch.equal(model.sample(2, seed=0, labels=["frog", "10"]), model.sample(2, seed=0, labels=[2, 0]))
    x = torch.zeros(2, 1, 4, 4)
    assert torch.equal(model.log_prob(x, labels="cat", seed=0), model.log_prob(x, labels=1, seed=0))
    assert main(["show", str(run)]) == 0
    assert "classes   3: 0 10, 1 cat, 2 frog" in capsys.readouterr().out
    for labels, name in (("frog,cat", "a"), ("2,1", "b"), ("10", "c"), ("0", "d")):
        n = str(1 + labels.count(","))
        out = str(run.parent / f"{name}.npz")
        assert main(["sample", str(run), "-n", n, "--seed", "1", "--labels", labels, "--out", out]) == 0
    first, second, third, fourth = (np.load(run.parent / f"{n}.npz")["samples"] for n in "abcd")
    assert np.array_equal(first, second) and np.array_equal(third, fourth)  # the class called 10 is label 0
    assert main(["sample", str(run), "--labels", "forg", "--out", str(run.parent / "e.npz")]) == 2
    assert "there is no class 'forg'" in capsys.readouterr().err


def test_a_published_model_keeps_the_names(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_pretrained(load_run(run), tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["class_names"] == ["10", "cat", "frog"]
    card = (folder / "README.md").read_text()
    assert "| 2 | frog |" in card and "labels='10'" in card
    model = load_pretrained(folder)
    assert model.class_names == ("10", "cat", "frog") and model.released().class_names == model.class_names
    assert main(["show", str(folder)]) == 0 and "2 frog" in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    for names in (["10", "cat"], ["10", "cat", "\x1b[31m"], "frog"):
        (folder / "config.json").write_text(json.dumps({**config, "class_names": names}))
        with pytest.raises(ConfigError, match="class_names must be 3 different names"):
            load_pretrained(folder, verify=False)
    del config["class_names"]  # as models of before are
    (folder / "config.json").write_text(json.dumps(config))
    assert load_pretrained(folder, verify=False).class_names == ()


def test_data_of_other_classes_are_refused(run: Path, tmp_path: Path) -> None:
    import zoo

    for name in ("10", "cat", "dog"):
        (tmp_path / name).mkdir()
        for k in range(4):
            Image.new("L", (4, 4), k).save(tmp_path / name / f"{k}.png")
    with pytest.raises(DataError, match=r"label 2 is 'frog'; in the data there are 3, and it is 'dog'"):
        zoo.evaluate(run, ImageFolder(str(tmp_path), 4, 1), progress=False)
    with pytest.raises(ConfigError, match=r"told one of 2 classes, image_folder has 3; set --model\.num_classes 3"):
        fit(entry(tmp_path, classes=2), ["--model.num_classes", "2"], folder=tmp_path / "run")
