"""Colour sets, embedded and from their authors' files: the right pictures, labels and splits; augmentations of any."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.celeba import CelebA
from zoo.data.images import ImageData, crop, flip, flip_vertical, parse_augment
from zoo.data.mnist import MNIST, BinaryMNIST
from zoo.data.tiles import CLASSES, NEAR, Tiles, composited, nearness, read_tiles
from zoo.data.torchvision import CIFAR10, SVHN, FashionMNIST
from zoo.errors import ConfigError, DataError

SPLITS = ("train", "validation", "test")


def test_tiles_keep_near_duplicates_on_one_side() -> None:
    data = Tiles()
    sizes = {s: data.split(s)[1].bincount(minlength=3).tolist() for s in SPLITS}
    assert sizes == {"train": [555, 501, 653], "validation": [70, 62, 82], "test": [70, 62, 82]}
    assert data.class_names == CLASSES == ("mon", "item", "player") and data.shape == (3, 32, 32)
    assert data.digest("test") == "fc1e8de3f8bdd6ce06c7ee478b0d7ac1b4b64ab5645d4cb72c6095c399b6c055"
    x, _, split, names = read_tiles()
    assert len(set(names)) == len(x) == 2137
    near = nearness(x) < NEAR
    assert near.sum() > 5000 and not (near & (split[:, None] != split)).any()
    assert x[:, :, 0, 0].float().mean() > 200  # on white


def test_tiles_are_composited_to_the_nearest_level() -> None:
    rgba = np.zeros((1, 1, 4, 4), np.uint8)
    rgba[0, 0, :, 0], rgba[0, 0, :, 3] = 100, [0, 51, 128, 255]
    assert composited(rgba)[0, :, 0].T.tolist() == [[255] * 3, [224, 204, 204], [177, 127, 127], [100, 0, 0]]


def test_cifar10_reads_the_binary_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (6, 1200, 3073), dtype=np.uint8)
    rows[:, :, 0] %= 10
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, part in zip(names, rows, strict=True):
        (folder / name).write_bytes(part.tobytes())
    with pytest.raises(DataError, match=r"test_batch\.bin is damaged or another file"):
        CIFAR10(str(tmp_path)).split("test")
    md5 = {n: hashlib.md5(p.tobytes()).hexdigest() for n, p in zip(names, rows, strict=True)}
    monkeypatch.setattr(CIFAR10, "_MD5", md5)
    data = CIFAR10(str(tmp_path))
    x, y = data.split("test")
    assert torch.equal(y, torch.from_numpy(rows[5, :, 0].astype(np.int64))) and x.shape == (1200, 3, 32, 32)
    assert x[7, 2, 3, 4] == rows[5, 7, 1 + 2 * 1024 + 3 * 32 + 4] and data.class_names[6] == "frog"
    assert [len(data.split(s)[0]) for s in SPLITS] == [1000, 5000, 1200]
    assert torch.equal(CIFAR10(str(folder)).split("test")[0], x)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin cannot be read"):
        CIFAR10(str(tmp_path)).split("train")


def test_fashion_mnist_finds_the_files_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.randint(256, (7, 28, 28)).to(torch.uint8), torch.arange(7).to(torch.uint8)
    content = {
        f"t10k-{what}-ubyte.gz": bytes([0, 0, 8, x.ndim])
        + b"".join(n.to_bytes(4, "big") for n in x.shape)
        + bytes(x.numpy())
        for what, x in (("images-idx3", images), ("labels-idx1", labels))
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(gzip.compress(data))
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path)
    with pytest.raises(DataError, match="its MD5 is not that of the data set"):
        FashionMNIST(str(tmp_path / "none")).split("test")
    monkeypatch.setattr(FashionMNIST, "_MD5", {n: hashlib.md5(d).hexdigest() for n, d in content.items()})
    x, y = FashionMNIST(str(tmp_path / "none")).split("test")
    assert torch.equal(x[:, 0], images) and torch.equal(y, labels.long()) and FashionMNIST.class_names[5] == "sandal"


def test_svhn_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    scipy_io.savemat(tmp_path / "test_32x32.mat", {"X": x, "y": np.array([[1], [10], [3], [9]], np.uint8)})
    monkeypatch.setattr("torchvision.datasets.SVHN._check_integrity", lambda self: True)
    found, labels = SVHN(str(tmp_path)).split("test")
    assert torch.equal(found, torch.from_numpy(x.transpose(3, 2, 0, 1).copy())) and labels.tolist() == [1, 0, 3, 9]


def celeba(root: Path) -> Path:
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(1, 9)]
    for i, name in enumerate(names):
        pixels = np.zeros((218, 178, 3), np.uint8)
        pixels[35:183, 15:163] = 20 * i + 20  # the square in the middle
        Image.fromarray(pixels).save(folder / name, quality=95)
    parts = "".join(f"{n} {k}\n" for n, k in zip(names, [0, 0, 0, 0, 1, 1, 2, 2], strict=True))
    (root / "celeba" / "list_eval_partition.txt").write_text(parts)
    rows = "".join(f"{n} {1 if i % 2 else -1}  -1\n" for i, n in enumerate(names))
    (root / "celeba" / "list_attr_celeba.txt").write_text(f"8\nSmiling Young\n{rows}")
    return folder


@pytest.mark.parametrize("memory", [1.0, 0.0])
def test_celeba_has_its_official_partition(tmp_path: Path, memory: float) -> None:
    folder = celeba(tmp_path)
    data = CelebA(str(tmp_path), 16, attribute="Smiling", memory=memory)
    assert [len(data.split(s)[0]) for s in SPLITS] == [4, 2, 2] and data.class_names == ("not Smiling", "Smiling")
    x, y = data.split("test")
    grey = x[torch.tensor([0, 1])].flatten(1).float()
    assert y.tolist() == [0, 1] and (grey - torch.tensor([[140.0], [160.0]])).abs().max() < 3
    with pytest.raises(ConfigError, match=r"no attribute 'Smilin'.*Smiling"):
        _ = CelebA(str(tmp_path), attribute="Smilin").split("train")
    with zipfile.ZipFile(tmp_path / "celeba" / "img_align_celeba.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
            path.unlink()
    folder.rmdir()
    packed = CelebA(str(tmp_path), 16)
    assert torch.equal(packed.split("test")[0].flatten(1).float(), grey) and packed.num_classes == 0
    with pytest.raises(DataError, match=r"celeba is not in .*none/celeba; put img_align_celeba"):
        CelebA(str(tmp_path / "none")).split("train")


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_augmentations_move_whole_pictures() -> None:
    x = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5).repeat(200, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    for function, mirrored in ((flip, x.flip(3)), (flip_vertical, x.flip(2))):
        y = function(x, generator)
        turned = (y == mirrored).flatten(1).all(1)
        assert bool((turned | (y == x).flatten(1).all(1)).all()) and 140 < turned.sum() < 260
    y = crop(x, generator, 2)
    padded = torch.nn.functional.pad(x.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    windows = padded.unfold(2, 4, 1).unfold(3, 5, 1).permute(2, 3, 0, 1, 4, 5).flatten(0, 1)  # (25, B, C, H, W)
    which = (windows == y).flatten(2).all(2)
    assert bool(which.any(0).all()) and bool(which.any(1).all())  # each a window, and each window comes


def test_augmentations_have_names() -> None:
    assert parse_augment("flip, crop:4", (3, 32, 32)) == [("flip", None), ("crop", 4)]
    assert parse_augment("crop", (3, 32, 48)) == [("crop", 4)]
    for text, sentence in (
        ("flop", "no augmentation 'flop'.*flip"),
        ("flip,flip", "'flip' is asked for twice"),
        ("flip:2", "only crop takes a number"),
        ("crop:0", "from 1 to 31"),
        ("crop:99", "from 1 to 31"),
        ("", "there is no augmentation ''"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Tiles(augment=text)


@pytest.mark.parametrize("kind", [Tiles, MNIST, BinaryMNIST])
def test_only_training_batches_are_augmented_and_alike_after_a_resume(kind: type[ImageData]) -> None:
    plain, data = kind(batch_size=32, limit=320), kind(batch_size=32, limit=320, augment="flip,crop:3")
    assert data.preparation == {"augment": "flip,crop:3"} and plain.preparation == {}
    assert plain.digest("test") == data.digest("test")
    first = [x for x, _ in data.train_dataloader()]
    assert len(first) == 10
    later = data.train_dataloader()
    later.load_state_dict({"step": 7})
    assert torch.equal(next(iter(later))[0], first[7])
    a, b = next(iter(plain.train_dataloader()))[0], first[0]
    assert not torch.equal(a, b) and set(b.unique().tolist()) <= ({0, 1} if kind is BinaryMNIST else set(range(256)))
