"""``zoo sample NAME --given FILE.wav``: a recording as a vocoder takes it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, DataError

_LONGEST = 60
"""Seconds of a recording, which a vocoder takes as a whole."""


def recorded(args: argparse.Namespace, model: Any) -> tuple[int, dict[str, Any]]:
    """Return how many samples to draw, 1 unless -n says more, and the option that says of what.

    The recording is mixed down to mono and brought to the model's rate, and ends in silence up to a whole frame.

    Raises:
        ConfigError: options of images or clips, or a recording that is too long.
        DataError: there is no such file, or it is no recording or an empty one.
    """
    from torch.nn.functional import pad

    from zoo.data.recordings import read_recording
    from zoo.files import open_regular
    from zoo.maths.mulaw import mulaw_encode
    from zoo.maths.resample import resample

    for name in ("rows", "mask", "frames"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} is of images or clips, and {args.which} takes recordings; leave it out")
    try:
        with open_regular(Path(args.given).expanduser()) as file:
            x, rate = read_recording(file, Path(args.given).name)
    except OSError as error:
        raise DataError(f"{args.given} cannot be read: {error.strerror or error}") from error
    if not len(x) or len(x) > _LONGEST * rate:
        raise ConfigError(
            f"{args.given} has {len(x) / rate:.1f} s; give a recording of some length, up to {_LONGEST} s"
        )
    x = resample(x, rate, model.rate)
    codes = mulaw_encode(pad(x, (0, -len(x) % model.hop)), model.levels)
    return args.n or 1, {"recording": codes.to(model.dtype) / (model.levels - 1)}
