"""A learned prior over the codes of a trained autoencoder, and with it a generative model of the data.

    log p(x) >= log p(x | c(x)) + log p(c(x)),   samples: c ~ p(c), then the mean of p(x | c)

The autoencoder is frozen. The prior is any model of images whose pixels are codes: one with a likelihood, such as a
PixelCNN, gives the bound; one without, such as a masked transformer, gives samples. Where the autoencoder draws its
codes, the bound is that of draws c ~ q(c | x), with p(c) / q(c | x) in the place of p(c) (IWAE).

References:
    A. van den Oord, O. Vinyals, K. Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937,
    section 3.3.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.abilities import DrawsCodes, DrawsValues, FitsCodes, ReadsCodes, Tokenises, has_likelihood
from zoo.errors import ConfigError
from zoo.families.second_stage import SecondStage
from zoo.maths.completion import covered, known_values
from zoo.model import Batch, LikelihoodModel, TrainedPart, seeded
from zoo.spec import class_of

__all__ = ["CodePrior"]


def _fitted(arguments: Mapping[str, Any], autoencoder: Any) -> dict[str, Any]:
    """Return the arguments of a `CodePrior` over the codes of this very autoencoder."""
    prior = arguments["prior"]
    given, kind = dict(prior.get("init_args") or {}), None
    with contextlib.suppress(ConfigError):  # a class of a user's own is asked for nothing but shape and levels
        kind = class_of(prior["class_path"])
    if isinstance(kind, FitsCodes):
        fitted = kind.fitted_to_codes(given, autoencoder)
    else:
        fitted = {**given, "shape": list(autoencoder.grid), "levels": autoencoder.codebook_size}
    return {**arguments, "autoencoder": autoencoder.spec, "prior": {**prior, "init_args": fitted}}


class CodePrior(SecondStage, LikelihoodModel):
    """A frozen autoencoder with discrete codes, and a prior that is fitted to them.

    Args:
        autoencoder: a `zoo.families.discrete.DiscreteAutoencoder`, or another that `zoo.abilities.Tokenises`; never
            trained here.
        prior: a model of images whose shape is the autoencoder's ``grid`` and whose levels are its
            ``codebook_size``; its learning rate is the one that counts, and its sampler's options are options here.

    Raises:
        ConfigError: a prior that does not fit the codes.
    """

    family = "vae"
    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "autoencoder": TrainedPart(
            what="a prior over the codes of a trained autoencoder", example="vq_vae-mnist", requires=Tokenises,
            needs="discrete codes", fitted=_fitted,
        )
    }  # fmt: skip

    def __init__(self, autoencoder: nn.Module, prior: nn.Module) -> None:
        if tuple(prior.shape) != tuple(autoencoder.grid) or prior.levels != autoencoder.codebook_size:
            raise ConfigError(
                f"the autoencoder's codes have shape {autoencoder.grid} and {autoencoder.codebook_size} values, the "
                f"prior is built for shape {tuple(prior.shape)} and {prior.levels} levels; set these to the codes'"
            )
        super().__init__(autoencoder, prior)
        self.grid, self.codebook_size = autoencoder.grid, autoencoder.codebook_size
        if isinstance(prior, ReadsCodes):
            prior.reads(autoencoder)

    # -- data, codes, and back ----------------------------------------------------------------------------------------

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of examples: (B, *shape) in data range -> int64 (B, *grid), 0..codebook_size-1."""
        return self.autoencoder.codes(x)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the codes of one example, as ``decode`` takes them."""
        return tuple(self.grid)

    @property
    def latent_values(self) -> int:
        """How many values a code has."""
        return self.codebook_size

    def encode(self, x: Tensor) -> Tensor:
        """Return `codes`."""
        return self.codes(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the mean of p(x | codes): int64 (B, *grid) -> (B, *shape) in data range."""
        return self.autoencoder.decode(codes)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x | codes(x)): (B, *shape) -> (B, *shape), both in data range."""
        return self.decode(self.codes(x))

    def image(self, codes: Tensor) -> Tensor:
        """Return codes as the prior's images, in [0, 1]; float32 at least, which keeps millions of levels apart."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        return codes.to(dtype) / (self.codebook_size - 1)

    def stored(self, x: Tensor) -> Tensor:
        """Return what training may keep of examples, as they never change: their codes, which `stage` takes as well."""
        return self.codes(x)

    @property
    def storable(self) -> bool:
        """Whether the prior learns from codes alone."""
        return not getattr(self.prior, "learns_from_latents", False)

    def stage(self, batch: Batch) -> Batch:
        """Return codes as the prior's images, of examples or, where they are integers, of codes (B, *grid).

        A prior that learns from what was quantised, as it says by ``learns_from_latents``, is given that in training.
        """
        x, labels = batch
        with torch.no_grad():
            if self.training and not self.storable:
                return self.autoencoder.latent(x), labels
            return self.image(self.codes(x) if x.is_floating_point() else x), labels

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def terms_of(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean of -log p(codes) in nats and in bits per code; all terms of a prior that has another loss."""
        if not isinstance(self.prior, LikelihoodModel):
            return terms
        return {"loss": terms["loss"], "bits_per_code": terms["loss"] / (math.prod(self.grid) * math.log(2))}

    @property
    def has_likelihood(self) -> bool:
        """Whether the prior has one, which gives the bound."""
        return has_likelihood(self.prior)

    @property
    def likelihood_examples(self) -> int | None:  # type: ignore[override]
        """What the prior says."""
        return getattr(self.prior, "likelihood_examples", None)

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return log p(x | codes(x)) + log p(codes(x)), in nats: (B, *shape) in data range -> (B,).

        ``k`` and ``seed`` are for the prior, where its likelihood is a bound that takes them. Where the autoencoder
        draws its codes, it is log (1/k) sum_i p(x | c_i) p(c_i) / q(c_i | x) (IWAE-k), with one draw where the prior
        has but a bound.

        Raises:
            ConfigError: the prior has no likelihood, or what `HasLikelihood.log_prob` refuses.
        """
        if not self.has_likelihood:
            raise ConfigError(
                f"the prior is a {type(self.prior).__name__}, which has no likelihood, so there is no bound on log "
                f"p(x); a prior such as PixelCNN has one"
            )
        labels = self.given_labels(len(x), labels)
        given: dict[str, Any] = {} if labels is None else {"labels": labels}
        if not isinstance(self.autoencoder, DrawsCodes):
            return self._joint(x, self.codes(x), k=k, seed=seed, **given)
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        generator, draws = seeded(seed), self._draws(k)
        weights = []
        for _ in range(draws):
            codes, log_q = self.autoencoder.drawn_codes(x, generator)
            inner = 1 if draws == k else k
            weights.append(self._joint(x, codes, k=inner, seed=generator, **given) - log_q)
        return torch.stack(weights).logsumexp(0) - math.log(draws)

    def _joint(self, x: Tensor, codes: Tensor, **given: Any) -> Tensor:
        """Return log p(x | codes) + log p(codes), (B,)."""
        return self.autoencoder.log_likelihood(x, codes) + self.prior.log_prob(self.image(codes), **given)

    def _draws(self, k: int) -> int:
        """Return over how many draws of the codes `log_prob` averages; a bound inside a logarithm of a mean is none."""
        exact = self.has_likelihood and self.prior.likelihood() == "exact"
        return k if exact and isinstance(self.autoencoder, DrawsCodes) else 1

    def likelihood(self, k: int = 1) -> str:
        return "elbo" if self._draws(k) == 1 else f"iwae-{k}"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {**super().option_words(), "codes": ("prior", "uniform"), "observe": ("mean", "sample")}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        codes: str = "prior",
        observe: str = "mean",
        **options: Any,
    ) -> Tensor:
        """Draw codes from the prior and decode them.

        Args:
            codes: ``prior``, or ``uniform`` for codes that are drawn each by itself, which shows what the prior does.
            observe: ``mean`` of p(x | codes), or ``sample`` for a draw from it, pixel by pixel.
            options: of the prior's sampler, such as a temperature.
        """
        if codes not in ("prior", "uniform"):
            raise ConfigError(f"codes must be 'prior' or 'uniform', got {codes!r}")
        if codes == "uniform" and options:
            raise ConfigError(
                f"{', '.join(options)}: an option of the prior, which uniform codes leave out; drop it, or codes"
            )
        if codes == "uniform":
            return self.autoencoder.picture(self.autoencoder.uniform_codes(n, generator), generator, observe)
        found = known_values(self.shape, n, options.pop("given", None), options.pop("known", None), self.device)
        if found is not None:
            x, mask = found[0].to(self.dtype), found[1]
            options |= {"given": self.image(self.codes(x)), "known": self.known_codes(mask)}
        picture = self.autoencoder.picture(self.draw_codes(n, generator, labels, **options), generator, observe)
        return picture if found is None else torch.where(mask, x, picture)

    def option_parameters(self) -> dict[str, inspect.Parameter]:
        """Return those of a second stage; and ``given`` and ``known`` examples where the prior completes codes.

        What is known of an example stays as it is. Those codes are known of which all pixels are, see `known_codes`. A
        prior that draws code after code continues the codes of clips, which are in the order of time.
        """
        in_time = len(self.grid) == 4 and isinstance(self.prior, DrawsValues)
        of_prior = self.prior.option_parameters() if in_time or getattr(self.prior, "completes", False) else {}
        completing = {name: of_prior[name] for name in ("given", "known") if name in of_prior}
        return {**super().option_parameters(), **completing}

    def known_codes(self, mask: Tensor) -> Tensor:
        """Return which codes stand for pixels that are all known: bool (B, *shape) -> bool (B, *grid).

        Raises:
            ConfigError: codes that have no place in the example.
        """
        if hasattr(self.autoencoder, "known_codes"):
            return self.autoencoder.known_codes(mask)
        G, h, w = self.grid
        if mask.ndim != 4 or (h == 1 and w > 1):
            raise ConfigError(
                f"codes of shape {tuple(self.grid)} have no place in an image, so none is known of a part"
            )
        return covered(mask, (h, w)).expand(-1, G, -1, -1)

    def draw_codes(self, n: int, generator: torch.Generator, labels: Tensor | None = None, **options: Any) -> Tensor:
        """Draw codes from the prior, int64 (n, *grid)."""
        return self.codes_of(self.prior.draw(n, generator, labels, **options))

    def codes_of(self, x: Tensor) -> Tensor:
        """Undo `image`."""
        return (x.to(torch.promote_types(x.dtype, torch.float32)) * (self.codebook_size - 1)).round().long()

    def examples_of(self, z: Tensor) -> Tensor:
        return self.decode(self.codes_of(z))

    def controls(self) -> dict[str, Callable[[Tensor, int], Tensor]]:
        """Return what evaluation measures beside samples: reconstructions, and samples without the prior."""
        own = {
            "reconstructions": lambda x, seed: self.reconstruct(x),
            "uniform_codes": lambda x, seed: self.sample(len(x), seed=seed, codes="uniform"),
        }
        return {**self.autoencoder.controls(), **own}
