"""Data: splits that are fixed, streams that are a function of the step, and errors that name the folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from zoo.data.base import BatchStream, SequentialBatches, derive_seed
from zoo.data.folder import ImageFolder, data_root
from zoo.data.mnist import MNIST, BinaryMNIST, ThresholdMNIST, read_mnist, split_indices
from zoo.data.torchvision import CIFAR10, FashionMNIST
from zoo.data.toys import EightGaussians, Moons
from zoo.errors import ConfigError, DataError


def _sha(x: torch.Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def test_mnist_is_the_original() -> None:
    """Its published mean and deviation of x / 255, and the counts of its labels."""
    images, labels = read_mnist("train")
    assert images.shape == (60_000, 1, 28, 28) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    x = images.double() / 255
    assert abs(x.mean().item() - 0.13066) < 1e-5 and abs(x.std().item() - 0.30811) < 1e-5
    assert read_mnist("t10k")[0].shape == (10_000, 1, 28, 28)
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_the_split_is_disjoint_and_always_the_same() -> None:
    train, validation = split_indices()
    assert len(train) == 55_000 and len(validation) == 5_000
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(60_000))
    assert _sha(validation) == "e1f4a1de3b6a574559c71f58127c0e23a9a9e561a4af7313a16d3af3810e80a8"
    data = MNIST()
    assert [len(data.split(s)[0]) for s in ("train", "validation", "test")] == [55_000, 5_000, 10_000]
    with pytest.raises(DataError, match="no split 'tset'"):
        data.split("tset")


def test_binary_sets_have_one_meaning_each() -> None:
    dynamic, threshold, grey = BinaryMNIST(batch_size=64), ThresholdMNIST(), MNIST()
    assert set(dynamic.split("test")[0].unique().tolist()) == {0, 1}
    assert dynamic.digest("test") == "cff51dfc641a7dd6ab0ec75f1e0af4796833c8552e49ce15bbdcf449b68d4ee4"
    assert grey.digest("test") == "a0863a96c44e5666edbb30c4071ee79ca0514c621e6349c5967fc78e7305c891"
    assert torch.equal(threshold.split("test")[0], (grey.split("test")[0] > 127).to(torch.uint8))
    first, second = (next(iter(dynamic.train_dataloader()))[0] for _ in range(2))
    assert torch.equal(first, second)  # the same step of the same seed
    stream = dynamic.train_dataloader()
    drawn = torch.cat([x for x, _ in stream]).float().mean().item()
    assert abs(drawn - (grey.split("train")[0].double() / 255).mean().item()) < 1e-3


def test_a_pixel_is_one_with_the_probability_of_its_grey_level() -> None:
    from zoo.data.mnist import _bernoulli

    grey = torch.tensor([0, 1, 64, 128, 254, 255], dtype=torch.uint8).repeat(200_000, 1)
    drawn = _bernoulli(grey, torch.Generator().manual_seed(0)).double().mean(0)
    p = grey[0].double() / 255
    assert ((drawn - p).abs() <= 5 * (p * (1 - p) / 200_000).sqrt()).all()


@pytest.mark.parametrize("step", [0, 3, 7, 12])
def test_a_stream_goes_on_from_any_step(step: int) -> None:
    data = torch.arange(40), torch.arange(40)
    whole = BatchStream(data, 8, seed=3)
    batches = [x for _ in range(4) for x, _ in whole]
    assert len(whole) == 5 and len(batches) == 20
    later = BatchStream(data, 8, seed=3)
    later.load_state_dict({"step": step})
    rest = [x for x, _ in later]
    assert len(rest) == 5 - step % 5
    assert all(torch.equal(a, b) for a, b in zip(rest, batches[step:], strict=False))
    for epoch in range(4):
        seen = torch.cat(batches[5 * epoch : 5 * epoch + 5]).sort().values
        assert torch.equal(seen, torch.arange(40))
    assert not torch.equal(torch.cat(batches[:5]), torch.cat(batches[5:10]))


def test_ranks_share_the_batches_of_one_process() -> None:
    data = torch.arange(48), torch.arange(48)
    alone = [x for x, _ in BatchStream(data, 8, seed=0)]
    ranks = [[x for x, _ in BatchStream(data, 4, seed=0, rank=r, world=2)] for r in (0, 1)]
    assert all(torch.equal(a, torch.cat(halves)) for a, *halves in zip(alone, *ranks, strict=True))


@pytest.mark.parametrize(("n", "world"), [(48, 2), (48, 1), (6, 4), (5, 2), (4, 4), (9, 2)])
def test_every_rank_has_a_batch_of_a_small_split_and_no_example_comes_twice(n: int, world: int) -> None:
    ranks = [list(SequentialBatches((torch.arange(n), torch.arange(n)), 5, rank=r, world=world)) for r in range(world)]
    assert all(ranks)
    whole = torch.cat([x for batches in ranks for x, _ in batches])
    assert torch.equal(whole.sort().values, torch.arange(n))


def test_a_split_too_small_for_all_ranks_is_refused() -> None:
    from types import SimpleNamespace

    data = MNIST(limit=4)
    data.split("validation")
    data._splits["validation"] = tuple(part[:1] for part in data._splits["validation"])  # type: ignore[assignment]
    data.trainer = SimpleNamespace(global_rank=1, world_size=2, strategy=SimpleNamespace(root_device=None))  # type: ignore[assignment]
    with pytest.raises(DataError, match="validation split of mnist has 1 examples, too few for 2 devices"):
        data.val_dataloader()


def test_levels_become_numbers_once() -> None:
    x = MNIST().to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert torch.equal(x, torch.tensor([0, 51, 255]) / 255) and x.dtype == torch.float32
    assert MNIST().to_float(torch.tensor([255], dtype=torch.uint8), torch.float64).dtype == torch.float64


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(DataError, match="needs 100 training examples, the data have 50"):
        MNIST(batch_size=100, limit=50).train_dataloader()
    with pytest.raises(ConfigError, match="at least 1"):
        MNIST(batch_size=0)


def test_toys_have_their_moments() -> None:
    gaussians = EightGaussians()
    x, labels = gaussians.split("train")
    assert (x - gaussians.centres()[labels]).std().item() == pytest.approx(0.1, rel=0.03)
    assert x.norm(dim=1).mean().item() == pytest.approx(2.0, abs=0.01)
    x, labels = Moons().split("test")
    assert len(x) == 5_000 and (x[labels == 0][:, 1].mean() > x[labels == 1][:, 1].mean())


def test_seeds_differ() -> None:
    seeds = {derive_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds)


def _picture(path: Path, grey: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (grey, grey, grey)).save(path)


def test_any_folder_of_images(tmp_path: Path) -> None:
    for i in range(20):
        _picture(tmp_path / "pics" / ("cat" if i % 2 else "dog") / f"{i}.png", i)
    data = ImageFolder(str(tmp_path / "pics"), size=16, channels=1, batch_size=4)
    parts = [data.split(s)[0] for s in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [16, 2, 2] and data.num_classes == 2
    assert parts[0].shape[1:] == (1, 16, 16) == data.shape
    values = torch.cat(parts).flatten(1)[:, 0].sort().values
    assert values.tolist() == list(range(20))  # each image in exactly one split
    assert ImageFolder(str(tmp_path / "pics"), size=8, channels=3).split("test")[0].shape == (2, 3, 8, 8)


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=str(tmp_path / "nowhere")):
        ImageFolder(str(tmp_path / "nowhere")).split("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        ImageFolder(str(tmp_path / "empty")).split("train")
    for i in range(12):
        (tmp_path / "empty" / f"{i}.png").write_text("not a picture")
    with pytest.raises(DataError, match="cannot be read as pictures"):
        ImageFolder(str(tmp_path / "empty")).split("train")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    assert data_root() == tmp_path / "data"
    for kind in (FashionMNIST, CIFAR10):
        monkeypatch.setattr(f"torchvision.datasets.{kind.title}.download", _no_network)
        with pytest.raises(DataError, match=str(tmp_path / "data")):
            kind().split("train")


def _no_network(self: object) -> None:
    raise OSError("no network")
