"""Inception v3 of FID's authors, as torch-fidelity ported it: where its weights are, or how they come here.

References:
    C. Szegedy and others, Rethinking the Inception Architecture for Computer Vision, 2015, arXiv:1512.00567.
    A. Obukhov and others, High-fidelity performance metrics for generative models in PyTorch, 2020: the port, and the
    file of weights, a release of its repository.
"""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn

from zoo.errors import CorruptWeightsError, ResultError
from zoo.files import write_whole

__all__ = ["SHA256", "URL", "inception_network", "inception_weights"]

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE = 95_628_359  # bytes
_TIMEOUT = 15.0  # seconds without a byte


def inception_weights() -> Path:
    """Return where torch-fidelity keeps its Inception weights, whether or not they are there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]


def inception_network() -> tuple[nn.Module, str]:
    """Return the network, in eval mode, and the sha256 of its weights, which are downloaded where they are missing.

    Raises:
        ResultError: the weights are not on this machine and cannot be downloaded.
        CorruptWeightsError: they do not have the recorded sha256; they are not opened then, nor kept if they came now.
    """
    path = inception_weights()
    raw = path.read_bytes() if path.is_file() else _downloaded(path)
    if (found := hashlib.sha256(raw).hexdigest()) != SHA256:
        raise CorruptWeightsError(
            f"{path} is damaged (sha256 {found[:12]}..., recorded {SHA256[:12]}...); delete it, and it is fetched again"
        )
    state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    return _network(state), found


def _downloaded(path: Path) -> bytes:
    """Fetch the weights, and keep them if they are the recorded ones."""
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT) as answer:
            raw = answer.read(SIZE + 1)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        raise ResultError(
            f"the Inception weights are not on this machine and cannot be downloaded ({_reason(error)}): put "
            f"{path.name} of torch-fidelity's release v0.2.0 into {path.parent}, or name another extractor, such as "
            f"lite0"
        ) from error
    if (found := hashlib.sha256(raw).hexdigest()) != SHA256:
        raise CorruptWeightsError(
            f"what {URL} gave is not the recorded file (sha256 {found[:12]}..., recorded {SHA256[:12]}...); it was "
            f"not kept: try again, or name another extractor, such as lite0"
        )
    try:
        write_whole(path, raw)
    except OSError as error:
        raise ResultError(f"the Inception weights cannot be written to {path}: {error.strerror or error}") from error
    return raw


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:100] or type(error).__name__


def _network(state: dict[str, torch.Tensor]) -> nn.Module:
    """Build torch-fidelity's network from these tensors; it would unpickle a file itself."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    original = module.load_state_dict_from_url
    module.load_state_dict_from_url = lambda *args, **options: state
    try:
        return module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], verbose=False)
    finally:
        module.load_state_dict_from_url = original
