"""What is shipped: wheel, sdist, editable install and checkout all find the registry, the data and the weights."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo import bundled
from zoo._cli import main
from zoo.errors import ModelFolderError, ZooError
from zoo.registry import load_registry

CHECK = """
import sys, pathlib, zoo
from zoo.registry import load_registry, packaged_registry, pretrained_folder
assert pathlib.Path(zoo.__file__).resolve().is_relative_to(sys.argv[1]), zoo.__file__
names, elsewhere = zoo.list(pretrained=True), sys.argv[2].split()
assert packaged_registry().is_file() and all((pretrained_folder(n) / "eval.json").is_file() for n in names)
own = pathlib.Path(zoo.__file__).parent / "pretrained"  # the other package may be installed, too
assert [n for n in names if not (own / n / "model.safetensors").is_file()] == elsewhere
from zoo.leaderboard import bundled_folder, collect, pins_of  # whose tables are whole without the other weights
results, left_out = collect([bundled_folder()], pins_of(load_registry()))
assert {r.identity.name for r in results} == set(names) and not left_out
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


def hook_of(checkout: Path) -> Any:
    """Return what builds the package of further weights."""
    spec = importlib.util.spec_from_file_location("hatch_build", checkout / "weights" / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def separate(checkout: Path) -> list[str]:
    """Names of the weights that the wheel leaves out, in order of the registry."""
    names = {path.name for path in hook_of(checkout).left_out(checkout)}
    return [name for name in zoo.list(pretrained=True) if name in names]


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_wheel_is_made_from_the_sdist_and_holds_everything(built: Path, checkout: Path, separate: list[str]) -> None:
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
    weights = {f"zoo/pretrained/{n}/model.safetensors" for n in zoo.list(pretrained=True) if n not in separate}
    assert {n for n in names if n.endswith("model.safetensors") and "/pretrained/" in n} == weights
    assert any(n.endswith("licenses/LICENSE") for n in names) and "cli.py" not in names
    assert all(n.startswith(("zoo/", "generative_zoo-")) for n in names)
    parts = {p.relative_to(checkout).as_posix() for p in (checkout / "zoo").rglob("*") if p.is_file()}
    lacking = {n for n in parts - names if "__pycache__" not in n}
    kept_apart = {f"zoo/pretrained/{n}/{file}" for n in separate for file in ("model.safetensors", "diagnostics.png")}
    assert lacking <= kept_apart
    with tarfile.open(sdist) as archive:
        inside = {n.partition("/")[2] for n in archive.getnames()}
    assert {"registry.yaml", "cli.py", "README.md", "LICENSE", "pyproject.toml", "tests/conftest.py"} <= inside
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "Requires-Python: >=3.10" in metadata and "!=2.6.2" in metadata and "!=2.6.3" in metadata
    assert wheel.stat().st_size < 60e6  # name fewer weights in pyproject.toml, and the others go into weights/


def test_sdist_holds_all_that_git_tracks_but_the_weights_of_the_other_package(
    built: Path, checkout: Path, separate: list[str]
) -> None:
    listed = subprocess.run(["git", "-C", str(checkout), "ls-files"], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this checkout has no git")
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()}
    left = {f"zoo/pretrained/{n}/{file}" for n in separate for file in ("model.safetensors", "diagnostics.png")}
    assert set(listed.stdout.splitlines()) - inside <= left
    assert inside - set(listed.stdout.splitlines()) == {"PKG-INFO"}


def test_each_weight_is_in_one_of_the_two_packages(checkout: Path, separate: list[str]) -> None:
    folders = {path.name for path in (checkout / "zoo" / "pretrained").iterdir()}
    kept = re.findall(r'"!/zoo/pretrained/([^/*]+)/\*"', (checkout / "pyproject.toml").read_text(encoding="utf-8"))
    assert len(kept) == len(set(kept)) and {*kept} | {*separate} == folders and not {*kept} & {*separate}
    assert set(zoo.list(pretrained=True)) == folders
    version = re.search(r'^version = "(.*)"$', (checkout / "weights/pyproject.toml").read_text("utf-8"), re.MULTILINE)[
        1
    ]
    assert version == zoo.__version__
    assert (checkout / "weights/LICENSE").read_bytes() == (checkout / "LICENSE").read_bytes()
    hook = hook_of(checkout)
    built = hook.WeightsHook(str(checkout / "weights"), {}, None, None, "", "wheel")
    hook.WeightsHook.initialize(built, "standard", data := {"force_include": {}})
    assert data["force_include"] == {
        str(checkout / "zoo/pretrained" / n): f"generative_zoo_weights/pretrained/{n}" for n in separate
    }


def test_weights_load_from_the_other_package_or_are_told_of(
    separate: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in an installed wheel: the card and the results are here, the weights are not."""
    name, here = separate[0], bundled.pretrained_folder(separate[0])
    package = tmp_path / "site" / "zoo" / "pretrained" / name
    package.mkdir(parents=True)
    for file in ("eval.json", "config.json"):
        shutil.copy(here / file, package)
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "site" / "zoo" / "bundled.py"))
    monkeypatch.setattr(bundled, "WEIGHTS_PACKAGE", "nowhere-zoo-weights")
    monkeypatch.setattr("zoo._cli.show.WEIGHTS_PACKAGE", "nowhere-zoo-weights")
    for act in (zoo.load, zoo.pull):
        with pytest.raises(ModelFolderError, match=f"{name!r} come with the package nowhere-zoo-weights.*pip install"):
            act(name)
    assert main(["sample", name, "--out", str(tmp_path / "x.png")]) == 2 and not (tmp_path / "x.png").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["show", name]) == 0 and "yes, in the package nowhere-zoo-weights" in capsys.readouterr().out
    other = tmp_path / "site" / "nowhere_zoo_weights"
    shutil.copytree(here, other / "pretrained" / name)
    (other / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert zoo.pull(name) == other / "pretrained" / name and zoo.load(name).source.kind == "bundled"
    (other / "pretrained" / name / "model.safetensors").write_bytes(b"another version")
    with pytest.raises(ZooError, match="sha256"):
        zoo.load(name)


def test_wheel_runs_from_an_empty_folder(built: Path, tmp_path: Path, separate: list[str]) -> None:
    (wheel,) = built.glob("*.whl")
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    _check(target, tmp_path, {"PYTHONPATH": str(target)}, separate)


@pytest.mark.slow
def test_wheel_of_the_weights_has_them_from_checkout_and_sdist(
    checkout: Path, tmp_path: Path, separate: list[str]
) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(checkout / "weights")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".safetensors")}
    assert names == {f"generative_zoo_weights/pretrained/{n}/model.safetensors" for n in separate}
    assert wheel.stat().st_size < 100e6


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
    _check(checkout, tmp_path, {"PYTHONPATH": str(checkout)}, [])  # what the editable install's .pth file adds


def _check(where: Path, cwd: Path, extra: dict[str, str], elsewhere: list[str]) -> None:
    environment = {**os.environ, **extra, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CHECK, str(where), " ".join(elsewhere)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0 and "pixelcnn-mnist" in done.stdout, done.stderr[-2000:]


def test_readme_says_the_commands_that_ci_runs(checkout: Path) -> None:
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert "pip install PATH && zoo fit --model wgan_gp" in text
    assert 'pip install "PATH[test]" PATH/weights && python -m pytest PATH' in text
    assert (checkout / ".ci" / "run").stat().st_mode & 0o111


def test_pins_of_known_security_problems(checkout: Path) -> None:
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    for pin in ("lightning>=2.6.6,!=2.6.2,!=2.6.3", "torch>=2.10", "jsonargparse[signatures]>=4.53"):
        assert pin in text
