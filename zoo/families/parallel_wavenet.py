"""Parallel WaveNet: a flow that draws a recording in one pass, distilled from a WaveNet by probability density.

The student makes of logistic noise z, in each of its flows by a network of dilated causal convolutions,

    x_t = z_t s(z_1, ..., z_{t-1}) + m(z_1, ..., z_{t-1}),

so that x_t given the noise before it is logistic with location m_t and scale s_t, products and sums over the flows. It
is trained by

    KL(P_S || P_T) = H(P_S, P_T) - H(P_S),   H(P_S) = E_z sum_t ln s_t + 2 T,

the cross-entropy with the teacher being the mean over draws of x and, for each, over further draws of every x_t given
the noise before it. Without the entropy the student would draw the one recording that the teacher likes best.

Everything is reckoned on the companded waveform v in [-1, 1], where the teacher's codes are even; a divergence does not
depend on that. What the teacher's softmax gives to a code counts as a logistic around it, whose scale is ``bandwidth``
codes: a mixture of logistics, as the paper's own teacher is. Between two codes its embedding is a line, so that the
teacher is differentiable in all of x, and at whole codes it is what it was.

References:
    A. van den Oord and others, Parallel WaveNet: Fast High-Fidelity Speech Synthesis, 2017, arXiv:1711.10433, sections
    3 and 4.
    D. P. Kingma and others, Improving Variational Inference with Inverse Autoregressive Flow, 2016, arXiv:1606.04934.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.normalising_flow import NormalisingFlow
from zoo.families.wavenet import WaveNet
from zoo.maths.mel import power_spectrogram
from zoo.maths.mulaw import mulaw_decode
from zoo.model import Batch, Player, TrainedPart
from zoo.nets.dilated import DilatedStack, DilatedState

__all__ = ["CausalFlow", "ParallelWaveNet", "relaxed_log_prob"]

_CAP = 5.0
"""Log-scales of a flow stay within +- this, smoothly."""
_ENTROPY = 2.0
"""Of a logistic distribution of scale 1, in nats."""


def relaxed_log_prob(logits: Tensor, codes: Tensor, bandwidth: float) -> Tensor:
    """Return the log-density, a code, of a mixture of logistics around the codes 0 ... L-1.

    Args:
        logits: of the mixture, (..., L).
        codes: any real numbers, (...) or what broadcasts to that.
        bandwidth: scale of every logistic, in codes.

    Returns:
        nats, of the shape that both broadcast to.
    """
    k = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    a = (codes[..., None] - k) / bandwidth
    each = -a - 2 * F.softplus(-a) - math.log(bandwidth)
    return torch.logsumexp(logits.log_softmax(-1) + each, -1)


def of_wavenet(arguments: Mapping[str, Any], teacher: Any) -> dict[str, Any]:
    """Return the arguments of a student of this very teacher, whose recordings it draws."""
    facts = {"shape": list(teacher.shape), "levels": teacher.levels, "rate": teacher.rate}
    return {**arguments, **facts, "teacher": teacher.spec}


class CausalFlow(nn.Module):
    """One flow: location and log-scale of each sample from the noise before it.

    Args:
        width: channels of the stream.
        dilations: of the layers.
        skip: channels between the layers and the two numbers.
    """

    def __init__(self, width: int, dilations: Sequence[int], skip: int) -> None:
        super().__init__()
        self.first = nn.Linear(1, width)
        self.layers = DilatedStack(width, dilations)
        self.skip, self.out = nn.Linear(len(dilations) * width, skip), nn.Linear(skip, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def head(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and log-scale from all layers' z: (..., N C) -> (...) each."""
        location, raw = self.out(F.relu(self.skip(z))).unbind(-1)
        return location, _CAP * torch.tanh(raw / _CAP)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and log-scale of every sample: (B, T) -> (B, T) each."""
        before = F.pad(u[:, :-1], (1, 0))  # silence before the beginning
        return self.head(self.layers(self.first(before[..., None])))


class ParallelWaveNet(NormalisingFlow):
    """Inverse autoregressive flows of recordings, distilled from a frozen WaveNet.

    A draw is one pass. The likelihood goes from sample to sample, and is exact.

    Args:
        shape: (T,) of a recording.
        levels: L, mu-law codes.
        rate: samples a second.
        teacher: a WaveNet of such codes, told no class; None once the training is over.
        flows: how many, each behind the other.
        width: C, channels of the stream of every flow.
        skip: channels between its layers and its two numbers.
        depth: layers of a flow, of dilations 1, 2, 4, ...
        bandwidth: scale of the logistic around each of the teacher's codes, in codes.
        draws: of every sample given the noise before it, for the cross-entropy; at least 1.
        power: weight of the power loss, 0 for none: the squared difference between the mean power spectra of draws and
            of the batch, in a frame's whole.
        scale: of the noise at the beginning of the training.

    The other arguments are those of `zoo.families.normalising_flow.NormalisingFlow`.

    Raises:
        ConfigError: numbers that do not fit together, or a teacher of other recordings.
    """

    family = "autoregressive"
    sized: ClassVar[Mapping[str, str]] = {"width": "width", "skip": "width", "depth": "depth"}
    training_parts: ClassVar[tuple[str, ...]] = ("teacher",)
    trained_parts = {
        "teacher": TrainedPart(
            what="distilled from a trained WaveNet", example="wavenet-tones", requires=WaveNet,
            needs="softmax over codes behind dilated convolutions", fitted=of_wavenet,
        )
    }  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int] = (1024,),
        levels: int = 256,
        rate: int | None = None,
        teacher: nn.Module | None = None,
        flows: int = 3,
        width: int = 24,
        skip: int = 32,
        depth: int = 8,
        bandwidth: float = 0.5,
        draws: int = 2,
        power: float = 0.0,
        scale: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, prior="logistic", rate=rate, **kwargs)
        if len(self.shape) != 1 or levels is None:
            raise ConfigError(f"a Parallel WaveNet is of recordings of codes, (T,), not of {tuple(shape)}")
        if min(flows, width, skip, depth, draws) < 1 or power < 0 or not (bandwidth > 0 and scale > 0):
            raise ConfigError("flows, width, skip, depth and draws must be at least 1, bandwidth and scale positive")
        theirs: Any = teacher
        if teacher is not None and (theirs.levels, theirs.rate, theirs.num_classes) != (levels, rate, 0):
            raise ConfigError(
                f"the teacher draws {teacher.levels} levels at {teacher.rate} Hz and is told {teacher.num_classes} "
                f"classes, the model draws {levels} at {rate} Hz and is told none; make them equal"
            )
        self.bandwidth, self.draws, self.power, self.start_scale = bandwidth, draws, power, scale
        self.flows = nn.ModuleList(CausalFlow(width, [2**i for i in range(depth)], skip) for _ in range(flows))
        self.teacher = teacher.requires_grad_(False) if teacher is not None else None

    def players(self) -> dict[str, Player]:
        return {"model": Player(self.flows.parameters(), self.lr, self.betas)}

    # -- the flow -----------------------------------------------------------------------------------------------------

    def law(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return location m and log-scale of every sample of v given the noise before it: (B, T) -> (B, T) each."""
        m, log_s, u = torch.zeros_like(z), torch.full_like(z, math.log(self.start_scale)), self.start_scale * z
        for flow in self.flows:
            location, more = flow(u)
            scale = more.exp()
            m, log_s = m * scale + location, log_s + more
            u = u * scale + location
        return m, log_s

    def flow_inverse(self, z: Tensor) -> Tensor:
        m, log_s = self.law(z)
        return (m + log_s.exp() * z + 1) / 2  # v in [-1, 1] as y in [0, 1]

    @torch.no_grad()
    def flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise of continuous examples and log |det|, sample by sample; no gradient goes through it."""
        states = [_FlowState(flow, len(x)) for flow in self.flows]  # type: ignore[arg-type]
        log_det, z = x.new_full((len(x),), x.shape[1] * (math.log(2) - math.log(self.start_scale))), torch.empty_like(x)
        for t, u in enumerate((2 * x - 1).unbind(1)):
            for state in reversed(states):
                location, log_s = state.law()
                u = (u - location) * torch.exp(-log_s)
                state.put(u)
                log_det = log_det - log_s
            z[:, t] = u / self.start_scale
        return z, log_det

    # -- distillation -------------------------------------------------------------------------------------------------

    def in_codes(self, v: Tensor) -> Tensor:
        """Return companded values as codes that need not be whole: [-1, 1] -> [-1/2, L - 1/2]. Of the same shape."""
        return (v + 1) / 2 * self.levels - 0.5  # type: ignore[operator]

    def taught(self, codes: Tensor) -> Tensor:
        """Return the teacher's logits after codes that need not be whole: (B, T) -> (B, T, L)."""
        teacher: Any = self.teacher
        c = codes.clamp(0, teacher.levels - 1)
        low = c.detach().floor().clamp(max=teacher.levels - 2).long()
        part, table = (c - low)[..., None], teacher.embedding.weight
        after = table[low] * (1 - part) + table[low + 1] * part  # (B, T, C)
        start = table[teacher.levels].expand(len(codes), 1, -1)
        logits: Tensor = teacher.head(teacher.layers(torch.cat([start, after[:, :-1]], 1)))
        return logits

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` in nats, ``kl`` and the two parts of it, and ``power`` where that has a weight.

        Raises:
            ConfigError: there is no teacher any more.
        """
        if self.teacher is None:
            raise ConfigError("distillation is over and its teacher is gone: train with --teacher, a run or a name")
        z = self.noise(*batch[0].shape)
        m, log_s = self.law(z)
        s, density = log_s.exp(), math.log(self.levels / 2)  # type: ignore[operator]  # from codes to v
        v = m + s * z
        logits = self.taught(self.in_codes(v))
        cross = m.new_zeros(())
        for _ in range(self.draws):
            x_t = m + s * self.noise(*z.shape)  # each sample anew, after the same noise
            log_p = relaxed_log_prob(logits, self.in_codes(x_t), self.bandwidth) + density
            cross = cross - log_p.sum(1).mean() / self.draws
        entropy = log_s.sum(1).mean() + _ENTROPY * z.shape[1]
        found = {"loss": cross - entropy, "kl": cross - entropy, "cross_entropy": cross, "entropy": entropy}
        if self.power:
            found["power"] = self.power_gap(v, batch[0])
            found["loss"] = found["loss"] + self.power * found["power"]
        return found

    def power_gap(self, v: Tensor, x: Tensor) -> Tensor:
        """Return the squared difference between the mean power spectra of draws (B, T) and of examples in data range.

        The paper compares each draw with the recording that it is told of; told of none, batches are compared.
        """
        size = min(512, v.shape[1] // 2 * 2)
        levels: int = self.levels  # type: ignore[assignment]
        wide = torch.promote_types(v.dtype, torch.float32)
        waves = (mulaw_decode(y.to(wide), levels) for y in (((v + 1) / 2).clamp(0, 1), x))
        ours, theirs = (power_spectrogram(w, size, max(1, size // 4)).mean((0, 1)) for w in waves)
        return (ours - theirs).square().sum()

    def noise(self, *shape: int) -> Tensor:
        """Return logistic training noise of a shape."""
        return self.rand(*shape).clamp(min=1e-7).logit(eps=1e-7)


class _FlowState:
    """A flow, evaluated sample by sample."""

    def __init__(self, flow: CausalFlow, n: int) -> None:
        self.flow = flow
        self.state: DilatedState = flow.layers.start(n)
        self.put(flow.first.weight.new_zeros(n))

    def put(self, u: Tensor) -> None:
        """Take the noise of one more sample, (n,)."""
        self.state.x.copy_(self.flow.first(u[:, None]))
        self.state.step()

    def law(self) -> tuple[Tensor, Tensor]:
        """Return location and log-scale of the next sample, (n,) each."""
        return self.flow.head(0.5 * self.state.z)  # the state's z is twice that of the layers
