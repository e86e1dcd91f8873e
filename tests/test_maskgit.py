"""Laws of the masked transformer, and of the codes that are stored for training; the look-alikes break them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.code_prior import CodePrior
from zoo.families.maskgit import MaskGIT
from zoo.families.transformer import Transformer
from zoo.families.vq_vae import VQVAE
from zoo.maths.unmasking import halton_order, left_masked, lowest, masked_counts, masked_sets
from zoo.nets.mlp import MLP
from zoo.nets.quantisers import VectorQuantiser
from zoo.nets.residual_quantiser import ResidualQuantiser

TABLE = torch.tensor([[0.5, 0.2], [0.2, 0.1]], dtype=torch.float64)
"""p(c_1, c_2) of two codes with two values each."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Exact(MaskGIT):
    """One whose network knows the conditionals of a table of any number of codes."""

    def __init__(self, table: Tensor) -> None:
        super().__init__([1, 1, table.ndim], table.shape[0], width=4, depth=1, heads=1)
        self.table = table
        self.double()

    def forward(self, codes: Tensor, labels: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        rows = []
        for row in codes.tolist():
            p = self.table
            for i, c in enumerate(row):
                if c < self.levels:
                    keep = torch.zeros(self.levels, dtype=p.dtype)
                    keep[c] = 1
                    p = p * keep.view(*[-1 if j == i else 1 for j in range(p.ndim)])
            rows.append([p.sum([j for j in range(p.ndim) if j != i]) for i in range(p.ndim)])
        p = torch.stack([torch.stack(row) for row in rows])
        return _at((p / p.sum(-1, keepdim=True)).log(), places)


class Fast(Exact):
    """The same for two codes with two values, as a table of all nine states."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(table)
        states = torch.tensor(list(itertools.product(range(3), repeat=2)))
        self.all = Exact.forward(self, states)

    def forward(self, codes: Tensor, labels: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        return _at(self.all[codes[:, 0] * 3 + codes[:, 1]], places)


def _at(logits: Tensor, places: Tensor | None) -> Tensor:
    return logits if places is None else logits[:, places]


def shares(model: MaskGIT, n: int, **options: Any) -> Tensor:
    c = model.values(model.draw(n, torch.Generator().manual_seed(1), None, **options))
    return torch.bincount(c[:, 0] * 2 + c[:, 1], minlength=4) / n


def small(**options: Any) -> MaskGIT:
    model = MaskGIT([1, 2, 3], 5, width=8, heads=2, **{"depth": 2, **options}).double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model


# -- how many, and which -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 7, 49])
def test_every_code_is_unmasked_exactly_once(N: int) -> None:
    for T in range(1, N + 1):
        first = left = torch.tensor([[N]])
        counts = [N]
        for t in range(1, T + 1):
            left = left_masked(first, left, t, T)
            counts.append(int(left))
        assert all(b < a for a, b in itertools.pairwise(counts)) and counts[-1] == 0
    if N == 49:
        counts, left = [], first
        for t in range(1, 9):
            left = left_masked(first, left, t, 8)
            counts.append(int(left))
        assert [a - b for a, b in itertools.pairwise([49, *counts])] == [1, 3, 5, 6, 7, 9, 9, 9]


def test_first_step_sees_masks_only_and_each_keeps_what_it_kept() -> None:
    model, seen = small(), []
    forward = model.forward
    model.forward = lambda c, y=None, places=None: (seen.append(c.clone()), forward(c, y, places))[1]
    for order in ("confidence", "random"):
        seen.clear()
        model.draw(4, torch.Generator().manual_seed(0), None, steps=4, order=order)
        assert len(seen) == 4 and (seen[0] == 5).all()
        counts = [(c == 5).sum(1) for c in seen]
        assert all((b < a).all() for a, b in itertools.pairwise(counts))
        assert all(torch.equal(torch.where(a < 5, a, b), b) for a, b in itertools.pairwise(seen))
        assert len({tuple(row) for row in (seen[1] == 5).tolist()}) > 1  # a set for each example, not for the batch


def test_masked_sets_have_the_asked_size_and_are_of_each_example() -> None:
    ratio, u = torch.tensor([0.0, 0.5, 0.99, 1.0]), torch.rand(4, 10)
    hidden = masked_sets(ratio, u)
    assert hidden.sum(1).tolist() == [1, 5, 9, 10]
    assert torch.equal(hidden, lowest(u, hidden.sum(1, keepdim=True)))
    places = masked_sets(torch.full((4000,), 0.3), torch.rand(4000, 10)).float().mean(0)
    assert (places - 0.3).abs().max() < 0.03


# -- what the samplers draw from ---------------------------------------------------------------------------------------


def test_random_order_is_exact_and_confidence_is_biased_as_known() -> None:
    n = 200_000
    model, exact = Fast(TABLE), TABLE.flatten()
    found = shares(model, n, steps=2, order="random")
    assert n * ((found - exact).square() / exact).sum() < 16.3  # chi-square with three degrees of freedom, 0.1 %
    found = shares(model, n, steps=2, order="confidence", choice_temperature=0.0)
    assert torch.allclose(found, torch.tensor([0.649, 0.160, 0.161, 0.030]), atol=0.004)
    assert n * ((found - exact).square() / exact).sum() > 1000
    found = shares(model, n, steps=1, order="random")  # both at once: independent codes
    marginal = TABLE.sum(1)
    assert torch.allclose(found, torch.outer(marginal, marginal).flatten().float(), atol=0.004)


def test_the_most_probable_code_everywhere_is_no_sample() -> None:
    found = shares(Fast(TABLE), 100, steps=2, choice_temperature=0.0, temperature=1e-6)
    assert found[0] == 1


def test_noise_in_the_confidence_falls_to_none_and_makes_the_order_random() -> None:
    n = 200_000
    found = shares(Fast(TABLE), n, steps=2, choice_temperature=1e6)
    assert torch.allclose(found, TABLE.flatten().float(), atol=0.005)


# -- the order halton --------------------------------------------------------------------------------------------------


def test_halton_visits_every_cell_once_in_the_order_of_its_points_and_spreads_what_comes_together() -> None:
    points = [(1 / 2, 1 / 3), (1 / 4, 2 / 3), (3 / 4, 1 / 9), (1 / 8, 4 / 9), (5 / 8, 7 / 9)]  # of bases 2 and 3
    assert list(halton_order(7, 7)[:5]) == [int(7 * a) * 7 + int(7 * b) for a, b in points]
    for sides in ((1, 1), (1, 16), (5, 1), (7, 7), (4, 6)):
        assert sorted(halton_order(*sides)) == list(range(math.prod(sides)))

    def neighbours(order: Any) -> float:
        """Return the mean number of pairs side by side among the positions of one step of eight."""
        counts, total = masked_counts(49, 8), 0
        for a, b in itertools.pairwise(counts):
            cells = [divmod(int(c), 7) for c in order[49 - a : 49 - b]]
            total += sum(abs(p[0] - q[0]) + abs(p[1] - q[1]) == 1 for p, q in itertools.combinations(cells, 2))
        return total / 8

    chance = sum(neighbours(torch.randperm(49)) for _ in range(100)) / 100
    assert neighbours(halton_order(7, 7)) < 0.5 * chance and neighbours(range(49)) > chance
    assert MaskGIT([2, 2, 2], 3, width=4, depth=1, heads=1).route.tolist() == [2, 1, 0, 3, 6, 5, 4, 7]  # by groups


@pytest.mark.parametrize("T", [1, 2, 3, 6])
def test_halton_draws_exactly_from_what_log_prob_says_and_that_sums_to_one(T: int) -> None:
    model = MaskGIT([1, 2, 2], 2, width=8, depth=2, heads=2, steps=T, order="halton").double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.7)
    codes = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    p = model.log_prob(model.data(codes)).exp()
    assert model.likelihood() == "exact" and torch.allclose(p.sum(), torch.ones((), dtype=torch.float64))
    n = 20_000
    for options in ({}, {"given": torch.full((1, 2, 2), math.nan, dtype=torch.float64)}):  # both ways to draw
        c = model.values(model.draw(n, torch.Generator().manual_seed(1), None, **options))
        found = torch.bincount((c * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16) / n
        assert n * ((found - p).square() / p).sum() < 37.7  # chi-square with 15 degrees of freedom, 0.1 %
    one = MaskGIT([1, 2, 2], 2, width=8, depth=2, heads=2, order="random")
    assert one.likelihood() == "elbo"  # a draw in random order has no such likelihood


def test_as_many_steps_as_codes_make_halton_exact_for_consistent_conditionals_and_one_step_independent() -> None:
    codes = torch.tensor(list(itertools.product((0, 1), repeat=2)))
    model = Fast(TABLE)
    assert torch.allclose(model.staged_log_prob(codes, steps=2), TABLE.flatten().log())
    marginal = TABLE.sum(1)
    assert torch.allclose(model.staged_log_prob(codes, steps=1), torch.outer(marginal, marginal).flatten().log())


def test_what_is_evaluated_for_some_places_or_for_equal_rows_once_is_what_all_of_it_is() -> None:
    for options in ({}, {"convolutions": 1}, {"num_classes": 3, "convolutions": 2}, {"convolutions": 2, "depth": 0}):
        model = small(order="halton", steps=4, **options)
        c = torch.randint(0, 6, (5, 6))
        y = torch.randint(0, 3, (5,)) if model.num_classes else None
        places = torch.tensor([4, 0, 5])
        assert torch.allclose(model(c, y, places), model(c, y)[:, places], atol=1e-12)
        labels = torch.arange(40) % 3 if model.num_classes else None
        for w in (1.0, 2.0)[: 2 if model.num_classes else 1]:
            x = model.draw(40, torch.Generator().manual_seed(0), labels, guidance_scale=w)
            once = model._distinct
            model._distinct = lambda c, known, labels: ((c, c), None)
            assert torch.equal(x, model.draw(40, torch.Generator().manual_seed(0), labels, guidance_scale=w))
            model._distinct = once


def test_a_convolution_sees_what_is_near_in_its_group_and_the_mean_of_all_groups() -> None:
    model = MaskGIT([2, 3, 4], 3, width=16, depth=1, heads=1, convolutions=1).double()
    x = torch.randn(1, 24, 16, dtype=torch.float64)
    y = x.clone()
    y[:, 12] += 1  # the second group's cell (0, 0)
    moved = (model._convolved(x) - model._convolved(y)).abs().sum(2)[0] > 1e-9
    assert moved.nonzero().flatten().tolist() == [g * 12 + r * 4 + c for g in (0, 1) for r in (0, 1) for c in (0, 1)]
    alone = MaskGIT([1, 2, 2], 3, width=4, depth=0, heads=1, convolutions=1, num_classes=2)
    assert not torch.allclose(
        alone(torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0, 1])).diff(dim=0), torch.zeros(())
    )
    with pytest.raises(ConfigError, match="needs blocks"):
        MaskGIT([1, 2, 2], 3, depth=0)


def test_matched_examples_see_the_masks_of_the_sampler_the_others_random_ones() -> None:
    model, seen = small(order="halton", steps=3, matched=1.0), []
    forward = model.forward
    model.forward = lambda c, y=None, places=None: (seen.append(c.clone()), forward(c, y, places))[1]
    model.loss((torch.randint(0, 5, (300, 1, 2, 3)).double() / 4, None))
    counts = torch.bincount((seen[0] == 5).sum(1), minlength=7)
    assert counts.nonzero().flatten().tolist() == sorted(masked_counts(6, 3)[:-1]) and counts[counts > 0].min() > 90
    met = {tuple(row) for row in (seen[0] == 5).tolist()}
    seen.clear()
    model.draw(4, torch.Generator().manual_seed(0), None, given=torch.full((1, 2, 3), math.nan))
    assert met == {tuple(row) for c in seen for row in (c == 5).tolist()}
    seen.clear()
    model.matched = 0.0
    model.loss((torch.randint(0, 5, (300, 1, 2, 3)).double() / 4, None))
    assert len({tuple(row) for row in (seen[0] == 5).tolist()}) > 3
    with pytest.raises(ConfigError, match="matched is a share"):
        MaskGIT([1, 2, 2], 4, schedule="uniform", matched=0.5)


def test_unmasking_ends_with_the_sample_keeps_what_it_kept_and_greys_the_rest() -> None:
    for order in ("confidence", "random", "halton"):
        model = pair(order=order, steps=3)
        kept = [k for _, k in model.prior.unmasking(5, seed=1)]
        assert [int(k[0].sum()) for k in kept] == [4 - m for m in masked_counts(4, 3)[1:]]
        assert all((a <= b).all() for a, b in itertools.pairwise(kept))
        states, seen = model.unmasking(5, seed=1)
        assert states.shape == seen.shape == (len(kept), 5, 1, 4, 4) and torch.equal(states[-1], seen[-1])
        share = nn.functional.interpolate(kept[0].double(), (4, 4))
        assert (states[0][share == 0] == 0.5).all() and torch.equal(states[0][share == 1], seen[0][share == 1])


# -- the bound ---------------------------------------------------------------------------------------------------------


def test_bound_over_orders_is_the_likelihood_of_consistent_conditionals() -> None:
    table = torch.rand(2, 2, 2, dtype=torch.float64)
    model = Exact(table / table.sum())
    codes = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    log_p = model.table.flatten().log()
    for order in itertools.permutations(range(3)):  # every order alone
        total = torch.zeros(8, dtype=torch.float64)
        for j in range(3):
            hidden = torch.ones(8, 3, dtype=torch.bool)
            hidden[:, list(order[:j])] = False
            z = model(codes.masked_fill(hidden, 2)).gather(-1, codes[..., None])[..., 0]
            total += z[:, order[j]]
        assert torch.allclose(total, log_p)
    assert torch.allclose(expected_bound(model, codes), log_p)


def expected_bound(model: MaskGIT, codes: Tensor) -> Tensor:
    """Return the mean of the one-draw estimate over all it can draw, set by set."""
    N, total = codes.shape[1], torch.zeros(len(codes), dtype=torch.float64)
    for k in range(1, N + 1):
        sets = list(itertools.combinations(range(N), k))
        for places in sets:
            hidden = torch.zeros_like(codes, dtype=torch.bool)
            hidden[:, list(places)] = True
            total += model.masked_log_prob(codes, hidden) / k / len(sets)
    return total


def test_bound_of_any_network_is_below_the_likelihood_of_its_mixture_of_orders_and_is_estimated_without_bias() -> None:
    model = MaskGIT([1, 1, 3], 2, width=8, depth=1, heads=1).double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.7)
    codes = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    orders = []
    with torch.no_grad():
        for order in itertools.permutations(range(3)):
            total = torch.zeros(8, dtype=torch.float64)
            for j in range(3):
                hidden = torch.ones(8, 3, dtype=torch.bool)
                hidden[:, list(order[:j])] = False
                log_p = model(codes.masked_fill(hidden, 2)).log_softmax(-1)
                total += log_p.gather(-1, codes[..., None])[:, order[j], 0]
            orders.append(total)
        mixture = torch.stack(orders).logsumexp(0) - math.log(6)
        bound = expected_bound(model, codes)
        assert torch.allclose(torch.stack(orders).mean(0), bound) and (bound < mixture).all()
        assert torch.allclose(mixture.exp().sum(), torch.ones((), dtype=torch.float64))
        found = model.log_prob(model.data(codes), k=300, seed=0)
    assert torch.allclose(found, bound, atol=0.15) and model.likelihood(7) == "elbo"
    sets = [masked_sets(torch.rand(8), torch.rand(8, 3)) for _ in range(100)]
    masked = torch.stack([model.masked_log_prob(codes, hidden).detach() for hidden in sets])
    assert not torch.allclose(masked.mean(0), bound, atol=0.3)  # a masked loss without its weight is no bound


def test_uniform_schedule_trains_the_bound_and_the_cosine_one_masked_codes_only() -> None:
    x = torch.randint(0, 5, (6, 1, 2, 3)).double() / 4
    model = small(schedule="uniform")
    torch.manual_seed(3)
    terms = model.loss((x, None))
    torch.manual_seed(3)
    share, u = model.even(6), model.rand(6, 6)
    assert torch.allclose(terms["loss"], -model.bound(model.values(x), None, share, u).mean())
    assert torch.allclose(terms["bits_per_code"], terms["loss"] / (6 * math.log(2)))
    model = small(smoothing=0.0)
    torch.manual_seed(3)
    loss = model.loss((x, None))["loss"]
    torch.manual_seed(3)
    hidden = masked_sets(torch.cos(math.pi / 2 * model.rand(6)), model.rand(6, 6))
    c = model.values(x)
    assert torch.allclose(loss, -model.masked_log_prob(c, hidden).sum() / hidden.sum())
    (everywhere,) = torch.autograd.grad(loss, model.out.bias, retain_graph=True)
    z = model(c.masked_fill(hidden, 5)).softmax(-1)
    expected = (z - nn.functional.one_hot(c, 5))[hidden].sum(0) / hidden.sum()
    assert torch.allclose(everywhere, expected)


# -- the network -------------------------------------------------------------------------------------------------------


def test_what_is_under_the_mask_is_not_seen_and_all_else_is() -> None:
    model = small()
    c = torch.randint(0, 5, (3, 6))
    z = model(c.masked_fill(torch.tensor([True, False, False, True, False, False]), 5))
    other = c.clone()
    other[:, 3] = (other[:, 3] + 1) % 5
    assert torch.equal(z, model(other.masked_fill(torch.tensor([True, False, False, True, False, False]), 5)))
    for i in (1, 5):  # both ways: a causal mask left on would hide the later one
        other = c.clone()
        other[:, i] = (other[:, i] + 1) % 5
        moved = model(other.masked_fill(torch.tensor([True, False, False, True, False, False]), 5))
        assert not torch.allclose(z[:, 0], moved[:, 0], atol=1e-6)
    causal = Transformer([1, 2, 3], 5, width=8, depth=1, heads=2).double().eval()
    later = c.clone()
    later[:, 5] = (later[:, 5] + 1) % 5
    assert torch.allclose(causal(c)[:, :5], causal(later)[:, :5])


def test_classes_are_told_hidden_and_guided() -> None:
    model = small(num_classes=3, label_dropout=0.5)
    y = torch.tensor([0, 1, 2])
    c = torch.full((3, 6), 5)
    assert torch.equal(model(c), model(c, torch.full((3,), 3))) and not torch.allclose(model(c), model(c, y))
    counts = torch.bincount(model.dropped(torch.zeros(4000, dtype=torch.int64)), minlength=4)
    assert abs(int(counts[3]) - 2000) < 200
    plain = model.sample(8, seed=0, labels=1, guidance_scale=1.0)
    assert torch.equal(plain, model.sample(8, seed=0, labels=1))
    none = model.sample(8, seed=0, labels=1, guidance_scale=0.0)
    assert torch.equal(none, model.sample(8, seed=0, labels=2, guidance_scale=0.0))
    assert not torch.equal(plain, model.sample(8, seed=0, labels=1, guidance_scale=6.0))
    assert model.calls({"guidance_scale": 2.0, "steps": 3}) == 6 and model.calls_per_sample == 8
    with pytest.raises(ConfigError, match="guidance needs a model"):
        small().sample(2, guidance_scale=2.0)


def test_known_codes_come_back_bit_for_bit_and_the_rest_is_drawn_in_view_of_them() -> None:
    model = Fast(TABLE)
    given = torch.tensor([[[[math.nan, 1.0]]]], dtype=torch.float64)
    x = model.draw(100_000, torch.Generator().manual_seed(0), None, given=given[0])
    assert (x[..., 1] == 1).all() and abs(float(x[..., 0].mean()) - 0.1 / 0.3) < 0.01
    model = small()
    given = torch.randint(0, 5, (4, 1, 2, 3)).double() / 4
    known = torch.rand(4, 1, 2, 3) < 0.5
    known[0], known[1] = True, False
    for order, steps in itertools.product(("confidence", "random", "halton"), (1, 3, 9)):
        x = model.sample(4, seed=0, given=given, known=known, order=order, steps=steps)
        assert torch.equal(x[known], given.float()[known].to(x)) and ((x * 4) % 1 == 0).all()


@pytest.mark.parametrize(("options", "said"), [
    ({"steps": 0}, "steps must be a positive integer"), ({"order": "raster"}, "unknown order"),
    ({"order": "random", "choice_temperature": 1.0}, "belongs to the order confidence"),
    ({"choice_temperature": -1.0}, "not negative"), ({"temperature": 0.0}, "temperature must be"),
])  # fmt: skip
def test_sampling_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small().sample(2, **options)


def test_arguments_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="have no likelihood"):
        MaskGIT([1, 2, 2], 4, schedule="uniform", smoothing=0.1)
    with pytest.raises(ConfigError, match="multiple of the 5 heads"):
        MaskGIT([1, 2, 2], 4, heads=5)


# -- over the codes of an autoencoder ----------------------------------------------------------------------------------


def pair(q: nn.Module | None = None, **options: Any) -> CodePrior:
    q = q or VectorQuantiser(3, 2)
    inner = VQVAE(MLP([16, 8 * q.dim // 2]), MLP([4 * q.dim, 16]), q, [1, 4, 4], [2, 2], "bernoulli")
    prior = MaskGIT(inner.grid, inner.codebook_size, width=8, depth=1, heads=2, **options)
    return CodePrior(inner, prior).eval()


@pytest.mark.parametrize("q", [lambda: VectorQuantiser(3, 2), lambda: ResidualQuantiser(3, 2, 2)])
def test_an_image_is_completed_where_its_pixels_are_not_known(q: Any) -> None:
    model = pair(q())
    x = (torch.rand(2, 1, 4, 4) > 0.5).float()
    assert {"given", "known", "steps", "order"} <= set(model.sampling_options())
    done = model.sample(2, seed=0, given=x, known=2)
    assert torch.equal(done[:, :, :2], x[:, :, :2])
    assert not torch.equal(done[:, :, 2:], model.sample(2, seed=1, given=x, known=2)[:, :, 2:])
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :3] = True  # a code that stands for one pixel that is not known is drawn
    assert model.known_codes(mask)[0, 0].tolist() == [[True, False], [True, False]]
    assert torch.equal(model.sample(2, seed=0, given=x, known=4), x)
    with pytest.raises(ConfigError, match="uniform codes leave out"):
        model.sample(2, codes="uniform", given=x, known=2)


def test_a_bound_in_a_bound_is_called_elbo_and_losses_pass_through() -> None:
    model = pair()
    x = (torch.rand(3, 1, 4, 4) > 0.5).float()
    assert model.likelihood(4) == "elbo" and model.has_likelihood and set(model.loss((x, None))) == {"loss"}
    expected = model.autoencoder.log_likelihood(x, model.codes(x)) + model.prior.log_prob(
        model.image(model.codes(x)), k=4, seed=0
    )
    assert torch.equal(model.log_prob(x, k=4, seed=0), expected)
    assert set(pair(schedule="uniform").loss((x, None))) == {"loss", "bits_per_code"}


def test_codes_in_the_place_of_examples_give_the_same_loss() -> None:
    model = pair()
    x = (torch.rand(16, 1, 4, 4) > 0.5).float()
    losses = []
    for batch in (x, model.stored(x)):
        torch.manual_seed(1)
        losses.append(model.loss((batch, None))["loss"])
    assert torch.equal(*losses)


def test_stored_codes_train_to_the_same_weights_resume_exactly_and_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zoo.training.fit as fit
    from zoo.training import stored_examples

    many = ("--data.limit", "32", "--trainer.limit_val_batches", "1")

    def run(name: str, steps: int, **options: Any) -> str:
        return warm.train("maskgit-mnist", str(tmp_path / name), steps, 16, *many, **options)

    encoded = []
    whole = stored_examples._encoded
    monkeypatch.setattr(stored_examples, "_encoded", lambda *a: (encoded.append(a[2]), whole(*a))[1])
    run("whole", 4)
    assert encoded == ["train", "validation"] and (tmp_path / "whole" / stored_examples.FILE).is_file()
    run("whole", 6, resume=True)
    assert len(encoded) == 2  # read, not made again
    monkeypatch.setattr(fit, "can_store", lambda *a: False)
    run("plain", 6)
    assert not (tmp_path / "plain" / stored_examples.FILE).exists()
    whole, plain = (warm.weights(tmp_path / name) for name in ("whole", "plain"))
    for kind in ("raw", "ema"):
        assert whole[kind] and all(torch.equal(v, plain[kind][k]) for k, v in whole[kind].items())


def test_damaged_or_foreign_codes_are_made_anew(tmp_path: Path) -> None:
    from zoo.registry import load_registry
    from zoo.training.stored_examples import FILE, store

    entry = load_registry().resolve("maskgit-mnist")
    model, data = entry.build_model().eval(), entry.build_data()
    data._splits = {name: (data.split(name)[0][:20], data.split(name)[1][:20]) for name in ("train", "validation")}
    store(model, data, tmp_path)
    first = {k: v.clone() for k, v in data.stored.items()}
    assert first["train"].dtype == torch.uint8 and first["train"].shape == (20, 1, 7, 7)
    raw = bytearray((tmp_path / FILE).read_bytes())
    raw[-1] ^= 1
    (tmp_path / FILE).write_bytes(bytes(raw))
    for content in (None, b"", b"junk"):
        if content is not None:
            (tmp_path / FILE).write_bytes(content)
        store(model, data, tmp_path)
        assert all(torch.equal(v, first[k]) for k, v in data.stored.items())
    torch.manual_seed(5)
    with torch.no_grad():
        model.autoencoder.quantiser.codebook.normal_()
    store(model, data, tmp_path)  # of another autoencoder
    assert torch.equal(data.stored["train"].long(), model.codes(data.to_float(data.split("train")[0])))


def test_storing_is_counted_and_pays_only_where_examples_are_read_again() -> None:
    from zoo.training.fit import Run

    def planned(steps: int) -> Run:
        arguments = [*warm.SMALL, "--trainer.max_steps", str(steps), "--data.batch_size", "16"]
        return Run(warm.entry("maskgit-mnist"), arguments)

    few, many = planned(25), planned(26)  # 400 examples are 25 batches
    assert not few.stores and few.upfront == 0 and many.stores
    encoding = (few.flops - many.flops) / 16  # an example
    assert many.upfront == pytest.approx(400 * encoding, rel=1e-6)
    assert many.spent(0) == many.upfront and many.spent(2) == many.upfront + 2 * many.flops


@pytest.mark.parametrize(
    ("path", "width"), [("maskgit.MaskGIT", 96), ("transformer.Transformer", 96), ("pixelcnn.PixelCNN", 100)]
)
def test_any_prior_fits_itself_to_any_codes(path: str, width: int) -> None:
    from zoo.nets.binary_quantisers import LFQ
    from zoo.spec import build

    q = LFQ(5, joint=5)
    inner = VQVAE(MLP([16, 20]), MLP([20, 16]), q, [1, 4, 4], [2, 2], "bernoulli")
    prior = {
        "class_path": f"zoo.families.{path}",
        "init_args": {"shape": [1, 7, 7], "levels": 4, "width": 96, "depth": 1},
    }
    fitted = CodePrior.trained_parts["autoencoder"].fitted({"autoencoder": None, "prior": prior}, inner)
    model = build({"class_path": "zoo.families.code_prior.CodePrior", "init_args": fitted})
    assert model.prior.shape == (5, 2, 2) and model.prior.levels == 2
    assert fitted["prior"]["init_args"]["width"] == width  # channels divide among codebooks where networks are masked
    assert model.sample(2, seed=0).shape == (2, 1, 4, 4)
