"""Visual autoregression: codes of a whole map at once, scale by scale, each scale given all smaller ones.

    p(c) = prod_k p(c_k | c_1, ..., c_{k-1}),   the cells of scale k independent given the smaller scales

The cells of scale k see, in the place of codes, the sum f_{k-1} of all that the smaller scales stand for, reduced to
their own size: it is what the tokenizer made of these codes, so the model reads codes through its tokenizer.

References:
    K. Tian, Y. Jiang, Z. Yuan, B. Peng, L. Wang, Visual Autoregressive Modeling: Scalable Image Generation via
    Next-Scale Prediction, 2024, arXiv:2404.02905.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.token_model import TokenModel
from zoo.maths.completion import known_values
from zoo.maths.decoding import Decoding
from zoo.maths.guidance import guide
from zoo.maths.noise import rand
from zoo.model import Batch, LikelihoodModel
from zoo.nets.multi_scale_quantiser import MultiScaleQuantiser
from zoo.nets.scale_transformer import ScaleTransformer
from zoo.sampling import Labels, interruption_point

__all__ = ["VAR"]


class VAR(TokenModel, LikelihoodModel):
    """Block-causal Transformer over the codes of a `zoo.families.multi_scale_vq.MultiScaleVQ`.

    Where the tokenizer has G groups, those of a cell are independent given the smaller scales.

    Args:
        shape: of the codes of an example, (G, 1, L), L = sum_k s_k^2.
        levels: K, values of a code.
        scales: s_1, ..., s_S.
        channels: D, of the tokenizer's map.
        width: d, of the stream.
        depth: blocks.
        heads: attention heads.
        hidden: width inside the two-layer networks, 4 d if left out.

    The other arguments are those of `TokenModel`; w is ``guidance_scale`` at the last scale, and at scale k it is
    1 + (w - 1) (k - 1) / (S - 1).

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "hidden": "width", "depth": "depth"}

    completes = True
    steps_to_move = 3

    def __init__(
        self,
        shape: Sequence[int],
        levels: int,
        scales: Sequence[int],
        channels: int,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        hidden: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, **kwargs)
        if not scales or tuple(self.shape[1:]) != (1, sum(s * s for s in scales)):
            raise ConfigError(
                f"codes at scales {list(scales)} lie in a row, shape [G, 1, {sum(s * s for s in scales)}], got "
                f"{list(self.shape)}"
            )
        self.scales, self.channels = tuple(scales), channels
        G = self.shape[0]
        self.network = ScaleTransformer(channels, scales, width, depth, heads, hidden, self.num_classes, G * levels)

    # -- the tokenizer, through which codes are read ------------------------------------------------------------------

    @classmethod
    def fitted_to_codes(cls, arguments: Mapping[str, Any], autoencoder: Any) -> dict[str, Any]:
        """Return arguments that fit the codes of a tokenizer. Raises `ConfigError` for one without scales."""
        q = _pyramid(cls, autoencoder)
        fitted = super().fitted_to_codes(arguments, autoencoder)
        return {**fitted, "scales": list(q.scales), "channels": q.dim}

    def reads(self, autoencoder: Any) -> None:
        """Read codes through this tokenizer, which is held by who holds this model. Raises `ConfigError`."""
        q = _pyramid(type(self), autoencoder)
        if q.scales != self.scales or q.dim != self.channels:
            raise ConfigError(
                f"the tokenizer has scales {list(q.scales)} and {q.dim} channels, the prior is built for "
                f"{list(self.scales)} and {self.channels}; set these to the tokenizer's"
            )
        self.__dict__["_tokenizer"] = q  # no part of this model: its weights are the tokenizer's

    @property
    def tokenizer(self) -> MultiScaleQuantiser:
        """The quantiser of the tokenizer. Raises `ConfigError` where there is none."""
        if self.__dict__.get("_tokenizer") is None:
            raise ConfigError(
                f"{type(self).__name__} reads codes through their tokenizer; make it the prior of a CodePrior over a "
                f"MultiScaleVQ"
            )
        return self.__dict__["_tokenizer"]

    def compilable(self) -> list[nn.Module]:
        return [self.network]

    def inputs(self, codes: Tensor) -> Tensor:
        """Return what the network sees of codes: int64 (B, G, 1, l) of the first scales -> (B, cells, D).

        That is f_{k-1}, reduced to scale k, of each scale k but the first up to one beyond those given.
        """
        q, parts = self.tokenizer, []
        if codes.shape[3]:
            for k, f in enumerate(q.sums(codes)[: len(self.scales) - 1], 1):
                parts.append(q.reduce(f, k).flatten(2).transpose(1, 2))  # (B, s_k^2, D)
        none = torch.empty(len(codes), 0, self.channels, device=codes.device)
        return torch.cat(parts, 1).to(self.dtype) if parts else none.to(self.dtype)

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **where: Any) -> Tensor:
        """Return logits of the cells of all scales: (B, cells, D) -> (B, L, G, K); see `ScaleTransformer.forward`."""
        return self.network(inputs, labels, **where).unflatten(2, (self.shape[0], self.levels))

    def scores(self, inputs: Tensor, codes: Tensor, labels: Tensor | None) -> Tensor:
        """Return log p of codes int64 (B, G, 1, L), given the inputs, in nats, (B,)."""
        z = self(inputs, labels)
        log_p = -F.cross_entropy(z.flatten(0, 2), codes[:, :, 0].transpose(1, 2).flatten(), reduction="none")
        return log_p.view(len(codes), -1).sum(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of -log p(codes), in nats."""
        c = self.quantize(batch[0])
        return {"loss": -self.scores(self.inputs(c), c, self.dropped(batch[1])).mean()}

    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return log p(codes) in nats, exactly: (B, *shape) in [0, 1] -> (B,). ``k`` and ``seed`` have no effect."""
        c = self.quantize(x)
        return self.scores(self.inputs(c), c, self.given_labels(len(x), labels))

    def likelihood(self, k: int = 1) -> str:
        return "exact"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance_scale: float | None = None,
        cached: bool = True,
        given: Tensor | None = None,
        known: Tensor | int | None = None,
    ) -> Tensor:
        """Draw codes, in [0, 1], (n, *shape), scale by scale.

        Args:
            temperature: of every softmax.
            top_k: draw among the k most probable values.
            top_p: draw among the most probable values whose probabilities sum to at least p.
            guidance_scale: w of a conditional model.
            cached: compute each scale once; otherwise all scales so far, for the same codes.
            given: partly known codes in [0, 1]; the known ones stay as they are, at every scale.
            known: which of ``given`` are kept.
        """
        choose = Decoding(temperature, False, top_k, top_p)
        w = self.guidance_scale if guidance_scale is None else guidance_scale
        guide(self.network, w, labels, self.num_classes)  # refuses what cannot be guided
        conditions = [labels] if w == 1 else [labels, torch.full_like(labels, self.num_classes)]
        found = known_values(self.shape, n, given, known, self.device)
        fixed = None if found is None else (self.quantize(found[0].to(self.dtype)), found[1])
        u = rand((n, self.shape[2], self.shape[0]), generator, self.device, self.dtype)  # (n, L, G)
        pasts = [self.network.nothing() if cached else None for _ in conditions]
        c = torch.empty(n, self.shape[0], 1, 0, dtype=torch.int64, device=self.device)
        for k, end in enumerate(self.network.ends):
            interruption_point()
            begin, inputs = c.shape[3], self.inputs(c)
            seen = inputs[:, begin - self.network.ends[0] :] if cached and k else inputs
            z = [
                self(seen, y, first=k if cached else 0, past=past)[:, begin - end :]
                for y, past in zip(conditions, pasts, strict=True)
            ]  # (n, s_k^2, G, K) each
            w_k = 1 + (w - 1) * k / max(1, len(self.scales) - 1)
            mixed = z[0] if w == 1 else (1 - w_k) * z[1] + w_k * z[0]
            drawn = choose(mixed, u[:, begin:end]).transpose(1, 2)[:, :, None]  # (n, G, 1, s_k^2)
            if fixed is not None:
                drawn = torch.where(fixed[1][..., begin:end], fixed[0][..., begin:end], drawn)
            c = torch.cat([c, drawn], 3)
        return c.to(self.dtype) / (self.levels - 1)

    def calls(self, options: Mapping[str, Any]) -> float:
        scale = self.sampler(options)["guidance_scale"]
        return float(len(self.scales) * (2 if self.num_classes and scale != 1 else 1))

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network: one a scale, two under guidance."""
        return int(self.calls({}))


def _pyramid(cls: type, autoencoder: Any) -> MultiScaleQuantiser:
    q = dict(autoencoder.named_children()).get("quantiser")
    if not isinstance(q, MultiScaleQuantiser):
        raise ConfigError(
            f"{cls.__name__} is a prior over codes at growing scales, and the autoencoder, a "
            f"{type(autoencoder).__name__}, has none; give one such as var_tokenizer-mnist"
        )
    return q
