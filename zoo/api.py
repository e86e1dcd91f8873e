"""Public functions that turn names into objects before they call a room of the zoo.

They live here and not in modules of their own names: a module ``zoo.evaluate``, once imported, would take the place of
the function in the package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError
from zoo.names import parse_name
from zoo.trained_parts import fitted

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.data.base import TensorData
    from zoo.data.model_input import ModelInput
    from zoo.diagnostics import Diagnosis
    from zoo.model import GenerativeModel
    from zoo.registry import Entry
    from zoo.representations import Representation
    from zoo.results import Result

__all__ = [
    "diagnose",
    "evaluate",
    "evaluate_features",
    "restore",
    "second_stage",
    "start_from",
    "transforms",
    "weights_digest",
    "with_parts",
]

_KEPT = ("training_tflop", "training")
_QUICK = 1_000  # samples of a quick evaluation


def evaluate(
    model: GenerativeModel | str | Path,
    data: TensorData | str | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    k: int | None = None,
    batch_size: int = 250,
    limit: int | None = None,
    split: str = "test",
    options: Mapping[str, Any] | None = None,
    extractor: Any = None,
    plain: bool = False,
    other: TensorData | str | None = None,
    cost: Mapping[str, Any] | None = None,
    ema: bool | None = None,
    quick: bool = False,
    device: str | None = None,
    devices: int = 1,
    out: str | Path | None = None,
    work: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Measure a model: ``zoo.evaluate("pixelcnn-mnist")`` or ``zoo.evaluate(model, "mnist")``.

    Args:
        model: an object, or what `zoo.load` takes: a name, an address on the Hub, a folder.
        data: a data module or the name of a data set; by default what the model was trained on.
        samples: how many are drawn for FID and its like; of a quick evaluation 1,000 if left out, or as many as the
            features have dimensions; of others by default what the registry says of the model on its own
            data, else 10,000.
        seed: of the samples and of the noise of bounds.
        seeds: how many: ``seed``, ``seed + 1`` ...; values are means over them.
        k: importance samples of the likelihood; by default what the registry says, else 1.
        batch_size: samples drawn at a time.
        limit: take only the first so many examples of the split for the likelihood.
        split: ``test``, or ``validation``, on which choices are made; never ranked together.
        options: sampling options of the family.
        extractor: ``digits``, ``lite0``, ``inception``, ``random``, ``pca``, ``none``, or a torch module that returns
            features; by default what the registry says of the model on its own data, else what fits.
        plain: where samples are guided, chosen or sharpened, measure as many that are simply drawn too (``fid_plain``).
        other: a data module or the name of a data set from which an energy should tell the model's own data
            (``auroc_other``), as ``"fashion_mnist"`` from digits; by default what the registry says of the model.
        cost: facts about training that are not known otherwise, such as ``{"training_tflop": 50}``.
        ema: whether the weights are averaged ones, where that is not known otherwise.
        quick: mark the result as made with less than the protocol of the tables; nearest neighbours are looked for
            among 5,000 training images only.
        device: where a model that is given by name goes; an object stays where it is.
        devices: processes that share the work, each on a GPU of its own where ``device`` is one; the numbers are the
            same.
        out: folder (or .json file) to write the result to.
        work: folder in which finished pieces are kept until all are done; by default ``out``, where that is a folder.
            The same call again goes on from them.
        progress: show bars for what takes longer than two seconds.

    Raises:
        ZooError: what `zoo.load` and `zoo.evaluation.measure` raise, or a model whose data are not known.
    """
    from zoo.checking import count_of
    from zoo.evaluation import measure
    from zoo.evaluation.comparison import choose
    from zoo.registry import load_registry

    seeds = count_of(seeds, "seeds")
    if not isinstance(options, (Mapping, type(None))):
        raise ConfigError(f"options must be a mapping of sampling options to values, got {str(options)[:80]!r}")
    asked = str(model) if isinstance(model, (str, Path)) else None
    built, spec, known = _load(model, device) if isinstance(model, (str, Path)) else (model, None, {})
    entry = _entry(built.source.name)
    module = _data(data, spec, entry, asked or type(built).__name__)
    said = dict(entry.evaluation) if entry is not None else {}
    k = said.get("k") if k is None else k
    if entry is not None and module.name == entry.dataset:  # what is compared with pictures depends on these
        samples = said.get("samples") if samples is None and not quick else samples
        extractor = said.get("extractor") if extractor is None else extractor
        other = said.get("other") if other is None else other
    if samples is None and quick:
        few = choose(extractor, module) if built.generates else None
        samples = max(_QUICK, (few.dimensions if few is not None else None) or 0)
    samples = 10_000 if samples is None else samples
    name = asked if built.source.kind in ("run", "folder") else built.source.name or asked
    return measure(
        built, module, name=name, weights_sha256=weights_digest(built),
        samples=samples, seed=seed, seeds=seeds, k=k, batch_size=batch_size, limit=limit, split=split,
        options=options, cost={**known.get("cost", {}), **(cost or {})},
        other=_data(other, None, None, "others") if other is not None else None, plain=plain,
        ema=known.get("ema") if ema is None else ema, quick=quick, extractor=extractor, devices=devices,
        allow=load_registry().allow,
        command=_command(
            asked or name, quick, options, data, extractor, plain, other,
            {"samples": samples, "seed": seed, "seeds": seeds if seeds > 1 else None, "k": k,
             "batch_size": batch_size, "limit": limit, "split": split if split != "test" else None},
        ), out=out, work=work, progress=progress,
    )  # fmt: skip


def evaluate_features(
    model: GenerativeModel | str | Path,
    data: TensorData | str | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    quick: bool = False,
    device: str | None = None,
    out: str | Path | None = None,
) -> Representation:
    """Measure the features of a model of any family: ``zoo.evaluate_features("vae-mnist")``.

    A linear probe, 20 neighbours by cosine, a probe on one label in a hundred, the effective rank and the spread; the
    same of the model before training, and of the pixels themselves.

    Args:
        model: an object, or what `zoo.load` takes: a name, an address on the Hub, a folder.
        data: a data module with classes, or the name of a data set; by default what the model was trained on.
        split: ``test``, or ``validation``, on which choices are made.
        limit: take only the first so many examples of the split.
        quick: take 5,000 training and 1,000 test examples, and mark the result so.
        device: where a model that is given by name goes; an object stays where it is.
        out: JSON file to write the result into, beside those of other models that it holds.

    Raises:
        ZooError: what `zoo.load` and `zoo.evaluation.measure_features` raise, or a model whose data are not known.
    """
    from zoo import representations
    from zoo.evaluation import measure_features

    asked = str(model) if isinstance(model, (str, Path)) else None
    built, spec, _ = _load(model, device) if isinstance(model, (str, Path)) else (model, None, {})
    module = _data(data, spec, _entry(built.source.name), asked or type(built).__name__)
    name = asked if built.source.kind in ("run", "folder") else built.source.name or asked
    words = [f"zoo features {name}", f"--data {data}" if isinstance(data, str) else "", "--quick" if quick else ""]
    words += [f"--split {split}" if split != "test" else "", f"--limit {limit}" if limit is not None else ""]
    row = measure_features(
        built, module, name=name, weights_sha256=weights_digest(built), split=split, limit=limit, quick=quick,
        command=" ".join(word for word in words if word) if name is not None else "",
    )  # fmt: skip
    if out is not None:
        representations.write(out, [row])
    return row


def restore(
    model: GenerativeModel | str | Path,
    y: Any,
    measure: str,
    *,
    n: int = 16,
    mask: Any = None,
    factor: int = 4,
    width: float = 1.5,
    noise: float = 0.02,
    seed: int | None = None,
    labels: Any = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    device: str | None = None,
) -> Tensor:
    """Draw what could have been measured so: ``zoo.restore("ddpm-mnist", small, "downsample")``.

    Args:
        model: an object, or what `zoo.load` takes; one with a score, a velocity or an energy of its examples.
        y: the measurement, in data range: (C, H, W) for ``inpaint`` and ``blur``, (C, H / factor, W / factor) for
            ``downsample``; or n of them.
        measure: ``inpaint``, ``downsample`` or ``blur``.
        n: how many draws.
        mask: of ``inpaint``: true where a pixel is seen, (H, W) or (C, H, W).
        factor: of ``downsample``: pixels of a side whose mean is seen.
        width: of ``blur``: standard deviation in pixels.
        noise: standard deviation of the noise of y, in units of the data.
        seed: equal seeds give equal draws.
        labels: classes of a conditional model.
        steps: evaluations of the denoiser, 50, or steps of a chain, 2,000, if left out.
        guidance_scale: of the conditional model, 1 for none.
        device: to load a named model to.

    Returns:
        (n, *shape) in data range.

    Raises:
        ConfigError, DataError: what `zoo.restoration.restored` and `operator_of` raise.
    """
    from zoo.model import GenerativeModel
    from zoo.restoration import array_of, operator_of, restored

    if not isinstance(model, GenerativeModel):
        from zoo.hub import load

        model = load(model, device=device)
    mask = None if mask is None else array_of(mask, "mask").bool()
    operator = operator_of(measure, tuple(model.shape), mask=mask, factor=factor, width=width)
    return restored(
        model, operator, y, n, noise=noise, seed=seed, labels=labels, steps=steps,
        guidance_scale=guidance_scale,
    )  # fmt: skip


def diagnose(
    model: GenerativeModel | str | Path,
    data: TensorData | str | None = None,
    *,
    only: Sequence[str] | None = None,
    examples: int = 10_000,
    pair: tuple[int, int] | None = None,
    without: Sequence[int] = (),
    having: Sequence[int] = (),
    device: str | None = None,
    out: str | Path | None = None,
    animate: bool = False,
) -> Diagnosis:
    """Look into a model: ``zoo.diagnose("vae-mnist", out="diagnostics")``; what is looked at depends on its abilities.

    Args:
        model: an object, or what `zoo.load` takes: a name, an address on the Hub, a folder.
        data: a data module or the name of a data set; by default what the model was trained on.
        only: names of `zoo.diagnostics.DIAGNOSTICS`; all that apply if left out.
        examples: how many test examples, the first ones.
        pair: indices of the two test examples between which to interpolate.
        without: labels of the examples that attribute arithmetic moves.
        having: labels of the examples towards which it moves them; of both, the closest two classes if left out.
        device: where a model that is given by name goes; an object stays where it is.
        out: folder to write the pictures, diagnostics.png with all of them, and diagnostics.json to.
        animate: write what moves as GIF files too, the samples of a run over its training (``training``) among them.

    Raises:
        ZooError: what `zoo.load` and `zoo.diagnostics.examine` raise, or a model whose data are not known.
    """
    from zoo.diagnostics import examine

    asked = str(model) if isinstance(model, (str, Path)) else None
    built, spec, _ = _load(model, device) if isinstance(model, (str, Path)) else (model, None, {})
    module = _data(data, spec, _entry(built.source.name), asked or type(built).__name__)
    found = examine(
        built, module, only=only, examples=examples, pair=pair, without=without, having=having, name=asked,
        animate=animate,
    )  # fmt: skip
    if out is not None:
        found.write(out, animate=animate)
    return found


def transforms(model: GenerativeModel | str | Path, *, resize: str = "crop", background: str = "white") -> ModelInput:
    """Return the default transform of a model's data: ``zoo.transforms("vae-mnist")("digit.png")`` is (1, 28, 28).

    It turns pictures, paths, arrays or texts into examples in data range, as the model's data set does, and by its
    ``inverse`` examples into pictures or texts; it is no augmentation.

    Args:
        model: a name of the registry, trained or not; an object, or what `zoo.load` takes.
        resize: ``crop`` to the middle, ``pad`` with the background, or ``stretch``.
        background: colour behind transparent pixels and around padded pictures.

    Raises:
        ConfigError: data that are neither images of one or three channels nor texts, or a rule or colour that there is
            none of.
        UnknownModelError: no such name.
    """
    from zoo.data.model_input import ModelInput
    from zoo.model import GenerativeModel

    parsed = None if isinstance(model, GenerativeModel) else parse_name(model)
    described: Any
    if parsed is not None and parsed.entry is not None:
        described = parsed.entry.build_data()
        name, levels = described.name, described.levels
    else:  # what the model says of its examples
        described = model if parsed is None else _load(str(model), None)[0]
        name, levels = type(described).__name__, described.levels
    alphabet = described.alphabet if len(described.shape) == 1 else None
    return ModelInput(name, described.shape, levels, alphabet, resize=resize, background=background)


def _load(which: str | Path, device: str | None) -> tuple[GenerativeModel, Mapping[str, Any] | None, dict[str, Any]]:
    """Return the model, the spec of its data and what is known of its training."""
    from zoo.hub import load
    from zoo.runs import run_metadata

    parsed = parse_name(which)
    model = load(which, device=device)
    if parsed.path is None or not parsed.is_run:
        return model, None, _shipped(model)
    metadata = run_metadata(parsed.path)
    known = {"cost": metadata.get("cost") or {}, "ema": metadata["ema"] is not None if "ema" in metadata else None}
    return model, metadata.get("data"), known


def _shipped(model: GenerativeModel) -> dict[str, Any]:
    """Return what an eval.json beside these very weights says about their training; nothing if there is none."""
    from zoo import results

    folder = Path(model.source.path) if model.source.path else None
    folder = folder.parent if folder is not None and folder.is_file() else folder
    if folder is None or not (folder / results.FILE).is_file():
        return {}
    shipped = results.read(folder)
    if model.source.sha256 != shipped.identity.weights_sha256:
        return {}
    return {"cost": {key: getattr(shipped.cost, key) for key in _KEPT}, "ema": shipped.protocol.ema}


def weights_digest(model: GenerativeModel) -> str:
    """Return the sha256 of the weights file that the model came from, or would be saved as."""
    from zoo.hub.saving import weights_file

    return model.source.sha256 or hashlib.sha256(weights_file(model)).hexdigest()


def _entry(name: str | None) -> Entry | None:
    from zoo.registry import load_registry

    return load_registry().get(name) if name is not None else None


def _data(asked: Any, spec: Mapping[str, Any] | None, entry: Entry | None, what: str) -> TensorData:
    """Return the data module: the one given, that of the name, that of the run, or that of the entry."""
    from zoo.registry import load_registry
    from zoo.spec import build

    if asked is not None:
        found: TensorData = build(load_registry().data_spec(asked)) if isinstance(asked, str) else asked
        return found
    if spec is not None:
        return _of_run(spec, load_registry().allow, what)
    if entry is not None:
        return entry.build_data()
    raise ConfigError(f"the data of {what} are not known; say which, as in zoo.evaluate(model, 'mnist')")


def _of_run(spec: Mapping[str, Any], allow: Sequence[str], what: str) -> TensorData:
    """Build the data that a run says it was trained on. Raises `ConfigError` where it names no data."""
    from zoo.data.base import TensorData
    from zoo.runs import MALFORMED
    from zoo.spec import build

    try:
        found = build(spec, allow)
    except MALFORMED as error:  # a `ZooError` is none of them
        raise ConfigError(f"the run.json of {what} describes no data: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, TensorData):
        raise ConfigError(f"the run.json of {what} names {type(found).__name__} as its data; say which, by --data NAME")
    return found


def _command(
    name: str | None, quick: bool, options: Mapping[str, Any] | None, data: Any, extractor: Any, plain: bool,
    other: Any, numbers: Mapping[str, int | str | None],
) -> str:  # fmt: skip
    """Return what to type to make the result again; empty where no name leads to the model."""
    if name is None:
        return ""
    words = [f"zoo evaluate {name}", *([f"--data {data}"] if isinstance(data, str) else [])]
    words += [f"{'-k' if n == 'k' else f'--{n}'} {value}" for n, value in numbers.items() if value is not None]
    words += [f"--option {key}={json.dumps(value)}" for key, value in (options or {}).items()]
    words += [f"--extractor {extractor}"] if isinstance(extractor, str) else []
    words += [f"--other {other}"] if isinstance(other, str) else []
    return " ".join([*words, *(["--plain"] if plain else []), *(["--quick"] if quick else [])])


def second_stage(
    entry: Entry, which: str | Path, *, part: str = "autoencoder", keep_data: bool = False
) -> tuple[Entry, GenerativeModel, dict[str, float | None]]:
    """Make the entry of a model that builds on a trained one fit that one, as the model's class declares it.

    Args:
        entry: of a model whose class has this part among its `zoo.model.GenerativeModel.trained_parts`.
        which: what `zoo.load` takes: a model that can be the part, or one that holds such a one, as a prior holds its
            autoencoder.
        part: the name of the part.
        keep_data: train on the entry's data, not on those of the other's run.

    Returns:
        the entry with the other's architecture, and all else that follows from it; the trained part; the TFLOP of its
        training by stage, None where that is not known.

    Raises:
        ConfigError: the entry takes no such part, or the model cannot be it.
        ZooError: what `zoo.load` raises.
    """
    stages = with_parts(entry, {part: which}, keep_data=keep_data)
    return stages[0], stages[1][part], stages[2]


def with_parts(
    entry: Entry, parts: Mapping[str, str | Path], *, keep_data: bool = False
) -> tuple[Entry, dict[str, GenerativeModel], dict[str, float | None]]:
    """Do what `second_stage` does for several parts, by their names, one after the other.

    Raises:
        ConfigError: also where the runs of the parts were trained on different data.
    """
    taken: dict[str, GenerativeModel] = {}
    stages: dict[str, float | None] = {}
    trained_on: tuple[str, Any] | None = None
    for part, which in parts.items():
        model, data, known = _load(which, None)
        arguments, taken[part], held = fitted(entry, part, model, str(which))
        entry = replace(entry, model={**entry.model, "init_args": arguments})
        for stage, tflop in _stages(model.source.name or str(which), known.get("cost") or {}, held).items():
            same = stage not in stages or stages[stage] == tflop
            stages[stage if same else f"{stage} ({part})"] = tflop
        if data is None or keep_data:
            continue
        if trained_on is not None and _without_size(trained_on[1]) != _without_size(data):
            raise ConfigError(
                f"{trained_on[0]} and {which} were trained on different data; say on which {entry.name} is trained "
                f"with --data NAME"
            )
        trained_on = trained_on or (str(which), data)
    if trained_on is not None:
        own = (entry.data.get("init_args") or {}).get("batch_size")
        given = {**(trained_on[1].get("init_args") or {}), **({"batch_size": own} if own else {})}
        entry = replace(entry, data={"class_path": trained_on[1]["class_path"], "init_args": given})
    return entry, taken, stages


def start_from(which: str | Path) -> tuple[GenerativeModel, dict[str, float | None]]:
    """Return a model to start a training from, and the TFLOP of its own, by stage, None where that is not known.

    Raises:
        ZooError: what `zoo.load` raises.
    """
    model, _, known = _load(which, None)
    stages = _stages(model.source.name or str(which), known.get("cost") or {}, False)
    return model, {f"{name} (start)": tflop for name, tflop in stages.items()}


def _without_size(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of data without the size of a batch."""
    given = {k: v for k, v in (data.get("init_args") or {}).items() if k != "batch_size"}
    return {"class_path": data["class_path"], "init_args": given}


def _stages(name: str, cost: Mapping[str, Any], held: bool) -> dict[str, float | None]:
    """Return the TFLOP of the stages that made a part: all but the last, where the named model only holds it."""
    stages = cost.get("stages") or (cost.get("training") or {}).get("stages")
    if held:
        return dict(list(stages.items())[:-1]) if stages else {name: None}
    return dict(stages) if stages else {name: cost.get("training_tflop")}
