"""Laws of contractive residual blocks and of the power series of their determinants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch

from zoo.errors import ConfigError
from zoo.export.parts import parts
from zoo.export.writing import _program
from zoo.families.residual_flow import ResidualFlow, reach_of_terms, series_weights


def _residual(args: Mapping[str, Any]) -> float:
    """Each block forwards, a pass back for each dimension, and the gradient of both.

    The gradient of a pass back goes to the weights and down through that pass, below its first layer, and from there
    through the block, which the gradient of z goes through anyway.
    """
    D, w = math.prod(args["shape"]), args["width"]
    layers = [a * b for a, b in pairwise([D, *[w] * (args["layers"] - 1), D])]
    A = sum(layers)
    return 2.0 * args["depth"] * (3 * A + D * (3 * A - layers[-1]))


STEP_FLOPS = {"ResidualFlow": _residual}


pytestmark = pytest.mark.usefixtures("double_precision")


def lively(shape: list[int], **options: Any) -> ResidualFlow:
    """A flow whose layers are all at their limit."""
    torch.manual_seed(0)
    model = ResidualFlow(shape, **{"depth": 2, "width": 8, "levels": None, **options})
    with torch.no_grad():
        for block in model.blocks:
            for layer in block.layers:
                layer.weight.mul_(5)
                layer.bias.normal_()
    return model.eval()


def test_blocks_are_contractions_whatever_their_weights():
    model = lively([4], limit=0.9)
    for block in model.blocks:
        for W, _ in block.weights():
            assert torch.linalg.matrix_norm(W, 2).item() <= 0.9 + 1e-9
        g = lambda x, block=block: block(x, block.weights())  # noqa: E731
        for x in 3 * torch.randn(50, 1, 4):
            J = torch.autograd.functional.jacobian(lambda v, g=g: g(v[None])[0], x[0])
            assert torch.linalg.matrix_norm(J, 2) < 0.9**3
    small = ResidualFlow([4], width=8, levels=None)
    with torch.no_grad():
        small.blocks[0].layers[0].weight.mul_(1e-3)
        assert torch.equal(small.blocks[0].weights()[0][0], small.blocks[0].layers[0].weight)  # short ones stay


def test_it_comes_back_and_knows_its_determinant():
    model = lively([2, 2])
    x = torch.randn(5, 2, 2)
    z, log_det = model.flow(x)
    assert torch.allclose(model.decode(z), x, atol=1e-6) and torch.allclose(model.encode(x), z)
    for i in range(5):
        J = torch.autograd.functional.jacobian(lambda v: model.to_noise(v.view(1, 2, 2))[0], x[i].flatten())
        assert torch.linalg.slogdet(J)[1].item() == pytest.approx(log_det[i].item(), abs=1e-9)
    assert log_det.std() > 0.01


def test_as_many_iterations_as_the_weights_ask_for():
    steep, flat = lively([4]), ResidualFlow([4], depth=2, width=8, levels=None).eval()
    counts = [[b.iterations(b.weights()) for b in model.blocks] for model in (steep, flat)]
    assert max(counts[0]) == steep.most_iterations and max(counts[1]) < steep.most_iterations / 2
    z = torch.randn(3, 4)
    before = steep.decode(z)
    for block in steep.blocks:
        block.settle()
    assert torch.equal(steep.decode(z), before)


def test_density_in_the_plane_integrates_to_one():
    model = lively([2])
    line = torch.linspace(-12, 12, 301)
    p = model.log_prob(torch.cartesian_prod(line, line)).exp()
    assert p.sum().item() * (24 / 300) ** 2 == pytest.approx(1, abs=2e-3)
    assert model.likelihood() == "exact"


def test_roulette_is_unbiased_and_a_cut_series_is_not():
    model = lively([3], limit=0.75, terms=1, depth=1, width=3).train()
    with torch.no_grad():
        for layer in model.blocks[0].layers:  # nearly linear there, and so as steep as it may be
            layer.weight.copy_(torch.eye(3))
            layer.bias.fill_(3.0)
    x = 3 + torch.rand(1, 3)
    truth = model._through(x, None, None)[1].detach()[0]
    many = x.expand(60_000, 3)
    with torch.no_grad():
        probe, count = torch.randn(60_000, 3), reach_of_terms(torch.rand(60_000), 1)
        drawn = model._through(many, probe, count)[1]
        error = drawn.std() / math.sqrt(len(drawn))
        assert (drawn.mean() - truth).abs() < 4 * error
        cut = model._through(many, probe, torch.ones_like(count))[1]  # the look-alike: the first term alone
        assert (cut.mean() - truth).abs() > 6 * cut.std() / math.sqrt(len(cut))


def test_terms_are_weighed_by_the_chance_that_they_are_taken():
    count = reach_of_terms(torch.rand(100_000), 2)
    assert count.min() == 2
    weights = series_weights(count, 2, 8)
    assert torch.allclose(weights.mean(0), torch.ones(8), atol=0.08) and (weights[:, :2] == 1).all()


def test_gradients_of_the_estimate_are_those_of_the_exact_value():
    gradients = []
    for how in ("exact", "roulette"):
        model = lively([2], log_det=how, limit=0.9, depth=1, terms=3).train()
        x = torch.randn(1, 2, generator=torch.Generator().manual_seed(1)).expand(20_000, 2).clone()
        model.set_noise([torch.Generator().manual_seed(0)])
        model.loss((x, torch.zeros(len(x)).long()))["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999
    assert torch.allclose(*gradients, atol=0.05 * gradients[0].abs().max().item())


def test_larger_examples_are_estimated_and_say_so():
    model = lively([1, 5, 5], levels=256, alpha=0.05)
    assert model.estimated and model.likelihood() == "exact+dequant"
    x = torch.rand(3, 1, 5, 5)
    first, second = (model.log_prob(x, seed=s) for s in (0, 1))
    assert torch.isfinite(first).all() and not torch.equal(first, second)
    assert torch.equal(first, model.log_prob(x, seed=0))


@pytest.mark.parametrize("wrong", [{"limit": 1.0}, {"layers": 1}, {"terms": 0}, {"log_det": "fast"}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match="limit lie between 0 and 1"):
        ResidualFlow([2], levels=None, **wrong)


@pytest.mark.slow
def test_a_graph_of_the_way_back_has_loops_in_the_place_of_iterations() -> None:
    model = lively([2])
    (part,) = parts(model).values()
    program = _program(part, "decoder")
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("while_loop" in name for name in called) == len(model.blocks) and len(called) < 100
    z = torch.randn(5, 2)
    assert torch.allclose(program.module()(z), model.decode(z), atol=1e-6)
    counts = [block.iterations(block.weights()) for block in model.blocks]
    assert min(counts) > 5  # which side by side would be as many copies of a block
