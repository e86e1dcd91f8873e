"""TiTok: an image as a row of M discrete tokens, each of which may speak of all of it.

Stage 1 teaches the tokens to say the codes c' of another, trained autoencoder (proxy codes), position by position:

    L = -sum_n log softmax(decoder(z_q))_{n, c'_n(x)} + commitment

Stage 2 leaves the encoder, its learnt tokens and the codebook as they are, and tunes the decoder and that of the other
autoencoder on pixels, through the mean of its code vectors under the probabilities of the proxy codes:

    L = -log p(x | sum_k softmax(decoder(z_q))_k e'_k)

In either stage that mean is what the pixels are decoded from, so both stages have reconstructions and a likelihood.

References:
    Q. Yu and others, An Image is Worth 32 Tokens for Reconstruction and Generation, 2024, arXiv:2406.07550. There, a
    perceptual loss and a discriminator join stage 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checking import trusted
from zoo.errors import ConfigError
from zoo.families.discrete import DiscreteAutoencoder
from zoo.families.vq_vae import VQVAE
from zoo.maths.observation import Observation
from zoo.model import TrainedPart
from zoo.nets.quantisers import Quantised

__all__ = ["TiTok", "TunedTiTok"]


def _fitted(arguments: Mapping[str, Any], autoencoder: Any) -> dict[str, Any]:
    """Return the arguments of a `TiTok` that says the codes of this very autoencoder."""
    C, *size = autoencoder.shape
    changes = {
        "encoder": {"channels": C, "size": size},
        "decoder": {"channels": autoencoder.codebook_size, "size": list(autoencoder.grid[1:])},
    }
    nets = {name: dict(arguments[name].get("init_args") or {}) for name in changes}
    fitted = {
        name: {**arguments[name], "init_args": {**args, **{k: v for k, v in changes[name].items() if k in args}}}
        for name, args in nets.items()
    }
    return {**arguments, **fitted, "autoencoder": autoencoder.spec}


class TiTok(VQVAE):
    """Stage 1: tokens that say the codes of a frozen autoencoder.

    Args:
        autoencoder: a `zoo.families.vq_vae.VQVAE` with one code of K' values a position; never trained here.
        encoder: (B, *shape) -> (B, D, 1, M), such as a `zoo.nets.latent_tokens.TokenEncoder`.
        decoder: (B, D, 1, M) -> (B, K', h, w), logits of the proxy codes, such as a `TokenDecoder`.
        quantiser: of the tokens; a `VectorQuantiser` that is ``normalised`` in the paper.
        tokens: M.
        lr: peak learning rate.
        betas: Adam's decay rates.
        commitment: weight of the commitment loss.

    Raises:
        ConfigError: an autoencoder of another kind.
    """

    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "autoencoder": TrainedPart(
            what="trained to say the codes of a trained autoencoder", example="vq_vae-mnist", requires=VQVAE,
            needs="map of discrete codes", fitted=_fitted,
        )
    }  # fmt: skip

    def __init__(
        self,
        autoencoder: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        quantiser: nn.Module,
        tokens: int,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        commitment: float = 0.25,
    ) -> None:
        if not isinstance(autoencoder, VQVAE) or autoencoder.grid[0] != 1:
            found = f" with {autoencoder.grid[0]} codes" if isinstance(autoencoder, VQVAE) else ""
            raise ConfigError(
                f"TiTok says the codes of an autoencoder that has one code a position, such as vq_vae or fsq, got a "
                f"{type(autoencoder).__name__}{found}"
            )
        super().__init__(
            encoder, decoder, quantiser, list(autoencoder.shape), [1, tokens], autoencoder.observed, lr=lr, betas=betas,
            commitment=commitment,
        )  # fmt: skip
        self.autoencoder = autoencoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TiTok:
        """Set the mode; the autoencoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def proxy_vectors(self) -> Tensor:
        """Return the vectors e' of the proxy codes, (K', D')."""
        codes = torch.arange(self.autoencoder.codebook_size, device=self.device)
        return self.autoencoder.embed(codes[:, None, None, None])[:, :, 0, 0].detach()

    def observation(self, z: Tensor) -> Observation:
        """Return p(x | tokens): (B, D, 1, M) -> a distribution over (B, *shape)."""
        return self._pixels(self.decoder(z))

    def _pixels(self, logits: Tensor) -> Observation:
        mean = torch.einsum("bkhw,kd->bdhw", logits.softmax(1), self.proxy_vectors().to(logits))
        return self.autoencoder.observation(mean)

    def objective(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Quantised], Observation | None]:
        """Return the terms of stage 1, ``proxy`` in nats an example; pixels are decoded in evaluation alone."""
        z, made = self.quantise(x)
        logits = self.decoder(z)
        with torch.no_grad(), trusted():
            target = self.autoencoder.codes(x)[:, 0]  # (B, h, w)
        terms = {"proxy": F.cross_entropy(logits, target, reduction="sum") / len(x)}
        loss = terms["proxy"]
        for name, weight in self.weights().items():
            if name in made[""].losses:
                terms[name] = made[""].losses[name]
                loss = loss + weight * terms[name]
        terms["perplexity"] = self.perplexity(made[""])
        terms["proxy_accuracy"] = (logits.argmax(1) == target).to(loss.dtype).mean()
        p = None if self.training else self._pixels(logits)
        if p is not None:
            terms["reconstruction"] = -p.log_prob(x).flatten(1).sum(1).mean()
            terms["elbo"] = -terms["reconstruction"] - self.code_nats(made)
        return {"loss": loss, **terms}, made, p


def _fitted_stage(arguments: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    return {**arguments, "tokenizer": tokenizer.spec}


class TunedTiTok(DiscreteAutoencoder):
    """Stage 2: the decoders of a trained `TiTok`, tuned on pixels; its codes stay what they were.

    Args:
        tokenizer: a `TiTok`; its encoder, learnt tokens and codebook are never trained here.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: another tokenizer.
    """

    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "tokenizer": TrainedPart(
            what="the second stage of a trained TiTok", example="titok-mnist", requires=TiTok, needs="proxy codes",
            fitted=_fitted_stage,
        )
    }  # fmt: skip

    def __init__(self, tokenizer: nn.Module, lr: float = 5e-4, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        if not isinstance(tokenizer, TiTok):
            raise ConfigError(f"stage 2 of TiTok tunes the decoders of a TiTok, got a {type(tokenizer).__name__}")
        super().__init__(
            tokenizer.shape, tokenizer.grid, tokenizer.codebook_size, tokenizer.observed, lr=lr, betas=betas
        )
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        tokenizer.decoder.requires_grad_(True)
        tokenizer.autoencoder.decoder.requires_grad_(True)
        if tokenizer.autoencoder.raw_scale is not None:
            tokenizer.autoencoder.raw_scale.requires_grad_(True)

    def train(self, mode: bool = True) -> TunedTiTok:
        """Set the mode of the decoders; what is frozen stays in eval mode."""
        super().train(mode)
        self.tokenizer.eval()
        self.tokenizer.decoder.train(mode)
        self.tokenizer.autoencoder.decoder.train(mode)
        return self

    def compilable(self) -> list[nn.Module]:
        return [self.tokenizer.decoder, self.tokenizer.autoencoder.decoder]

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        return self.tokenizer.codes(x)

    def embed(self, codes: Tensor) -> Tensor:
        return self.tokenizer.embed(codes)

    def quantise(self, x: Tensor) -> tuple[Tensor, dict[str, Quantised]]:
        with trusted():
            codes = self.codes(x)
        z = self.embed(codes).detach()
        return z, {"": Quantised(z, codes)}

    def learn(self, made: dict[str, Quantised]) -> None:
        """Do nothing: the codebook is that of stage 1."""

    def observation(self, z: Tensor) -> Observation:
        return self.tokenizer.observation(z)
