"""Laws of priors that draw scale by scale: VAR and Infinity, and the look-alikes that break them."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.code_prior import CodePrior
from zoo.families.infinity import Infinity
from zoo.families.multi_scale_vq import MultiScaleVQ
from zoo.families.transformer import Transformer
from zoo.families.var import VAR
from zoo.families.vq_vae import VQVAE
from zoo.nets.binary_quantisers import BSQ
from zoo.nets.mlp import MLP
from zoo.nets.multi_scale_quantiser import MultiScaleQuantiser
from zoo.nets.quantisers import VectorQuantiser
from zoo.nets.scale_transformer import block_causal


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pair(kind: type[VAR] = VAR, scales: tuple[int, ...] = (1, 2, 4), K: int = 5, **options: Any) -> CodePrior:
    """Return a prior over a tokenizer of 4 x 4 pixels whose every weight counts, in double precision."""
    bits = kind is Infinity
    inner = BSQ(K, joint=1) if bits else VectorQuantiser(K, 3, update="loss")
    q = MultiScaleQuantiser(inner, scales, 0 if bits else 2)
    features = q.dim * scales[-1] ** 2
    tokenizer = MultiScaleVQ(MLP([16, features]), MLP([features, 16]), q, [1, 4, 4], "bernoulli")
    shape = tokenizer.grid
    prior = kind(shape, q.size, scales, q.dim, width=8, depth=2, heads=2, **options)
    for p in prior.parameters():
        nn.init.normal_(p, std=0.4)
    return CodePrior(tokenizer, prior).double().eval()


def codes(model: CodePrior, n: int = 3) -> Tensor:
    return torch.randint(0, model.codebook_size, (n, *model.grid))


KINDS = [VAR, Infinity]


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_forced_inputs_are_those_that_sampling_builds(kind: type[VAR]) -> None:
    model = pair(kind)
    prior, seen = model.prior, []
    forward = prior.forward
    prior.forward = lambda inputs, y=None, **where: (seen.append(inputs), forward(inputs, y, **where))[1]
    c = (prior.draw(3, torch.Generator().manual_seed(0), None) * (prior.levels - 1)).round().long()
    assert [x.shape[1] for x in seen] == [0, 4, 16]
    assert torch.allclose(torch.cat(seen, 1), prior.inputs(c))
    q = model.autoencoder.quantiser
    alone = q.reduce(q.enlarge(q.quantiser.embed(q.split(c)[1]).double(), 1), 2).flatten(2).transpose(1, 2)
    assert not torch.allclose(seen[2], alone)  # the sum of all smaller scales, not the last one's vectors


@pytest.mark.parametrize("kind", KINDS)
def test_a_code_changes_nothing_at_its_own_and_smaller_scales(kind: type[VAR]) -> None:
    model = pair(kind)
    c = codes(model)
    z = model.prior(model.prior.inputs(c))
    ends = [0, 1, 5, 21]
    for k in range(3):
        other = c.clone()
        other[:, :, :, ends[k] : ends[k + 1]] = (other[:, :, :, ends[k] : ends[k + 1]] + 1) % model.codebook_size
        moved = model.prior(model.prior.inputs(other))
        assert torch.equal(z[:, : ends[k + 1]], moved[:, : ends[k + 1]])
        assert k == 2 or not torch.allclose(z[:, ends[k + 1] :], moved[:, ends[k + 1] :])
    raster = Transformer([1, 1, 21], 5, width=8, depth=1, heads=2).double().eval()
    nn.init.normal_(raster.out.weight)
    c = codes(pair())
    other = c.clone()
    other[..., 2] = (other[..., 2] + 1) % 5
    a, b = raster(c.flatten(1)), raster(other.flatten(1))
    assert not torch.allclose(a[:, 3:5], b[:, 3:5])  # causal within a scale: another model


def test_mask_is_whole_within_a_scale() -> None:
    mask = block_causal((1, 2))
    assert mask.tolist() == [[True, *[False] * 4], *[[True] * 5] * 4]
    assert torch.equal(block_causal((1, 2, 4))[5:], torch.ones(16, 21, dtype=torch.bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"guidance_scale": 3.0}, {"top_k": 2}, {"top_p": 0.7, "temperature": 1.3}])
def test_cached_draws_are_those_of_whole_passes(kind: type[VAR], options: dict[str, Any]) -> None:
    model = pair(kind, num_classes=3)
    drawn = [model.prior.sample(16, seed=4, labels=2, cached=cached, **options) for cached in (True, False)]
    assert torch.equal(*drawn) and drawn[0].unique().numel() > 1


@pytest.mark.parametrize(("kind", "K"), [(VAR, 2), (Infinity, 1)])
def test_probabilities_of_all_codes_sum_to_one(kind: type[VAR], K: int) -> None:
    model = pair(kind, (1, 2), K)
    every = torch.tensor(list(itertools.product((0, 1), repeat=5))).view(32, 1, 1, 5)
    with torch.no_grad():
        log_p = model.prior.log_prob(model.image(every))
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12) and log_p.std() > 0.1
    n = 20_000
    c = (model.prior.draw(n, torch.Generator().manual_seed(0), None) * 1).long().flatten(1)
    counts = torch.bincount(c @ torch.tensor([16, 8, 4, 2, 1]), minlength=32)
    expected = n * log_p.exp()
    assert float(((counts - expected).square() / expected).sum()) < 61  # chi-square, 31 degrees of freedom, 0.1 %


def test_bits_of_a_cell_are_independent_given_smaller_scales_and_no_index_is_formed() -> None:
    model = pair(Infinity, (1, 2), 3)
    z = model.prior(model.prior.inputs(codes(model)))
    assert z.shape == (3, 5, 3, 2) and model.prior.network.out.out_features == 6  # 2 L numbers, not 2^L
    c = codes(model)
    with torch.no_grad():
        expected = sum(
            z[:, cell, bit].log_softmax(-1).gather(1, c[:, bit, 0, cell, None])[:, 0]
            for z in [model.prior(model.prior.inputs(c))]
            for cell, bit in itertools.product(range(5), range(3))
        )
    assert torch.allclose(model.prior.log_prob(model.image(c)), expected)


def test_guidance_grows_with_the_scale() -> None:
    model = pair(num_classes=2)
    y = torch.ones(4, dtype=torch.int64)
    c = codes(model, 4)
    u, w = torch.rand(4, 21, 1, dtype=torch.float64), 3.0
    inputs = model.prior.inputs(c)
    told, null = model.prior(inputs, y), model.prior(inputs)
    from zoo.maths.decoding import inverse_cdf

    drawn = model.prior.draw(4, torch.Generator().manual_seed(0), y, guidance_scale=w)
    first = (drawn * 4).round().long()[:, 0, 0, :1]
    u = torch.rand((4, 21, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(first, inverse_cdf(told[:, :1, 0], u[:, :1, 0]))  # t_1 = 0
    c = (drawn * 4).round().long()
    inputs = model.prior.inputs(c)
    told, null = model.prior(inputs, y), model.prior(inputs)
    for k, (a, b) in enumerate(((0, 1), (1, 5), (5, 21))):
        t = (w - 1) * k / 2
        mixed = (1 + t) * told[:, a:b, 0] - t * null[:, a:b, 0]
        assert torch.equal(c[:, 0, 0, a:b], inverse_cdf(mixed, u[:, a:b, 0]))
    assert model.prior.calls({"guidance_scale": 3.0}) == 6 and model.prior.calls_per_sample == 3
    assert model.calls_per_sample == 4
    with pytest.raises(ConfigError, match="guidance needs"):
        pair().sample(1, guidance_scale=2.0)


def test_known_codes_stay_at_every_scale_and_known_pixels_in_the_image() -> None:
    model = pair()
    c, known = codes(model), torch.rand(3, 1, 1, 21) < 0.5
    x = model.prior.sample(3, seed=0, given=model.image(c), known=known)
    assert torch.equal((x * 4).round().long()[known], c[known])
    image = (torch.rand(3, 1, 4, 4) > 0.5).double()
    done = model.sample(3, seed=0, given=image, known=2)
    assert torch.equal(done[:, :, :2], image[:, :, :2])


# -- self-correction ---------------------------------------------------------------------------------------------------


def test_no_flips_are_the_inputs_and_targets_of_plain_training() -> None:
    model = pair(Infinity, K=4)
    f = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    b = model.autoencoder.quantiser.codes(f)
    seen, taught = model.prior.corrected(f, torch.zeros(5, 2), torch.rand(5, 4, 21))
    assert torch.equal(seen, b) and torch.equal(taught, b)


def test_flips_at_one_scale_invert_its_codes_and_change_the_targets_of_larger_ones_only() -> None:
    model, q = pair(Infinity, K=4), None
    q = model.autoencoder.quantiser
    f = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    plain = q.codes(f)
    seen, taught = model.prior.corrected(f, torch.tensor([[0.0, 1.0]]).expand(5, 2), torch.rand(5, 4, 21))
    inverted = plain.clone()
    inverted[..., 1:5] = 1 - inverted[..., 1:5]
    assert torch.equal(seen[..., :5], inverted[..., :5])
    assert torch.equal(model.prior.inputs(seen)[:, 4:], model.prior.inputs(inverted)[:, 4:])  # of scale 3
    assert torch.equal(taught[..., :5], plain[..., :5])
    assert not torch.equal(taught[..., 5:], plain[..., 5:])  # noise injection alone would keep these
    left = f - q.embed(seen[..., :5]).double()  # what the flipped history leaves
    assert torch.equal(q.split(taught)[2], (left > 0).long())
    assert torch.equal(seen[..., 5:], taught[..., 5:])


def test_rates_are_multiples_up_to_the_highest_and_of_each_example_and_scale() -> None:
    prior = pair(Infinity, flips=0.2).prior
    rates = prior.rates(4000)
    steps = (rates / 0.01).round()
    assert rates.shape == (4000, 2) and torch.allclose(rates, steps * 0.01)
    assert steps.unique().tolist() == list(range(21)) and abs(float(rates.mean()) - 0.1) < 0.005
    assert not torch.equal(rates[:, 0], rates[:, 1])


def test_training_sees_maps_and_validation_codes() -> None:
    model = pair(Infinity, K=4)
    x = (torch.rand(4, 1, 4, 4) > 0.5).double()
    assert not model.storable and pair(Infinity, K=4, flips=0.0).storable and pair().storable
    plain = model.loss((x, None))["loss"]
    assert torch.allclose(plain, -model.prior.log_prob(model.image(model.codes(x))).mean())
    batch = model.train().stage((x, None))
    assert batch[0].shape == (4, 4, 4, 4)
    losses = {float(model.loss((x, None))["loss"].detach()) for _ in range(3)}
    assert len(losses) == 3  # the flips are drawn
    model.training_step((x, None), 0).backward()
    assert all(p.grad is not None for p in model.prior.parameters())


# -- the tokenizer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_read_through_the_tokenizer_that_the_whole_holds(kind: type[VAR]) -> None:
    model = pair(kind)
    assert not any("tokenizer" in name for name in model.prior.state_dict())
    twin = copy.deepcopy(model)
    assert twin.prior.tokenizer is twin.autoencoder.quantiser and twin.prior.tokenizer is not model.prior.tokenizer
    c = codes(model)
    assert torch.equal(twin.prior.inputs(c), model.prior.inputs(c))
    alone = kind(list(model.grid), model.codebook_size, [1, 2, 4], model.prior.channels, width=8, heads=2)
    with pytest.raises(ConfigError, match="make it the prior of a CodePrior"):
        alone.sample(1)


def test_tokenizers_and_sizes_that_do_not_fit_are_refused() -> None:
    plain = VQVAE(MLP([16, 8]), MLP([8, 16]), VectorQuantiser(4, 2), [1, 4, 4], [2, 2], "bernoulli")
    with pytest.raises(ConfigError, match=r"VAR is a prior over codes at growing scales.*var_tokenizer-mnist"):
        VAR.fitted_to_codes({}, plain)
    with pytest.raises(ConfigError, match="lie in a row"):
        VAR([1, 2, 2], 4, [1, 2], 3)
    with pytest.raises(ConfigError, match="Infinity has bits"):
        Infinity([1, 1, 5], 4, [1, 2], 3)
    model = pair()
    with pytest.raises(ConfigError, match="the prior is built for"):
        CodePrior(model.autoencoder, VAR([1, 1, 21], 5, [1, 2, 4], 7, width=8, heads=2))
    fitted = VAR.fitted_to_codes({"width": 8, "scales": [1], "channels": 1}, model.autoencoder)
    assert fitted == {"width": 8, "scales": [1, 2, 4], "channels": 3, "shape": [1, 1, 21], "levels": 5}
