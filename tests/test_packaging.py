"""What is shipped: wheel, sdist, editable install and checkout all find the registry, the data and the weights."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import zoo
from zoo.registry import load_registry

CHECK = """
import sys, pathlib, zoo
from zoo.registry import load_registry, packaged_registry, pretrained_folder
assert pathlib.Path(zoo.__file__).resolve().is_relative_to(sys.argv[1]), zoo.__file__
names = zoo.list(pretrained=True)
assert packaged_registry().is_file() and all((pretrained_folder(n) / "model.safetensors").is_file() for n in names)
root = pathlib.Path(zoo.__file__).parent
assert len(list(root.glob("data/assets/mnist/*.gz"))) == 4 and (root / "py.typed").is_file()
assert (root / "data/assets/mnist/LICENSE.md").is_file()
assert (root / "metrics/assets/digit_classifier.safetensors").is_file()
from zoo._cli import main
sys.exit(main(["list"]))
"""


@pytest.fixture(scope="module")
def checkout() -> Path:
    """The checkout that these tests lie in."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("the tests were copied out of their checkout")
    return root


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_wheel_is_made_from_the_sdist_and_holds_everything(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"zoo/registry.yaml", "zoo/py.typed", "zoo/data/assets/mnist/train-images-idx3-ubyte.gz"} <= names
    assert {f"zoo/data/assets/{f}" for f in ("shakespeare/shakespeare.txt.gz", "shakespeare/LICENSE.md")} <= names
    assert sum(n.startswith("zoo/data/assets/librivox/") for n in names) == 6
    pages = ("docs/index.md", "docs/families/vae.md", "notebooks/tour.ipynb", "CHANGELOG.md", "SECURITY.md")
    assert {
        f"zoo/documentation/sources/{page}" for page in pages
    } <= names and "zoo/documentation/assets/site.css" in names
    assert {f"zoo/data/assets/tiles/{f}" for f in ("tiles32.npz", "LICENSE.md")} <= names
    assert {f"zoo/pretrained/{n}/model.safetensors" for n in zoo.list(pretrained=True)} <= names
    assert any(n.endswith("licenses/LICENSE") for n in names) and "cli.py" not in names
    assert all(n.startswith(("zoo/", "generative_zoo-")) for n in names)
    with tarfile.open(sdist) as archive:
        inside = {n.partition("/")[2] for n in archive.getnames()}
    assert {"registry.yaml", "cli.py", "README.md", "LICENSE", "pyproject.toml", "tests/conftest.py"} <= inside
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "Requires-Python: >=3.10" in metadata and "!=2.6.2" in metadata and "!=2.6.3" in metadata
    assert wheel.stat().st_size < 100e6  # bundled weights of at most 4 MB each


def test_wheel_runs_from_an_empty_folder(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    _check(target, tmp_path, {"PYTHONPATH": str(target)})


def test_console_script_is_declared(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    points = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    assert "zoo = zoo._cli:console" in points


def test_checkout_runs_as_cli_py_and_as_an_editable_install_would(checkout: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(checkout / "cli.py"), "list"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and all(name in done.stdout for name in load_registry())
    _check(checkout, tmp_path, {"PYTHONPATH": str(checkout)})  # what the editable install's .pth file adds


def _check(where: Path, cwd: Path, extra: dict[str, str]) -> None:
    environment = {**os.environ, **extra, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CHECK, str(where)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0 and "pixelcnn-mnist" in done.stdout, done.stderr[-2000:]


def test_readme_says_the_commands_that_ci_runs(checkout: Path) -> None:
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert "pip install PATH && zoo fit --model wgan_gp" in text
    assert 'pip install "PATH[test]" && python -m pytest PATH' in text
    assert (checkout / ".ci" / "run").stat().st_mode & 0o111


def test_pins_of_known_security_problems(checkout: Path) -> None:
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    for pin in ("lightning>=2.6.6,!=2.6.2,!=2.6.3", "torch>=2.10", "jsonargparse[signatures]>=4.53"):
        assert pin in text
