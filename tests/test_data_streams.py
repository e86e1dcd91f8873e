"""Tables and streams through their own libraries: the same pictures, in an order that any run can go on from."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from zoo.data.folder import ImageFolder
from zoo.data.streams import Record, ShuffledStream, StreamRows, shuffled
from zoo.errors import ConfigError, DataError

SPLITS = ("train", "validation", "test")


def png(i: int) -> bytes:
    """Return a picture of 4 x 4 whose pixels all are i."""
    stream = io.BytesIO()
    Image.new("L", (4, 4), i).save(stream, "png")
    return stream.getvalue()


def records(n: int) -> list[Record]:
    return [(bytes([i]), i % 3, str(i)) for i in range(n)]


def decode(record: Record) -> Tensor:
    return torch.full((1, 1, 1), record[0][0], dtype=torch.uint8)


def stream(n: int, batch: int, **how: Any) -> ShuffledStream:
    rows = StreamRows(n, (1, 1, 1), lambda: iter(records(n)), decode)
    return ShuffledStream(rows, lambda seed: iter(records(n)), batch, **{"seed": 3, "buffer": 8, **how})


def batches(data: Any, epochs: int = 1) -> list[list[int]]:
    return [x.flatten().tolist() for _ in range(epochs) for x, _ in data]


def test_a_buffer_shuffles_everything_once() -> None:
    drawn = [[int(r[2]) for r in shuffled(iter(records(40)), 8, torch.Generator().manual_seed(s))] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and sorted(drawn[0]) == list(range(40)) != drawn[0]
    assert all(value <= place + 8 for place, value in enumerate(drawn[0]))  # none comes before it is in the buffer
    assert [int(r[2]) for r in shuffled(iter(records(5)), 1, torch.Generator())] == list(range(5))


def test_a_stream_goes_on_from_any_step_and_ranks_share_it() -> None:
    whole = batches(stream(42, 4), 3)
    assert len(whole) == 30 and all(
        len({i for batch in whole[10 * e : 10 * e + 10] for i in batch}) == 40 for e in range(3)
    )
    assert whole[:10] != whole[10:20]
    for step in (0, 3, 10, 17):
        later = stream(42, 4)
        later.load_state_dict({"step": step})
        assert batches(later) == whole[step : 10 * (step // 10 + 1)]
    halves = [batches(stream(42, 2, rank=r, world=2), 3) for r in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    labels = [y.tolist() for _, y in stream(42, 4)]
    assert labels == [[i % 3 for i in batch] for batch in whole[:10]]
    with pytest.raises(DataError, match="needs 50 training examples, the stream has 42"):
        stream(42, 50)


def test_rows_of_a_stream_are_read_in_any_order() -> None:
    rows = StreamRows(20, (1, 1, 1), lambda: iter(records(20)), decode)
    assert rows.index_select(0, torch.tensor([7, 2, 7, 19])).flatten().tolist() == [7, 2, 7, 19]
    assert torch.cat(list(rows.split(6))).flatten().tolist() == list(range(20))
    assert rows[5:8].flatten().tolist() == [5, 6, 7] and rows[-1].item() == 19
    some = rows.chosen([4, 1, 9]).mapped(lambda x: x.float() / 2, torch.float32)
    assert torch.cat(list(some.split(2))).flatten().tolist() == [2.0, 0.5, 4.5]
    assert rows.first(3).shape == (3, 1, 1, 1) and [int(x) for x in rows.first(3)] == [0, 1, 2]


# -- WebDataset --------------------------------------------------------------------------------------------------------


def shard(path: Path, numbers: range, label: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for i in numbers:
            for name, content in ((f"{i:04}.png", png(i)), *([(f"{i:04}.cls", str(i % 3).encode())] if label else [])):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def shards(folder: Path) -> Path:
    for k in range(3):
        shard(folder / f"train-{k:03}.tar", range(10 * k, 10 * k + 10))
    shard(folder / "val-000.tar", range(30, 34))
    shard(folder / "test-000.tar", range(40, 45))
    (folder / "classes.txt").write_text("cat\ndog\neel\n")
    return folder


@pytest.fixture
def web() -> Any:
    pytest.importorskip("webdataset", reason="the extra webdataset is not installed")
    from zoo.data.webdataset import WebDatasetImages

    return WebDatasetImages


def test_tar_shards(web: Any, tmp_path: Path) -> None:
    data = web(str(shards(tmp_path / "shards")), 4, 1, batch_size=5, buffer=4)
    assert data.num_classes == 3 and data.class_names == ("cat", "dog", "eel")
    assert data.split("validation")[0][:, 0, 0, 0].tolist() == [30, 31, 32, 33]
    assert data.split("test")[1].tolist() == [i % 3 for i in range(40, 45)]
    seen = [(x[:, 0, 0, 0].tolist(), y.tolist()) for _ in range(2) for x, y in data.train_dataloader()]
    assert len(seen) == 12
    numbers = [i for x, _ in seen[:6] for i in x]
    assert sorted(numbers) == list(range(30)) and all(y == [i % 3 for i in x] for x, y in seen)
    firsts = [[i // 10 for i in numbers].index(k) for k in range(3)]
    assert sorted(firsts) != [0, 1, 2]  # shards follow each other, in another order
    later = data.train_dataloader()
    later.step = 4
    assert [x[:, 0, 0, 0].tolist() for x, _ in later] == [x for x, _ in seen[4:6]]
    x = data.split("train")[0]
    assert x.shape == (30, 1, 4, 4) and x[:3].flatten(1)[:, 0].tolist() == [0, 1, 2]


def test_shards_that_cannot_be_read(web: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        web(str(tmp_path / "none")).split("train")
    folder = shards(tmp_path / "shards")
    (folder / "test-000.tar").rename(folder / "more-000.tar")
    with pytest.raises(DataError, match="has no shards for test; name them"):
        web(str(folder)).split("train")
    (folder / "test-000.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match=r"test-000\.tar cannot be read as a tar file"):
        web(str(folder)).split("train")
    with tarfile.open(folder / "test-000.tar", "w") as archive:
        for name, content in (("a.png", b"no picture"), ("a.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"a in .*test-000\.tar cannot be read as a picture"):
        web(str(folder), 4, 1).split("test")
    with pytest.raises(DataError, match="the validation split of webdataset has 4 pictures, which take"):
        web(str(folder), 4, 1, memory=0).split("validation")
    (folder / "classes.txt").write_text("cat\ncat\neel\n")
    with pytest.raises(DataError, match="class_names must be 3 different names"):
        _ = web(str(folder)).class_names


# -- Hugging Face ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def table(datasets: Any, n: int, names: bool = True) -> Any:
    label = datasets.ClassLabel(names=["cat", "dog", "eel"]) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label, "kind": datasets.Value("string")})
    rows = [{"image": {"bytes": png(i), "path": None}, "label": i % 3, "kind": "ba"[i % 2]} for i in range(n)]
    return datasets.Dataset.from_list(rows, features=features)


def test_tables_are_read_by_rows(hub: Any, tmp_path: Path) -> None:
    from zoo.data.hugging_face import HuggingFaceImages

    table(hub, 20).to_parquet(tmp_path / "t.parquet")
    hub.DatasetDict({"train": table(hub, 20), "test": table(hub, 4)}).save_to_disk(tmp_path / "saved")
    path = str(tmp_path / "t.parquet")
    whole, lazy = (HuggingFaceImages(path, label="label", size=4, channels=1, batch_size=4, memory=m) for m in (1, 0))
    assert whole.in_memory and not lazy.in_memory and [len(whole.split(s)[0]) for s in SPLITS] == [16, 2, 2]
    assert all(whole.digest(s) == lazy.digest(s) for s in SPLITS)
    for data in (whole, lazy):
        pairs = [(int(x[0, 0, 0]), int(y)) for xs, ys in data.train_dataloader() for x, y in zip(xs, ys, strict=True)]
        assert all(y == x % 3 for x, y in pairs) and len(pairs) == 16
    assert batches(whole.train_dataloader()) == batches(lazy.train_dataloader())
    saved = HuggingFaceImages(str(tmp_path / "saved"), label="kind", size=4, channels=1)
    assert saved.class_names == ("a", "b") and [len(saved.split(s)[0]) for s in SPLITS] == [18, 2, 4]
    assert saved.split("test")[1].tolist() == [1, 0, 1, 0]
    with pytest.raises(ConfigError, match=r"--data\.test"):
        HuggingFaceImages(str(tmp_path / "saved"), test=0.2).split("train")
    with pytest.raises(ConfigError, match=r"has no column 'imag'.*image.*--data\.image"):
        HuggingFaceImages(path, image="imag").split("train")
    with pytest.raises(ConfigError, match=r"column 'label' of .* holds no pictures"):
        HuggingFaceImages(path, image="label").split("train")
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(DataError, match=r"none of \.parquet"):
        HuggingFaceImages(str(tmp_path / "t.txt")).split("train")


def test_a_table_equals_the_folder_it_was_made_from(hub: Any, tmp_path: Path) -> None:
    from zoo.data.hugging_face import HuggingFaceImages

    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 6, 4), dtype=np.uint8)
        (tmp_path / "pics" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pics" / "ab"[i % 2] / f"{i}.png")
    folder = ImageFolder(str(tmp_path / "pics"), 5, background="black")
    read = HuggingFaceImages(str(tmp_path / "pics"), label="label", size=5, background="black")
    assert read.class_names == folder.class_names == ("a", "b")
    x, y = (torch.cat([data.split(s)[0] for s in SPLITS]).flatten(1).double().sum(1) for data in (folder, read))
    assert torch.equal(x.sort().values, y.sort().values)


def test_streams_of_tables(hub: Any, tmp_path: Path) -> None:
    from zoo.data.hugging_face_stream import HuggingFaceStream

    table(hub, 30).to_parquet(tmp_path / "t.parquet")
    how = {"label": "label", "size": 4, "channels": 1, "batch_size": 4, "buffer": 6, "validation": 3, "test": 2}
    data = HuggingFaceStream(str(tmp_path / "t.parquet"), **how)
    assert data.class_names == ("cat", "dog", "eel") and data.num_classes == 3
    assert data.split("test")[0][:, 0, 0, 0].tolist() == [0, 1]
    assert data.split("validation")[1].tolist() == [2, 0, 1]
    stream = data.train_dataloader()
    seen = [(x[:, 0, 0, 0].tolist(), y.tolist()) for _ in range(2) for x, y in stream]
    assert len(seen) == 12 and all(y == [i % 3 for i in x] for x, y in seen)
    epoch = list(itertools.chain.from_iterable(x for x, _ in seen[:6]))
    assert len(set(epoch)) == 24 and min(epoch) >= 5 and [x for x, _ in seen[:6]] != [x for x, _ in seen[6:]]
    later = data.train_dataloader()
    later.step = 8
    assert [x[:, 0, 0, 0].tolist() for x, _ in later] == [x for x, _ in seen[8:]]
    with pytest.raises(ConfigError, match="does not state the classes of its column 'kind'"):
        _ = HuggingFaceStream(str(tmp_path / "t.parquet"), **{**how, "label": "kind"}).class_names
    with pytest.raises(DataError, match="has no training rows beside the 31"):
        HuggingFaceStream(str(tmp_path / "t.parquet"), **{**how, "validation": 29}).split("train")
    short = HuggingFaceStream(str(tmp_path / "t.parquet"), **how, examples=40)
    with pytest.raises(DataError, match="ended after 25 rows, 35 were expected"):
        list(short.train_dataloader())
