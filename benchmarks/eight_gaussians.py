"""Every adversarial objective on eight Gaussians in the plane, with the same networks, batches and budget.

    python benchmarks/eight_gaussians.py [--steps 3000] [--seeds 5]

A sample is good within 3 standard deviations of a centre; a mode is covered when at least 2 % of 10,000 samples are
good there. Samples come from the averaged generator. The budget is the generator's and the critic's updates together,
so that an objective with five critic updates to one of the generator is not given more compute.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zoo.data.toys import EightGaussians
from zoo.families.adversarial import AdversarialModel
from zoo.families.gan import GAN
from zoo.families.r3gan import R3GAN
from zoo.families.sn_gan import SNGAN
from zoo.families.wgan import WGAN
from zoo.families.wgan_gp import WGANGP
from zoo.nets.mlp import MLP

SAMPLES, SHARE, WITHIN, BATCH, LATENT, WIDTH, DECAY = 10_000, 0.02, 3.0, 128, 4, 64, 0.99

GAMES: dict[str, tuple[type[AdversarialModel], dict[str, Any]]] = {
    "gan": (GAN, {"lr": 1e-3, "betas": (0.5, 0.9)}),
    "gan, least squares": (GAN, {"objective": "least_squares", "lr": 1e-3, "betas": (0.5, 0.9)}),
    "gan, R1": (GAN, {"r1": 0.1, "lr": 1e-3, "betas": (0.0, 0.9)}),
    "wgan": (WGAN, {"n_critic": 5, "clip": 0.1, "lr": 5e-4}),
    "wgan_gp": (WGANGP, {"n_critic": 2, "penalty": 0.1, "lr": 1e-3, "betas": (0.0, 0.9)}),
    "sn_gan": (SNGAN, {"n_critic": 2, "lr": 1e-3, "critic_lr": 2e-3, "betas": (0.0, 0.9)}),
    "r3gan": (R3GAN, {"gamma": 0.1, "lr": 1e-3, "betas": (0.0, 0.9)}),
}
TARGET = ("wgan_gp", "sn_gan", "r3gan")


def networks() -> tuple[MLP, MLP]:
    """Return a generator and a critic, alike for all."""
    return MLP([LATENT, WIDTH, WIDTH, 2], "leaky_relu"), MLP([2, WIDTH, WIDTH, 1], "leaky_relu")


def stepping(model: AdversarialModel) -> Callable[[str], Any]:
    """Return a stand-in for `turn` outside Lightning: it steps the player's optimizer at once."""
    optimizers = dict(zip(model.players(), model.configure_optimizers(), strict=True))

    @contextmanager
    def turn(player: str) -> Iterator[Callable[[Tensor], bool]]:
        for name in optimizers:
            getattr(model, name).requires_grad_(name == player)

        def update(loss: Tensor) -> bool:
            loss.backward()
            optimizers[player].step()
            optimizers[player].zero_grad()
            model.steps_done += player == "critic"
            return True

        yield update

    return turn


def train(name: str, seed: int, updates: int) -> tuple[AdversarialModel, float]:
    """Play a game for a number of updates, and return the model with the averaged generator, and the seconds."""
    torch.manual_seed(seed)
    cls, options = GAMES[name]
    model = cls(*networks(), LATENT, [2], bounded=False, **options)
    model.turn = stepping(model)  # type: ignore[method-assign]
    mean = copy.deepcopy(model.generator)
    data, start, done = EightGaussians(), time.process_time(), 0
    source = torch.Generator().manual_seed(seed)
    while done < updates:
        model.training_step(data.draw(BATCH, source), model.steps_done)
        moved = model.steps_done % model.n_critic == 0
        done += 1 + moved
        if moved:
            with torch.no_grad():
                torch._foreach_lerp_(list(mean.parameters()), list(model.generator.parameters()), 1 - DECAY)
    model.generator = mean
    return model, time.process_time() - start


def judge(x: Tensor) -> tuple[int, float]:
    """Return the number of covered modes, and the share of good samples, of points (N, 2)."""
    distance, mode = torch.cdist(x, EightGaussians().centres()).min(1)
    good = distance <= WITHIN * EightGaussians.scale
    shares = mode[good].bincount(minlength=8) / len(x)
    return int((shares >= SHARE).sum()), float(good.double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="updates of both players together")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="names of games, separated by commas")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.only.split(",") if args.only else list(GAMES)
    print(f"{args.steps} updates of both players together, batches of {BATCH}, 3-layer networks of width {WIDTH}")
    print(f"{'':20}{'modes covered, a seed':28}{'good samples, % a seed':36}{'seeds with 7 of 8':20}CPU s a run")
    for name in names:
        found, seconds = [], 0.0
        for seed in range(args.seeds):
            model, took = train(name, seed, args.steps)
            found.append(judge(model.sample(SAMPLES, seed=0)))
            seconds += took
        modes = " ".join(str(m) for m, _ in found)
        good = " ".join(f"{100 * g:5.1f}" for _, g in found)
        enough = sum(m >= 7 for m, _ in found)
        goal = f" (goal {args.seeds - 1})" if name in TARGET else ""
        print(
            f"{name:20}{modes:28}{good:36}{f'{enough} of {args.seeds}{goal}':20}{seconds / args.seeds:.1f}", flush=True
        )


if __name__ == "__main__":
    main()
