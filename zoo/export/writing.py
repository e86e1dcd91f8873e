"""Parts of models as files, checked against the model before they are there."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError, ZooError, close_matches
from zoo.export.parts import Part, parts, plain
from zoo.files import write_together, write_whole
from zoo.names import parse_name

__all__ = ["FORMATS", "export", "run_onnx"]

FORMATS = ("safetensors", "onnx", "pt2", "diffusers")
_BATCHES = (1, 7)
_TOLERANCE = 1e-5


class ExportError(ZooError):
    """A part of a model that cannot be written in this format, or whose file would compute something else."""


def export(model: Any, form: str, out: str | Path | None = None) -> list[Path]:
    """Write a model for other runtimes and return the files.

    Args:
        model: a model, or what `zoo.load` takes.
        form: ``safetensors``, the weights by name; ``onnx``; ``pt2``, what torch.export makes; or ``diffusers``, the
            folder of a pipeline, see `zoo.export.diffusers_folder`.
        out: folder to write to, the current one if left out.

    The files of ``onnx`` and ``pt2`` are run at batches of 1 and 7 before they are written: no value differs from the
    model's by more than 1e-5 of the largest one, or of 1.

    Raises:
        ConfigError: an unknown format, an extra that is not installed, or a model with nothing to export.
        ExportError: the runtime cannot do what the model does, or computes something else.
    """
    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}.{close_matches(form, FORMATS)} There are: {', '.join(FORMATS)}")
    if isinstance(model, (str, Path)):
        from zoo.hub import load

        asked, model = parse_name(model), load(model)
        name = model.source.name or asked.short
    else:
        name = model.source.name or type(model).__name__.lower()
    folder = Path(out) if out is not None else Path()
    if form == "diffusers":
        from zoo.export import to_diffusers

        made = to_diffusers(model, folder / f"{name}.diffusers")
        return sorted(path for path in made.rglob("*") if path.is_file())
    if form == "safetensors":
        return [write_whole(folder / f"{name}.safetensors", _weights(model))]
    files: dict[Path, bytes] = {}
    for ending, part in parts(model).items():
        stem = f"{name}.{ending}" if ending else name
        make = _onnx if form == "onnx" else _pt2
        files[folder / f"{stem}.{form}"] = make(part, stem)
    return write_together(files)


def _weights(model: Any) -> bytes:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in plain(model).state_dict().items()}
    seen: dict[int, str] = {}
    for name, tensor in tensors.items():  # tied weights are written twice: the format has no sharing
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen[tensor.data_ptr()] = name
    return save(tensors, metadata={"class": type(model).__name__, "spec": json.dumps(model.spec)})


def _program(part: Part, what: str) -> Any:
    """Return the part as torch.export sees it, with a dynamic batch."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = tuple({0: batch} if shape is not None else None for shape, _ in part.inputs.values())
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(part.module, part.examples(3), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(f"{what}: torch.export cannot follow this {part.kind}: {first[:300]}") from error


def _pt2(part: Part, what: str) -> bytes:
    program = _program(part, what)
    module = program.module()
    _compare(part, what, lambda inputs: _tuple(module(*inputs)))
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={"zoo.json": json.dumps(_facts(part, what))})
    return stream.getvalue()


def _onnx(part: Part, what: str) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is missing: install the extra, `pip install 'generative-zoo[onnx]'`"
        ) from error
    program = _program(part, what)
    try:
        with torch.no_grad(), _quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=list(part.inputs), output_names=list(part.outputs), verbose=False
            )
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(f"{what}: ONNX cannot say what this {part.kind} does: {first[:300]}") from error
    proto = made.model_proto
    for key, value in _facts(part, what).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    content = proto.SerializeToString()
    drawn = {node.op_type for node in proto.graph.node} & {"RandomNormal", "RandomUniform", "RandomNormalLike",
                                                           "RandomUniformLike", "Multinomial", "Bernoulli"}  # fmt: skip
    if drawn:
        raise ExportError(f"{what}: the graph draws random numbers itself ({', '.join(sorted(drawn))})")
    session = _session(content)
    _compare(part, what, lambda inputs: run_onnx(session, dict(zip(part.inputs, inputs, strict=True))))
    return content


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return what an ONNX Runtime session computes from tensors."""
    known = {node.name for node in session.get_inputs()}  # what has no effect may have been left out
    return [torch.from_numpy(y) for y in session.run(None, {k: v.numpy() for k, v in inputs.items() if k in known})]


def _facts(part: Part, what: str) -> dict[str, Any]:
    from zoo import __version__

    return {"zoo": __version__, "name": what, "kind": part.kind, **part.metadata}


def _tuple(value: Any) -> Sequence[Tensor]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _compare(part: Part, what: str, run: Callable[[tuple[Tensor, ...]], Sequence[Tensor]]) -> None:
    """Raise `ExportError` unless ``run`` computes what the part does, at batches of 1 and 7."""
    for batch in _BATCHES:
        inputs = part.examples(batch)
        with torch.no_grad():
            ours = _tuple(part.module(*inputs))
            theirs = run(inputs)
        for name, a, b in zip(part.outputs, ours, theirs, strict=True):
            if a.shape != b.shape:
                raise ExportError(f"{what}: {name} has shape {tuple(b.shape)} at batch {batch}, not {tuple(a.shape)}")
            error, scale = float((a.double() - b.double()).abs().max()), max(1.0, float(a.abs().max()))
            if not error <= _TOLERANCE * scale:
                raise ExportError(f"{what}: {name} differs by {error:.2g} at batch {batch}; more than {_TOLERANCE:g}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own messages away: what goes wrong is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
