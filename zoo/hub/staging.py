"""What is pushed: the files of a model, from wherever it is, checked as a reader will check them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import searches
from zoo.errors import CardError, ModelFolderError, ResultError, UnsafeWeightsError
from zoo.hub import cards
from zoo.hub.card_blocks import metadata
from zoo.hub.layout import (
    CARD,
    EVAL,
    FILES,
    SAMPLES,
    SEARCH,
    SUMS,
    check_sums,
    is_pickle_name,
    read_file,
    read_folder,
    sha256,
    sums_text,
)
from zoo.hub.loading import pull
from zoo.hub.paths import without_folders
from zoo.names import parse_name

if TYPE_CHECKING:
    from zoo.model import GenerativeModel

__all__ = ["collect"]


def collect(what: str | Path | GenerativeModel, repo_id: str) -> dict[str, bytes]:
    """Return the files to upload, every one of them checked, SHA256SUMS made anew; ``repo_id`` is for the card."""
    if not isinstance(what, (str, Path)):
        return _of_model(what, repo_id)
    parsed = parse_name(what)
    if parsed.is_run:
        return _of_run(parsed.path, repo_id)
    folder = parsed.path or pull(what)
    pickles = sorted(p.name for p in folder.iterdir() if is_pickle_name(p.name)) if folder.is_dir() else []
    if pickles:
        raise UnsafeWeightsError(
            f"{folder} holds {pickles[0]!r}, a format that can run code when loaded, so nothing is pushed; remove it"
        )
    for path in (folder / name for name in FILES):
        if path.is_symlink() and path.resolve().parent != folder.resolve().parent.parent / "blobs":
            raise ModelFolderError(
                f"{path} is a link out of the folder, so nothing is pushed; put the file itself there"
            )
    return _checked(read_folder(folder), str(folder))


def _of_run(run: Path, repo_id: str) -> dict[str, bytes]:
    """Return the files of a run; what they say of folders on this machine is cut down to the last part."""
    from zoo.runs import load_run, run_metadata

    try:
        results = json.loads(read_file(run / EVAL)) if (run / EVAL).is_file() else None
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{run / EVAL} is not valid JSON; evaluate the run again") from error
    model = load_run(run)
    _check_identity(results, model, run)
    samples = {SAMPLES: read_file(run / SAMPLES)} if (run / SAMPLES).is_file() else None
    command = run_metadata(run).get("command") if (run / "run.json").is_file() else None
    command = without_folders(command)
    command = " ".join(map(str, command)) if isinstance(command, list) else command
    search = without_folders(searches.read(run / SEARCH).to_dict()) if (run / SEARCH).is_file() else None
    return _of_model(model, repo_id, without_folders(results), samples, command, search)


def _check_identity(results: Any, model: GenerativeModel, run: Path) -> None:
    """Refuse results of other weights. Raises `ResultError`."""
    from zoo.hub.saving import weights_file

    identity = results.get("identity") if isinstance(results, Mapping) else None
    recorded = identity.get("weights_sha256") if isinstance(identity, Mapping) else None
    if recorded is not None and recorded != sha256(weights_file(model)):
        raise ResultError(
            f"{run / EVAL} holds results of other weights than those of the newest checkpoint of {run}; evaluate the "
            f"run again, or remove the file"
        )


def _of_model(
    model: GenerativeModel,
    repo_id: str,
    results: Any = None,
    samples: Mapping[str, bytes] | None = None,
    command: str | None = None,
    search: Any = None,
) -> dict[str, bytes]:
    from zoo.hub.saving import class_names, public_form, save_pretrained

    samples = drawn_files(model) if samples is None else samples
    public = public_form(model) | class_names(model)
    text = cards.card_of(
        model.source.name,
        public,
        results,
        samples,
        load=repo_id,
        command=command,
        gives=gives_of(model),
        search=search,
    )
    with tempfile.TemporaryDirectory(prefix="zoo-push-") as parent:
        folder = save_pretrained(
            model, Path(parent, "model"), card=text, results=results, search=search, samples=samples
        )
        return _checked(read_folder(folder), type(model).__name__)


def gives_of(model: GenerativeModel) -> str:
    """Return what a model gives, as `zoo.hub.cards.build_card` takes it."""
    return "features" if not model.generates else "samples of texts" if model.context else "samples"


def drawn_files(model: GenerativeModel) -> dict[str, bytes]:
    """Return samples as files: a sheet of 64 images, a moving one of 16 clips (a PNG that browsers play), two pages of
    text, or eight recordings with their spectrogram; of what writes captions 36 images and theirs. Nothing of what
    draws none, or draws for texts that only its data know."""
    from zoo.abilities import WritesCaptions, takes_option
    from zoo.media import medium, samples_of

    kind = medium(model)
    if kind == "image" and isinstance(model, WritesCaptions):
        texts, drawn = model.joint(36, seed=0)
        return {f"samples{end}": content for end, content in samples_of(model, drawn, captions=texts).items()}
    if kind == "video" and model.generates and not model.context:
        return {"samples.png": samples_of(model, model.sample(16, seed=0), ending=".apng")[".apng"]}
    if kind == "points" or not model.generates or model.context:
        return {}
    number = {"text": 2, "audio": 8}.get(kind, 64)
    options = {"length": 1500} if kind == "text" and takes_option(model, "length") else {}
    drawn = model.sample(number, seed=0, **options)
    return {f"samples{ending}": content for ending, content in samples_of(model, drawn, ending=".png").items()}


def _checked(files: dict[str, bytes], where: str) -> dict[str, bytes]:
    """Load the model from these bytes, read its card back; only the card may differ from SHA256SUMS."""
    from zoo.hub.folder import load_files
    from zoo.model import Source

    check_sums(files, where, names=tuple(n for n in FILES if n != CARD))
    load_files(files, where, Source("folder"))
    if CARD not in files:
        raise CardError(f"{where} has no {CARD}: save the model with zoo.hub.save_pretrained, which writes one")
    try:
        text = files[CARD].decode("utf-8")
    except UnicodeDecodeError as error:
        raise CardError(f"{where}: {CARD} is not UTF-8 text") from error
    for result in _model_index(metadata(text)):
        cards.metric_values({"metrics": {str(m.get("type")): m.get("value") for m in result}})
    return {**files, SUMS: sums_text(files).encode("ascii")}


def _model_index(front: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
    try:
        for model in front.get("model-index") or []:
            for result in model["results"]:
                yield list(result["metrics"])
    except (TypeError, KeyError, AttributeError) as error:
        raise CardError(f"{CARD}: its model-index is malformed") from error
