"""Saved folders: what is written comes back equal, and whatever is wrong with one ends in one clear error."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hub_cases import NAME, PNG, RESULTS, contents, equal, registry, tiny, tiny_folder
from huggingface_hub import ModelCard
from safetensors.torch import save
from torch import nn

import zoo
from zoo import errors
from zoo.hub import build_card, load_pretrained, merge_card, save_pretrained, verify
from zoo.hub.card_blocks import join_cards, metadata
from zoo.hub.layout import MIGRATIONS, sha256, sums_text
from zoo.spec import Recorded


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_REGISTRY", str(registry(tmp_path / "registry.yaml")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "model")


def resum(folder: Path) -> None:
    """Make every record agree with the files as they are now."""
    config = json.loads((folder / "config.json").read_text())
    config["weights"]["sha256"] = sha256((folder / "model.safetensors").read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "SHA256SUMS").write_text(sums_text(contents(folder)))


# -- what is written comes back ---------------------------------------------------------------------------------------


def test_round_trip_keeps_weights_samples_types_and_facts(folder: Path) -> None:
    model, loaded = tiny(), load_pretrained(folder)
    assert equal(model, loaded)
    assert loaded.spec == model.spec and not loaded.training
    assert loaded.source.kind == "folder" and loaded.source.path == str(folder)
    assert loaded.source.sha256 == sha256((folder / "model.safetensors").read_bytes())
    assert load_pretrained(folder, dtype=torch.float64).dtype == torch.float64
    for wrong in ({"device": "abacus"}, {"dtype": torch.int32}, {"dtype": "float64"}, {"device": "cuda:77"}):
        with pytest.raises(errors.ConfigError, match="cannot be put on"):
            load_pretrained(folder, **wrong)


def test_folder_holds_exactly_the_files_that_are_published(folder: Path) -> None:
    assert sorted(contents(folder)) == [
        "README.md", "SHA256SUMS", "config.json", "eval.json", "model.safetensors", "samples.png"
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["zoo_format"] == 1 and config["model"] == "VAE"
    assert config["args"]["encoder"]["name"] == "MLP" and config["data"]["name"] == "BinaryMNIST"
    assert "class_path" not in (folder / "config.json").read_text()
    weights = config["weights"]
    assert weights["size"] == (folder / "model.safetensors").stat().st_size and weights["dtype"] == "float32"
    assert weights["tensors"] == len(tiny().state_dict())
    assert json.loads((folder / "eval.json").read_text()) == RESULTS
    assert verify(folder)["samples.png"] == sha256(PNG)


def test_sums_are_those_of_the_common_tool(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count(": OK") == 5


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    folders = [tiny_folder(tmp_path / f"m{i}") for i in range(8)]
    assert len({(f / "model.safetensors").read_bytes() for f in folders}) == 1
    raw = (folders[0] / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["__metadata__"] == {"format": "pt", "zoo_format": "1"}


def test_loading_leaves_the_random_stream_alone(folder: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    load_pretrained(folder)
    assert torch.equal(torch.rand(4), wanted)


class Odd(Recorded, nn.Module):
    """A tie, a buffer that is not saved, types that differ, a transposed parameter."""

    def __init__(self, features: list[int]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("ramp", torch.arange(5.0), persistent=False)
        self.register_buffer("count", torch.tensor(7))
        self.wide = nn.Parameter(torch.randn(3, 2).t())


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A model whose encoder is `Odd`, under the name that the registry knows."""
    import zoo.nets.mlp

    monkeypatch.setattr(zoo.nets.mlp, "MLP", Odd)
    Odd.__module__, Odd.__qualname__ = "zoo.nets.mlp", "MLP"
    return lambda: zoo.create(NAME)


def test_ties_buffers_and_types_survive(odd: Callable[[], Any], tmp_path: Path) -> None:
    model = odd()
    model.encoder.wide.data = model.encoder.wide.data.to(torch.bfloat16)
    model.encoder.count += 5
    save_pretrained(model, tmp_path / "m")
    loaded = load_pretrained(tmp_path / "m")
    a, b = model.encoder, loaded.encoder
    assert b.first.weight is b.second.weight and torch.equal(a.first.weight, b.first.weight)
    assert torch.equal(b.ramp, torch.arange(5.0)) and b.count.item() == 12
    assert b.wide.dtype == torch.bfloat16 and torch.equal(a.wide, b.wide)
    facts = json.loads((tmp_path / "m" / "config.json").read_text())["weights"]
    assert facts["dtype"] == "mixed" and facts["tensors"] == len(model.state_dict()) - 2  # each tie is stored once


def test_loading_is_fast(tmp_path: Path) -> None:
    folder = save_pretrained(zoo.create("pixelcnn-mnist"), tmp_path / "m")
    times = []
    for _ in range(7):
        started = time.process_time()
        load_pretrained(folder)
        times.append(time.process_time() - started)
    assert sorted(times)[3] < 0.05, f"median of {times}"


# -- writing ----------------------------------------------------------------------------------------------------------


def test_saving_refuses_an_existing_folder_and_replaces_only_a_model(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    with pytest.raises(errors.ModelFolderError, match="exists"):
        save_pretrained(tiny(1), folder)
    assert contents(folder) == before
    save_pretrained(tiny(1), folder, overwrite=True)
    assert equal(load_pretrained(folder), tiny(1))
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(errors.ModelFolderError, match=r"more than a model \(thesis.tex\)"):
        save_pretrained(tiny(2), folder, overwrite=True)
    assert (folder / "thesis.tex").exists() and equal(load_pretrained(folder), tiny(1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "registry.yaml"]  # nothing half written is left


def test_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder(tmp_path / "model")
    before = contents(folder)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    for target in (folder, tmp_path / "other"):
        with pytest.raises(errors.ModelFolderError, match="No space left"):
            save_pretrained(tiny(1), target, overwrite=True)
    assert contents(folder) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "registry.yaml"]


def test_what_is_not_plain_or_not_registered_cannot_be_saved(tmp_path: Path) -> None:
    model = tiny()
    model.__dict__["_arguments"]["encoder"] = lambda x: x
    with pytest.raises(errors.ConfigError, match="plain data"):
        save_pretrained(model, tmp_path / "m")
    with pytest.raises(errors.ResultError, match="JSON"):
        save_pretrained(tiny(), tmp_path / "m", results={"protocol": {"x": math.nan}})
    with pytest.raises(errors.ModelFolderError, match="PNG"):
        save_pretrained(tiny(), tmp_path / "m", samples=b"GIF89a")
    assert not (tmp_path / "m").exists()


# -- reading what is wrong --------------------------------------------------------------------------------------------


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    resum(folder)


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "newer": (lambda c: c.update(zoo_format=2), errors.NotAZooModelError, "newer than this zoo"),
    "other": (lambda c: c.pop("zoo_format"), errors.NotAZooModelError, "no model of the zoo"),
    "no args": (lambda c: c.pop("args"), errors.NotAZooModelError, "args"),
    "class": (lambda c: c.update(model="VEA"), errors.ConfigError, "'VEA' is not registered.*'VAE'"),
    "path": (lambda c: c.update(model="os.system"), errors.ConfigError, "not registered"),
    "import": (
        lambda c: c["args"].update(encoder={"class_path": "os.system", "init_args": {}}),
        errors.ConfigError,
        "must not name an import path",
    ),
    "argument": (lambda c: c["args"].update(latent_dims=3), errors.ConfigError, "'latent_dims'.*'latent_dim'"),
    "type": (lambda c: c["args"].update(latent_dim="two"), errors.ConfigError, "latent_dim.*int"),
    "not a model": (
        lambda c: c.update(model="MLP", args={"features": [2, 2]}),
        errors.ZooError,
        "MLP",
    ),
    "huge": (
        lambda c: c["args"]["encoder"]["args"].update(features=[784, 10**9, 4]),
        errors.WeightsMismatchError,
        "1000000000",
    ),
    "endless": (
        lambda c: c["args"]["encoder"]["args"].update(features=[1] * 50_000),
        errors.WeightsMismatchError,
        "many more than the file has",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_configuration(folder: Path, case: str) -> None:
    change, kind, text = CONFIGS[case]
    edit(folder, change)
    with pytest.raises(kind, match=text):
        load_pretrained(folder)


def test_deep_or_large_json_is_refused(folder: Path) -> None:
    for text in ("[" * 100_000, "{" + '"a":{' * 5000 + "}" * 5001, " " * (2 << 20), "\xff", "NaN", "[]"):
        (folder / "config.json").write_bytes(text.encode("latin1"))
        with pytest.raises((errors.NotAZooModelError, errors.ModelFolderError, errors.CorruptWeightsError)):
            load_pretrained(folder, verify=False)


def test_weights_that_do_not_fit_are_listed(folder: Path) -> None:
    state = {k: v.contiguous() for k, v in tiny().state_dict().items()}
    names = sorted(state)
    state["stranger"] = torch.zeros(3)
    state[names[0]] = torch.zeros(5, 5)
    for name in names[1:]:
        del state[name]
    (folder / "model.safetensors").write_bytes(save(state))
    resum(folder)
    with pytest.raises(errors.WeightsMismatchError) as caught:
        load_pretrained(folder)
    text = str(caught.value)
    assert "unexpected: stranger" in text and f"{names[0]} is [5, 5] in the file and [" in text
    assert text.count("encoder") + text.count("decoder") <= 7 and "more" not in text.split("unexpected")[1]


def test_weights_of_another_kind_of_number_do_not_fit(folder: Path) -> None:
    state = {k: v.contiguous() for k, v in tiny().state_dict().items()}
    name = sorted(state)[0]
    for kind in (torch.int32, torch.bool):
        (folder / "model.safetensors").write_bytes(save({**state, name: state[name].to(kind)}))
        resum(folder)
        with pytest.raises(errors.WeightsMismatchError, match=rf"{name} is of type (I32|BOOL) in the file and float32"):
            load_pretrained(folder)
    (folder / "model.safetensors").write_bytes(save({**state, name: state[name].half()}))
    resum(folder)
    assert load_pretrained(folder).state_dict()[name].dtype == torch.float16


def test_one_flipped_bit_is_noticed_unless_asked_not_to(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    for check in (load_pretrained, verify):
        with pytest.raises(errors.CorruptWeightsError, match=rf"model.safetensors.*{sha256(bytes(raw))}"):
            check(folder)
    assert load_pretrained(folder, verify=False).source.sha256 is None


def test_changed_configuration_is_noticed(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"latent_dim": 2', '"latent_dim": 2 '))
    with pytest.raises(errors.CorruptWeightsError, match=r"config.json.*SHA256SUMS"):
        load_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 7, 9, 60, -1])
def test_cut_weights(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(errors.CorruptWeightsError, match="damaged"):
        load_pretrained(folder)
    with pytest.raises((errors.CorruptWeightsError, errors.UnsafeWeightsError)):
        load_pretrained(folder, verify=False)


def header(tensors: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


UNSAFE: dict[str, tuple[bytes, type[Exception], str]] = {
    "pickle": (b"\x80\x04cos\nsystem\n", errors.UnsafeWeightsError, "pickle"),
    "archive": (b"PK\x03\x04" + b"\0" * 99, errors.UnsafeWeightsError, "archive"),
    "claims": (struct.pack("<Q", 1 << 62) + b"{}", errors.UnsafeWeightsError, "header claims"),
    "long": (struct.pack("<Q", (1 << 20) + 8) + b" " * ((1 << 20) + 8), errors.UnsafeWeightsError, "header claims"),
    "many": (
        header({f"{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(10_001)}),
        errors.UnsafeWeightsError,
        "10001 tensors",
    ),
    "type": (header({"a": {"dtype": "PY", "shape": [1], "data_offsets": [0, 8]}}), errors.UnsafeWeightsError, "'PY'"),
    "beyond": (
        header({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}, b"12345678"),
        errors.CorruptWeightsError,
        "ends at byte 9 of 8",
    ),
    "hole": (
        header({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, b"12345678"),
        errors.CorruptWeightsError,
        "describes 4",
    ),
    "negative": (
        header({"a": {"dtype": "U8", "shape": [-4], "data_offsets": [4, 0]}}, b"12345678"),
        errors.CorruptWeightsError,
        "malformed",
    ),
    "no json": (struct.pack("<Q", 8) + b"\xff" * 16, errors.CorruptWeightsError, "bad header"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_hostile_weights_are_never_parsed(folder: Path, case: str) -> None:
    data, kind, text = UNSAFE[case]
    (folder / "model.safetensors").write_bytes(data)
    resum(folder)
    with pytest.raises(kind, match=text):
        load_pretrained(folder)
    with pytest.raises(kind, match=text):
        verify(folder)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelFolderError, match=r"no model folder.*nowhere"):
        load_pretrained(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(errors.ModelFolderError, match=r"expected config.json and model.safetensors, found.*notes.txt"):
        load_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(errors.UnsafeWeightsError, match=r"pytorch_model.bin.*safetensors only"):
        load_pretrained(tmp_path)


# -- cards ------------------------------------------------------------------------------------------------------------


def test_card_parses_back_with_its_results(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    card = ModelCard(text)
    results = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert results == {"fid": 12.5, "bits_per_dim": 1.5} and card.data.model_name == NAME
    assert {r.dataset_name for r in card.data.eval_results} == {"mnist"}
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "apache-2.0"
    parts = ["![samples](samples.png)", "CC BY-SA 3.0", "arxiv.org", "12.5 ± 0.25", "samples: 10000", "Limits"]
    for part in ('zoo.load("./model")', f"zoo fit --model {NAME}", *parts):
        assert part in text, part


def test_numbers_of_other_libraries_become_plain_ones(tmp_path: Path) -> None:
    text = build_card(NAME, results={"metrics": {"a": np.float32(0.5), "b": {"value": torch.tensor(2.0)}, "c": None}})
    assert metadata(text)["model-index"][0]["results"][0]["metrics"] == [
        {"type": "a", "name": "a", "value": 0.5},
        {"type": "b", "name": "b", "value": 2.0},
    ]
    for bad in (math.nan, math.inf, "7", True, {"value": np.float64("nan")}, [1, 2]):
        with pytest.raises(errors.CardError, match="metric 'fid'"):
            build_card(NAME, results={"metrics": {"fid": bad}})


def test_regenerating_a_card_keeps_what_a_person_wrote(folder: Path) -> None:
    path = folder / "README.md"
    text = path.read_text()
    begin = text.index("<!-- zoo:begin")
    written = text[:begin].replace("tags:\n", "tags:\n- digits\n", 1).replace("---\n\n", "base_model: me/x\n---\n\n")
    path.write_text(written + "Read this first.\n\n" + text[begin:] + "\n## Thanks\n\nTo my cat.\n")
    better = {**RESULTS, "metrics": {"fid": 3.25}}
    save_pretrained(tiny(), folder, results=better, samples=PNG, overwrite=True)
    fresh = path.read_text()
    assert "Read this first." in fresh.split("<!-- zoo:begin")[0] and fresh.endswith("## Thanks\n\nTo my cat.\n")
    front = metadata(fresh)
    assert front["base_model"] == "me/x" and "digits" in front["tags"] and front["tags"].count("vae") == 1
    assert "3.25" in fresh and "12.5" not in fresh
    assert merge_card(fresh, fresh) == fresh and merge_card(fresh.replace("\n", "\r\n"), fresh) == fresh


def test_what_two_people_wrote_is_joined_and_stays_so() -> None:
    base = build_card(NAME, results=RESULTS)
    begin = base.index("<!-- zoo:begin")
    front = base[:begin].rstrip("\n").removesuffix("---")
    theirs = f"{front}language: [en]\n---\n\nHello.\n\n{base[begin:]}\n## Thanks\n\nTo my cat.\n"
    mine = f"{front}language: [de]\nbase_model: me/x\n---\n\n{base[begin:]}\n## Thanks\n\nTo my dog.\n\n## More\n"
    joined = join_cards(theirs, mine)
    before, _, rest = joined.partition("<!-- zoo:begin")
    assert before.endswith("---\n\nHello.\n\n") and rest.endswith("## Thanks\n\nTo my cat.\nTo my dog.\n\n## More\n")
    assert metadata(joined)["language"] == ["en", "de"] and metadata(joined)["base_model"] == "me/x"
    assert metadata(joined)["model-index"] == metadata(base)["model-index"]
    for again in (mine, base, joined):
        assert join_cards(joined, again) == joined
    by_hand = "# Mine\n\nAll of it.\n"
    assert join_cards(theirs, by_hand) == by_hand and join_cards(by_hand, base).endswith(by_hand)


@pytest.mark.parametrize(
    "old, new",
    [("| fid | 12.5", "| fid | 1.5"), ("value: 12.5", "value: 1.5"), ("<!-- zoo:end -->", ""), ("# Use", "# Usage")],
)
def test_an_edited_block_is_never_overwritten(folder: Path, old: str, new: str) -> None:
    path = folder / "README.md"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    before = contents(folder)
    with pytest.raises(errors.CardError, match="not overwritten"):
        save_pretrained(tiny(1), folder, overwrite=True)
    assert contents(folder) == before


def test_a_card_without_a_block_gets_one_and_keeps_its_text() -> None:
    merged = merge_card("# My model\n\nHand-made.\n", build_card(NAME))
    assert merged.index("zoo:end") < merged.index("# My model") and merged.endswith("Hand-made.\n")
    assert merge_card(merged, build_card(NAME)) == merged


def test_metadata_that_would_run_code_are_refused() -> None:
    with pytest.raises(errors.CardError, match="plain YAML"):
        metadata("---\nx: !!python/object/apply:os.system ['true']\n---\n")


def test_source_is_plain(folder: Path) -> None:
    assert json.loads(json.dumps(dataclasses.asdict(load_pretrained(folder).source)))["kind"] == "folder"


def test_older_format_loads_through_its_migration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(config: dict[str, Any]) -> None:
        config["zoo_format"], config["class"] = 0, config.pop("model")

    edit(folder, older)
    with pytest.raises(errors.NotAZooModelError, match="zoo_format 0 is not a format"):
        load_pretrained(folder)
    step = lambda config: {**{k: v for k, v in config.items() if k != "class"}, "model": config["class"]}  # noqa: E731
    monkeypatch.setitem(MIGRATIONS, 0, step)
    assert equal(load_pretrained(folder), tiny()) and verify(folder)
    edit(folder, lambda config: config.pop("class"))
    with pytest.raises(errors.NotAZooModelError, match="format 0 but cannot be brought to format 1"):
        load_pretrained(folder)


def test_two_migrations_follow_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(folder, lambda config: config.update(zoo_format=-1, model=config["model"].upper() + "!!"))
    monkeypatch.setitem(MIGRATIONS, -1, lambda c: {**c, "model": c["model"][:-1]})
    monkeypatch.setitem(MIGRATIONS, 0, lambda c: {**c, "model": c["model"].removesuffix("!")})
    assert equal(load_pretrained(folder), tiny())
