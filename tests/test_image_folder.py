"""Picture folders as people have them: each kind of folder and file with the right value, or one clear sentence."""

from __future__ import annotations

import importlib.util
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from zoo.data.base import BatchStream
from zoo.data.folder import ImageFolder, ImageNet64
from zoo.data.layout import arrange
from zoo.data.pictures import Preparation
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measuring import measure
from zoo.runs import load_run
from zoo.training.fit import fit

SPLITS = ("train", "validation", "test")


def fill(folder: Path, n: int = 3, colour: tuple[int, ...] = (10, 20, 30), mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new(mode, (6, 6), colour).save(folder / f"g{i}.png")
    return folder


def example(image: Image.Image, ending: str = "png", channels: int = 3, **how: object) -> Tensor:
    """Return a picture as an example, by way of a file."""
    stream = io.BytesIO()
    saved = {k: how.pop(k) for k in ("exif", "transparency", "quality", "lossless") if k in how}
    image.save(stream, {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending), **saved)
    return Preparation(image.height, image.width, channels, **how).read(io.BytesIO(stream.getvalue()))


# -- what folders mean -------------------------------------------------------------------------------------------------


def test_labels_are_those_of_training_in_every_split(tmp_path: Path) -> None:
    for split, classes in (("train", "abc"), ("validation", "bc"), ("test", "c")):
        for name in classes:
            fill(tmp_path / split / name, 2)
    data = ImageFolder(str(tmp_path), 4)
    found = {s: sorted(set(data.split(s)[1].tolist())) for s in reversed(SPLITS)}
    assert found == {"train": [0, 1, 2], "validation": [1, 2], "test": [2]}
    assert data.class_names == ("a", "b", "c") and data.num_classes == 3
    fill(tmp_path / "test" / "zebra")
    with pytest.raises(DataError, match=r"3 pictures are of classes that the training split does not have.*zebra"):
        ImageFolder(str(tmp_path), 4).split("train")
    assert ImageFolder(str(tmp_path), 4, skip=True).split("test")[1].tolist() == [2, 2]


NAMES = [
    ("train", "val", "test"), ("train", "valid", "test"), ("training", "validation", "testing"),
    ("Train", "VAL", "Test"), ("train", "dev", "test"), ("train_set", "val-set", "test set"),
]  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_splits_are_recognised_by_their_names(names: tuple[str, ...]) -> None:
    files = sorted((s, c, f"{i}.png") for s in names for c in ("cat", "dog") for i in range(2))
    layout = arrange(files, "pics")
    assert layout.classes == ("cat", "dog")
    assert {s: len(v) for s, v in layout.examples.items()} == dict.fromkeys(SPLITS, 4)


def test_half_layouts_are_completed_from_the_training_pictures(tmp_path: Path) -> None:
    for split, n in (("train", 10), ("test", 3)):
        for name in ("cat", "dog"):
            fill(tmp_path / split / name, n)
    data = ImageFolder(str(tmp_path), 4)
    assert [len(data.split(s)[0]) for s in SPLITS] == [18, 2, 6] and data.num_classes == 2
    assert data.preparation["held_out"] == {"validation": 0.1}
    more = ImageFolder(str(tmp_path), 4, validation=0.4)
    assert [len(more.split(s)[0]) for s in SPLITS] == [12, 8, 6]
    with pytest.raises(ConfigError, match=r"has a test split of its own, so that --data\.test does not apply"):
        ImageFolder(str(tmp_path), 4, test=0.2).split("train")


def test_shares_are_chosen_and_checked(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    sizes = {}
    for validation, test in ((None, None), (0.25, None), (7, 0.05), (0.01, 1)):
        data = ImageFolder(str(tmp_path), 4, validation=validation, test=test)
        sizes[validation, test] = [len(data.split(s)[0]) for s in SPLITS]
    assert sizes == {(None, None): [16, 2, 2], (0.25, None): [13, 5, 2], (7, 0.05): [12, 7, 1], (0.01, 1): [18, 1, 1]}
    for wrong in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"--data\.validation must be a share between 0 and 1"):
            ImageFolder(str(tmp_path), 4, validation=wrong)
    with pytest.raises(DataError, match="20 files for training, of which test and validation take 20"):
        ImageFolder(str(tmp_path), 4, validation=18.0).split("train")


def test_other_layouts() -> None:
    inside = [(c, s, f"{i}.png") for c in ("cat", "dog") for s in ("test", "train") for i in range(2)]
    layout = arrange(inside, "pics")  # cat/train/1.png
    assert layout.classes == ("cat", "dog") and {s: len(v) for s, v in layout.examples.items()} == {
        "test": 4,
        "train": 4,
    }
    wrapped = arrange([("archive", "data", *parts) for parts in inside], "pics")
    assert wrapped.classes == ("cat", "dog") and set(wrapped.examples) == {"train", "test"}
    nested = arrange([("cat", "persian", "1.png"), ("dog", "1.png")], "pics")
    assert nested.classes == ("cat", "dog")
    plain = arrange([("train", "1.png"), ("test", "2.png")], "pics")
    assert plain.classes == () and not plain.loose and len(plain.examples["test"]) == 1
    flat = arrange([("cat", "1.png"), ("2.png",)], "pics", "flat")
    assert flat.classes == () and len(flat.examples["train"]) == 2
    vehicles = arrange([("bus", "1.png"), ("train", "1.png")], "pics", "classes")
    assert vehicles.classes == ("bus", "train")


UNCLEAR = [
    ([("bus", "1.png"), ("train", "1.png")], "the folder 'bus' beside 'train'.*--data.layout splits"),
    ([("1.png",), ("train", "a", "1.png")], "1 files such as '1.png' beside 'train'"),
    ([("test", "1.png"), ("val", "1.png")], "has a folder 'test' and none for training"),
    ([("train", "1.png"), ("val", "1.png"), ("valid", "1.png")], "two folders for the validation split"),
    ([("cat", "train", "1.png"), ("cat", "masks", "1.png"), ("dog", "1.png")], "splits inside some of its folders"),
    ([("Cat", "1.png"), ("cat", "2.png")], "class folders 'Cat' and 'cat', which are one name"),
    ([("caf\u00e9", "1.png"), ("cafe\u0301", "2.png")], "which are one name"),
]


@pytest.mark.parametrize(("files", "sentence"), UNCLEAR)
def test_what_could_mean_two_things_is_refused(files: list[tuple[str, ...]], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        arrange(files, "pics")
    with pytest.raises(ConfigError, match="layout must be one of"):
        arrange(files, "pics", "classed")


def test_pictures_beside_class_folders_are_not_of_the_first_class(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 4)
    fill(tmp_path, 4)
    with pytest.raises(DataError, match=r"4 pictures lie beside class folders .* --data\.layout flat"):
        ImageFolder(str(tmp_path), 4).split("train")
    skipped = ImageFolder(str(tmp_path), 4, skip=True)
    assert sum(len(skipped.split(s)[0]) for s in SPLITS) == 8
    flat = ImageFolder(str(tmp_path), 4, layout="flat")
    assert sum(len(flat.split(s)[0]) for s in SPLITS) == 12 and flat.num_classes == 0


def test_stray_hidden_and_empty_things_are_passed_over(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 4)
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "~tmp", ".git"):
        fill(tmp_path / name, 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").write_text("not a picture")
    for name in ("._g0.png", ".DS_Store", "Thumbs.db", "labels.csv", "g9.png~"):
        (tmp_path / "cat" / name).write_bytes(b"\0\5\x16\7")
    data = ImageFolder(str(tmp_path), 4)
    assert data.class_names == ("cat", "dog") and sum(len(data.split(s)[0]) for s in SPLITS) == 8


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "store" / name)
    pics = fill(tmp_path / "pics" / "eel").parent
    for name in ("cat", "dog"):
        (pics / name).symlink_to(tmp_path / "store" / name)
    (pics / "eel" / "back").symlink_to(pics)
    (pics / "eel" / "linked.png").symlink_to(tmp_path / "store" / "cat" / "g0.png")
    data = ImageFolder(str(pics), 4)
    assert data.class_names == ("cat", "dog", "eel") and sum(len(data.split(s)[0]) for s in SPLITS) == 10
    (pics / "eel" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"1 of \d+ files cannot be read as pictures: .*gone.png"):
        [ImageFolder(str(pics), 4).split(s) for s in SPLITS]


def test_archives_are_folders(tmp_path: Path) -> None:
    for i, name in enumerate(("cat", "dog")):
        fill(tmp_path / "pics" / name, 5, (i, 2, 3))
    fill(tmp_path / "pics" / "__MACOSX", 2)
    with zipfile.ZipFile(tmp_path / "pics.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "pics").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    folder, packed = (ImageFolder(str(tmp_path / n), 4, memory=m) for n, m in (("pics", 1.0), ("pics.zip", 0.0)))
    assert folder.class_names == packed.class_names == ("cat", "dog")
    assert all(folder.digest(s) == packed.digest(s) for s in SPLITS)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        for _ in range(2):
            archive.writestr("cat/1.png", b"")
    with pytest.raises(DataError, match=r"holds 1 names more than once, such as cat/1\.png"):
        ImageFolder(str(tmp_path / "twice.zip")).split("train")
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="is not a zip archive that can be read"):
        ImageFolder(str(tmp_path / "bad.zip")).split("train")
    (tmp_path / "pics.rar").write_bytes(b"Rar!")
    with pytest.raises(DataError, match="neither a folder nor a zip archive"):
        ImageFolder(str(tmp_path / "pics.rar")).split("train")


# -- what files mean ---------------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
EIGHT = torch.from_numpy((RAMP.astype(np.int64) + 128) // 257)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("array", "ending"), [(RAMP, "png"), (RAMP, "tif"), ((RAMP / 65535).astype(np.float32), "tif")]
)
def test_more_than_eight_bits_keep_their_range(array: np.ndarray, ending: str, channels: int) -> None:
    x = example(Image.fromarray(array), ending, channels)
    assert x.shape == (channels, 16, 16) and int((x.long() - EIGHT).abs().max()) <= (
        1 if array.dtype == np.float32 else 0
    )


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (RAMP.astype(np.int32), "32 bits have no level that is white"),
        (RAMP.astype(np.float32), "not within 0 and 1"),
        (np.full((4, 4), np.nan, np.float32), "not within 0 and 1"),
    ],
)
def test_numbers_without_a_white_are_refused(tmp_path: Path, array: np.ndarray, why: str) -> None:
    for i in range(3):
        Image.fromarray(array).save(tmp_path / f"{i}.tif")
    with pytest.raises(DataError, match=f"1 of 1 files cannot be read as pictures.*{why}"):
        ImageFolder(str(tmp_path), 4).split("train")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_turn_them(orientation: int) -> None:
    upright = torch.arange(24, dtype=torch.uint8).reshape(4, 6) * 10
    turned = {
        1: upright, 2: upright.flip(1), 3: upright.flip(0, 1), 4: upright.flip(0), 5: upright.T,
        6: upright.T.flip(0), 7: upright.T.flip(0, 1), 8: upright.T.flip(1),
    }[orientation]  # as it is stored; the orientation says how to undo it  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(turned.contiguous().numpy()).save(stream, "png", exif=exif)
    x = Preparation(4, 6, 1).read(io.BytesIO(stream.getvalue()))
    assert torch.equal(x[0], upright)


def test_transparent_pixels_show_the_background() -> None:
    half = np.zeros((2, 2, 4), np.uint8)
    half[..., 0], half[..., 3] = 200, [[0, 128], [255, 255]]  # red, of which one pixel is clear and one half so
    white, black = (example(Image.fromarray(half), background=b) for b in ("white", "black"))
    assert white[:, 0, 0].tolist() == [255, 255, 255] and black[:, 0, 0].tolist() == [0, 0, 0]
    assert white[:, 1, 1].tolist() == black[:, 1, 1].tolist() == [200, 0, 0]
    assert white[:, 0, 1].tolist() == [227, 127, 127] and black[:, 0, 1].tolist() == [100, 0, 0]
    grey = np.array([[[90, 0], [90, 255]]], np.uint8)
    assert example(Image.fromarray(grey), channels=1)[0, 0].tolist() == [255, 90]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert example(palette)[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    assert example(palette, transparency=0, background="#102030")[:, 0].T.tolist() == [[16, 32, 48], [0, 0, 255]]
    key = example(Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9), background="lime")
    assert key.flatten().tolist() == [0, 255, 0]
    assert example(Image.fromarray(half), "webp", lossless=True)[:, 1, 1].tolist() == [200, 0, 0]


def test_other_modes_become_rgb_or_grey() -> None:
    assert example(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "tif")[:, 0, 0].tolist() == [255, 0, 0]
    jpeg = example(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpg", quality=95)[:, 0, 0]
    assert jpeg[0] > 250 and jpeg[1:].max() < 5
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert example(bits)[:, 0].T.tolist() == [[0, 0, 0], [255, 255, 255]]
    assert example(bits, channels=1)[0, 0].tolist() == [0, 255]
    assert example(Image.new("L", (1, 1), 77))[:, 0, 0].tolist() == [77, 77, 77]


def test_three_rules_of_resizing() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 255  # a white square in the middle of a black strip
    stream = io.BytesIO()
    Image.fromarray(wide).save(stream, "png")
    cropped, padded, stretched = (
        Preparation(4, 4, 1, resize, "#808080").read(io.BytesIO(stream.getvalue()))[0]
        for resize in ("crop", "pad", "stretch")
    )
    assert cropped.min() == 255
    assert padded[0].tolist() == padded[3].tolist() == [128] * 4 and padded[1:3, 1:3].min() > 200
    assert stretched[:, 0].max() < 60 and stretched[:, 1:3].min() > 200
    assert Preparation(5, 7).read(io.BytesIO(stream.getvalue())).shape == (3, 5, 7)
    for wrong, sentence in (
        ({"resize": "zoom"}, "resize must be one of crop, pad, stretch"),
        ({"background": "whitish"}, "background must be a colour"),
        ({"channels": 4}, "channels must be 1 or 3"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Preparation(4, 4, **wrong)
    for size in (0, [4], [4, 0], [4, 4, 4]):
        with pytest.raises(ConfigError, match="size must be positive"):
            ImageFolder("pics", size)
    assert ImageFolder("pics", [20, 28]).shape == (3, 20, 28)


@pytest.mark.parametrize("memory", [1.0, 0.0], ids=["in memory", "on the fly"])
def test_broken_files_are_counted_and_named_or_left_out(tmp_path: Path, memory: float) -> None:
    fill(tmp_path, 12)
    os.truncate(tmp_path / "g3.png", 40)
    (tmp_path / "g5.png").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "photo.heic").write_bytes(b"....ftypheic")
    with pytest.raises(DataError, match=r"1 pictures are in formats that are not read, such as .*photo.heic"):
        ImageFolder(str(tmp_path), 4, memory=memory).split("train")
    (tmp_path / "photo.heic").unlink()
    with pytest.raises(DataError, match=r"of 11 files cannot be read as pictures: .* with --data\.skip true"):
        [list(ImageFolder(str(tmp_path), 4, memory=memory).split(s)[0]) for s in SPLITS]
    kept = ImageFolder(str(tmp_path), 4, memory=memory, skip=True)
    x = torch.cat([kept.split(s)[0][torch.arange(len(kept.split(s)[0]))] for s in SPLITS])
    assert len(x) == 10 and x.flatten(2).float().std(2).max() == 0  # nothing half decoded


def test_pictures_over_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 6)
    for limit in (30, 10):  # Pillow warns of the one and refuses the other
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for memory in (1.0, 0.0):
            with pytest.raises(DataError, match=r"4 of 4 files cannot be read .* Pillow's limit"):
                ImageFolder(str(tmp_path), 4, memory=memory).split("train")


# -- larger than memory ------------------------------------------------------------------------------------------------


def _numbered(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i:03}.png")
    return folder


def test_decoding_on_the_fly_changes_no_bit(tmp_path: Path) -> None:
    folder = str(_numbered(tmp_path / "pics", 40))
    whole = ImageFolder(folder, 6, batch_size=8, augment="flip,crop:2")
    lazy = ImageFolder(folder, 6, batch_size=8, augment="flip,crop:2", memory=0, workers=3)
    assert whole.in_memory and not lazy.in_memory
    assert all(whole.digest(s) == lazy.digest(s) for s in SPLITS)
    a, b = (data.train_dataloader() for data in (whole, lazy))
    first = [x for _ in range(3) for x, _ in a]
    again = [x for _ in range(3) for x, _ in b]
    assert len(first) == 12 and all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    for step in (0, 1, 5, 11):  # goes on from any step, in the middle of an epoch too
        later = lazy.train_dataloader()
        later.load_state_dict({"step": step})
        assert torch.equal(next(iter(later))[0], first[step])
    for split in ("validation", "test"):
        (x, _), (y, _) = (next(iter(data._sequential(split))) for data in (whole, lazy))
        assert torch.equal(x, y)
    floats = lazy.to_float(lazy.split("train")[0])
    assert torch.equal(torch.cat(list(floats.split(5))), whole.to_float(whole.split("train")[0]))
    assert torch.equal(lazy.split("train")[0][3:7], whole.split("train")[0][3:7])
    assert ImageFolder(folder, 6, memory=0, limit=5).split("train")[0].shape == (5, 3, 6, 6)


def test_ranks_share_what_is_decoded(tmp_path: Path) -> None:
    data = ImageFolder(str(_numbered(tmp_path / "pics", 20)), 6, memory=0).split("train")
    alone = [x for x, _ in BatchStream(data, 4, seed=1)]
    ranks = [[x for x, _ in BatchStream(data, 2, seed=1, rank=r, world=2)] for r in (0, 1)]
    assert all(torch.equal(a, torch.cat(halves)) for a, *halves in zip(alone, *ranks, strict=True))


def test_a_picture_that_breaks_while_training_is_named(tmp_path: Path) -> None:
    data = ImageFolder(str(_numbered(tmp_path / "pics", 10)), 6, memory=0, batch_size=4)
    stream = data.train_dataloader()
    for path in (tmp_path / "pics").iterdir():
        os.truncate(path, 60)
    with pytest.raises(DataError, match=r"\.png cannot be read as a picture \(.*--data\.skip true"):
        next(iter(stream))


def test_imagenet_takes_its_validation_pictures_for_the_test(tmp_path: Path) -> None:
    for split, n in (("train", 6), ("val", 2)):
        for name in ("n01", "n02"):
            fill(tmp_path / split / name, n)
    data = ImageNet64(str(tmp_path), validation=2)
    assert [len(data.split(s)[0]) for s in SPLITS] == [10, 2, 4] and data.shape == (3, 64, 64)
    assert data.class_names == ("n01", "n02")
    with pytest.raises(DataError, match="does not exist"):
        ImageNet64(str(tmp_path / "none")).split("train")
    with pytest.raises(DataError, match="must hold train and val"):
        ImageNet64(str(tmp_path / "train")).split("train")


# -- runs --------------------------------------------------------------------------------------------------------------


def _entry(folder: Path, steps: int) -> dict[str, Any]:
    mlp = "zoo.nets.mlp.MLP"
    args = {
        "encoder": {"class_path": mlp, "init_args": {"features": [108, 8]}},
        "decoder": {"class_path": mlp, "init_args": {"features": [4, 108]}},
        "shape": [3, 6, 6], "latent_dim": 4, "likelihood": "discretized_logistic", "scale": "shared",
    }  # fmt: skip
    how = {"folder": str(folder), "size": 6, "batch_size": 4, "memory": 0.0, "augment": "flip,crop:1"}
    return {
        "name": "vae-pics",
        "model": {"class_path": "zoo.families.vae.VAE", "init_args": args},
        "data": {"class_path": "zoo.data.folder.ImageFolder", "init_args": how},
        "trainer": {"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False},
        "training": {"checkpoint_every": 5, "sample_every": 0, "log_every": 1},
    }


def test_a_run_that_decodes_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    folder = _numbered(tmp_path / "pics", 40)  # eight batches an epoch
    whole = fit(_entry(folder, 13), folder=tmp_path / "whole")
    fit(_entry(folder, 5), folder=tmp_path / "stopped")
    resumed = fit(_entry(folder, 13), folder=tmp_path / "stopped", resume=True)
    a, b = (load_run(run).state_dict() for run in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_five_thousand_pictures_train_within_a_gibibyte(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "picture_loading.py"
    if not script.is_file():
        pytest.skip("the tests were copied out of their checkout")
    spec = importlib.util.spec_from_file_location("picture_loading", script)
    loading = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(loading)  # type: ignore[union-attr]
    loading.make_pictures(tmp_path / "few", 50, 256)
    loading.make_pictures(tmp_path / "pics", 5_000, 256)
    common = {"folder": str(tmp_path / "pics"), "side": 256, "steps": 20, "limit": None}
    small = loading.train(**{**common, "folder": str(tmp_path / "few"), "steps": 2}, run=str(tmp_path / "small"))
    whole = loading.train(**common, run=str(tmp_path / "whole"))
    assert whole["peak"] - small["peak"] < 2**30 and whole["peak"] > 2**28
    loading.train(**common, run=str(tmp_path / "stopped"), stop=12)
    assert loading.train(**common, run=str(tmp_path / "stopped"), resume=True)["weights"] == whole["weights"]


def test_evaluations_read_what_is_decoded_on_the_fly(tmp_path: Path) -> None:
    folder = _numbered(tmp_path / "pics", 60)
    model = load_run(fit(_entry(folder, 1), folder=tmp_path / "run"))
    torch.manual_seed(0)
    extractor = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 12))
    how = {"extractor": extractor, "samples": 24, "batch_size": 12, "weights_sha256": "0" * 64, "progress": False}
    whole, lazy = (measure(model, ImageFolder(str(folder), 6, memory=m, test=0.2), **how) for m in (1.0, 0.0))
    assert whole.metrics == lazy.metrics and whole.floor == lazy.floor and whole.data == lazy.data
    assert {"fid", "kid", "nearest_ratio", "bits_per_dim"} <= set(whole.metrics) and whole.floor
    assert whole.data.split == "test" and whole.data.examples == 12 and whole.flags[-1] == "small_split"
    shares = {"validation": 0.1, "test": 0.2}
    assert whole.protocol.preparation == {"resize": "crop", "background": "white", "held_out": shares}
    fewer = measure(model, ImageFolder(str(folder), 6, memory=0), **how)
    assert "fid" not in fewer.metrics and "kid" in fewer.metrics  # six test pictures, twelve features
