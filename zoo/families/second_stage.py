"""What all models share that are a prior of what a trained autoencoder makes of the data.

    z = e(x),  fit p(z);   samples: z ~ p(z), then the decoder's x

The autoencoder is frozen. The prior is any model of such z: what it is trained by, how it is sampled and which options
that takes is its own business, and shows through.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.abilities import Unmasks
from zoo.errors import ConfigError
from zoo.model import Batch, GenerativeModel, Player

__all__ = ["SecondStage"]

_OF_EXAMPLES = ("given", "known", "prompt", "length")
"""Options that say what is known of an example, or how long it is: of z they would mean something else than of x."""


class SecondStage(GenerativeModel):
    """A frozen autoencoder, and a prior that is trained on what it makes of the data.

    A family says in `encode` what that is, and in `draw` how it becomes an example again. Its own sampling options are
    the named ones of ``draw``; those of the prior's sampler are passed on to it.

    Args:
        autoencoder: never trained here.
        prior: a model of its codes or latents; its learning rate, labels and sampler are those that count.

    Raises:
        ConfigError: a prior that moves several players, whose steps are not one loss.
    """

    def __init__(self, autoencoder: nn.Module, prior: nn.Module) -> None:
        super().__init__()
        if not prior.automatic_optimization:
            raise ConfigError(
                f"the prior is a {type(prior).__name__}, whose players take turns; {type(self).__name__} trains a "
                f"prior with one loss (a game on latents is zoo.families.gat.GAT)"
            )
        self.autoencoder, self.prior = autoencoder.requires_grad_(False).eval(), prior
        self.shape, self.levels = autoencoder.shape, autoencoder.levels
        self.num_classes, self.context = prior.num_classes, prior.context
        self.alphabet = prior.alphabet if prior.context else None
        self.steps_to_move, self.first_steps, self.period = prior.steps_to_move, prior.first_steps, prior.period
        self.counted_from = prior.counted_from
        self.never_updated = {f"prior.{name}": why for name, why in prior.never_updated.items()}
        if isinstance(prior, Unmasks):
            self.unmasking = self._unmasking

    def train(self, mode: bool = True) -> SecondStage:
        """Set the prior's mode; the autoencoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    # -- training, which is the prior's -------------------------------------------------------------------------------

    def players(self) -> dict[str, Player]:
        return self.prior.players()

    def compilable(self) -> list[nn.Module]:
        return self.prior.compilable()

    def adopt(self) -> None:
        self.prior.adopt()

    def set_noise(self, streams: Sequence[torch.Generator]) -> None:
        super().set_noise(streams)
        self.prior.set_noise(streams)

    @property
    def steps_done(self) -> int:
        """Completed steps, which the prior counts."""
        return self.prior.steps_done

    @steps_done.setter
    def steps_done(self, value: int) -> None:
        self.prior.steps_done = value

    def stage(self, batch: Batch) -> Batch:
        """Return the batch as the prior sees it: what the autoencoder makes of the examples, and their labels."""
        raise NotImplementedError

    def terms_of(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what is logged of the prior's terms."""
        return terms

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the prior on the batch as it sees it."""
        return self.terms_of(self.prior.loss(self.stage(batch)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.prior.training_step(self.stage(batch), batch_idx)
        self.terms = {name: value.detach() for name, value in self.terms_of(self.prior.terms).items()}
        return loss

    # -- sampling -----------------------------------------------------------------------------------------------------

    def examples_of(self, z: Tensor) -> Tensor:
        """Return the examples that the decoder makes of what the prior draws: (n, *prior.shape) -> (n, *shape)."""
        raise NotImplementedError

    @torch.no_grad()
    def _unmasking(self, n: int, seed: int = 0, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return images after each of the sampler's steps, (steps, n, *shape) twice: of what is kept, and of all.

        The first ones are grey where a code or token is masked; of codes that have no place all of the image is, by
        their share.
        """
        kept_only, everything = [], []
        for z, kept in self.prior.unmasking(n, seed, labels):
            x, known = self.examples_of(z), kept.to(z.dtype).mean(1, keepdim=True)  # (n, 1, h, w)
            if known.shape[2] == 1 and known.shape[3] > 1:
                known = known.mean(3, keepdim=True)
            share = F.interpolate(known, x.shape[2:], mode="nearest")
            everything.append(x)
            kept_only.append(torch.lerp(torch.full_like(x, 0.5), x, share.to(x.dtype)))
        return torch.stack(kept_only), torch.stack(everything)

    def option_parameters(self) -> dict[str, inspect.Parameter]:
        """Return the family's own sampling options, and those of the prior that mean the same here."""
        passed = {k: p for k, p in self.prior.option_parameters().items() if k not in _OF_EXAMPLES}
        return {**passed, **super().option_parameters()}

    def sampler(self, options: Mapping[str, Any]) -> dict[str, Any]:
        options = {**self.chosen_options, **options}
        here, of_prior = super().sampler(options), self.prior.sampler(self.passed_on(options))
        return {**here, **{name: of_prior[name] for name in self.passed_on(here)}}

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {**self.prior.option_words(), **super().option_words()}

    def passed_on(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return those options that are the prior's."""
        own = super().option_parameters()
        return {name: value for name, value in options.items() if name not in own}

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return that of the prior, with which the decoder goes along."""
        return self.prior.granule(self.passed_on(options))

    def calls(self, options: Mapping[str, Any]) -> float:
        """Evaluations of the prior's network with these options, and one of the decoder."""
        return self.prior.calls(self.passed_on({**self.chosen_options, **options})) + 1

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the prior's network, and one of the decoder."""
        return self.prior.calls_per_sample + 1
