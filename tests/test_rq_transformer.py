"""Laws of the Transformer over stacks of codes; a flat one over the same codes in a row breaks them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.code_prior import CodePrior
from zoo.families.rq_transformer import RQTransformer
from zoo.families.transformer import Transformer
from zoo.families.vq_vae import VQVAE
from zoo.nets.mlp import MLP
from zoo.nets.residual_quantiser import ResidualQuantiser


def rq_transformer(args: Mapping[str, Any]) -> float:
    """Blocks over N positions, blocks over D codes of each, and the last layer; vectors of codes are looked up."""
    D, d = args["shape"][0], args["width"]
    N, hidden = math.prod(args["shape"][1:]), args["hidden"] or 4 * args["width"]

    def blocks(tokens: int, depth: int) -> int:
        return depth * (tokens * (4 * d**2 + 2 * d * hidden) + 2 * tokens**2 * d)

    total = blocks(N, args["spatial_blocks"]) + N * blocks(D, args["depth_blocks"]) + N * D * d * args["levels"]
    return 6.0 * total


STEP_FLOPS = {"RQTransformer": rq_transformer}


def wild(model: nn.Module) -> Any:
    torch.manual_seed(0)
    model = model.double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model


def small(shape: tuple[int, int, int] = (3, 2, 2), **options: Any) -> RQTransformer:
    return wild(RQTransformer(shape, 4, **{"width": 8, "spatial_blocks": 2, "depth_blocks": 2, "heads": 2, **options}))


def test_probabilities_of_all_codes_sum_to_one() -> None:
    model = wild(RQTransformer((2, 1, 2), 3, width=8, heads=2))
    every = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.float64)
    p = model.log_prob(every.view(-1, 2, 1, 2) / 2).exp()
    assert torch.allclose(p.sum(), torch.ones((), dtype=torch.float64)) and model.likelihood() == "exact"


def test_a_code_is_predicted_from_earlier_positions_and_earlier_codes_of_its_own() -> None:
    model = small()
    c = torch.randint(0, 4, (2, 12))
    z = model(c)
    for t in range(12):  # values go position by position, the codes of one side by side
        other = c.clone()
        other[:, t] = (other[:, t] + 1) % 4
        moved = (model(other) - z).abs().amax((0, 2)) > 1e-9
        assert moved.tolist() == [False] * (t + 1) + [True] * (11 - t)


def test_later_positions_see_the_sum_of_a_stack_and_a_flat_transformer_its_order() -> None:
    c = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 2, 1, 0, 3, 3]])
    swapped = c.clone()
    swapped[:, :3] = torch.tensor([2, 0, 1])
    model = small()
    assert torch.allclose(model(c)[:, 3:], model(swapped)[:, 3:], atol=1e-12)
    assert not torch.allclose(model(c)[:, 1:3], model(swapped)[:, 1:3], atol=1e-3)
    flat = wild(Transformer([3, 2, 2], 4, width=8, depth=2, heads=2, positions="learned"))
    assert not torch.allclose(flat(c)[:, 3:], flat(swapped)[:, 3:], atol=1e-3)


def test_the_codes_of_a_position_see_the_others_through_its_context_alone() -> None:
    model = small()
    c = torch.randint(0, 4, (2, 12))
    model.spatial_context = lambda e, labels: torch.ones_like(e)
    other = c.clone()
    other[:, :6] = (other[:, :6] + 1) % 4
    assert torch.equal(model(c)[:, 6:], model(other)[:, 6:])
    assert torch.allclose(model(c)[:, 0], model(c)[:, 3])  # the same depth, the same context, nothing else


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}])
def test_cached_draws_are_those_of_whole_passes_and_their_logits_those_of_training(options: dict[str, Any]) -> None:
    model = small(**options)
    labels = torch.arange(16) % 3 if options else None
    x = model.sample(16, seed=0, labels=labels)
    assert torch.equal(x, model.sample(16, seed=0, labels=labels, cached=False))
    c = model.arranged(model.quantize(x.double()))
    with torch.no_grad():
        state, z = model.start(16, labels), model(c, labels)
        for t in range(12):
            assert torch.allclose(state.logits(), z[:, t], atol=1e-9)
            state.put(c[:, t])
    beams = model.sample(1, labels=None if labels is None else 1, beams=64)
    assert beams.shape == (1, 3, 2, 2)
    half = model.sample(16, seed=1, labels=labels, given=x, known=1)
    assert torch.equal(half[:, :, :1], x[:, :, :1])


def test_one_code_a_position_needs_no_stack() -> None:
    model = small((1, 2, 2))
    every: Tensor = torch.tensor(list(itertools.product(range(4), repeat=4)), dtype=torch.float64)
    assert torch.allclose(model.log_prob(every.view(-1, 1, 2, 2) / 3).exp().sum(), torch.ones((), dtype=torch.float64))


def test_it_fits_itself_to_residual_codes() -> None:
    from zoo.spec import build

    inner = VQVAE(MLP([16, 8]), MLP([8, 16]), ResidualQuantiser(3, 2, 2), [1, 4, 4], [2, 2], "bernoulli")
    prior = {"class_path": "zoo.families.rq_transformer.RQTransformer", "init_args": {"width": 8, "heads": 2}}
    fitted = CodePrior.trained_parts["autoencoder"].fitted({"autoencoder": None, "prior": prior}, inner)
    model = build({"class_path": "zoo.families.code_prior.CodePrior", "init_args": fitted}).eval()
    assert model.prior.shape == (2, 2, 2) and model.prior.levels == 3 and model.likelihood() == "elbo"
    x = (torch.rand(3, 1, 4, 4) > 0.5).float()
    assert model.sample(3, seed=0).shape == (3, 1, 4, 4) and torch.isfinite(model.log_prob(x)).all()


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="divide among the heads"):
        RQTransformer(width=10, heads=4)
    with pytest.raises(ConfigError, match="shape must be"):
        RQTransformer((12,))
