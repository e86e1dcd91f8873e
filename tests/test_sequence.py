"""Laws of the autoregressive models of sequences: Transformer and WaveNet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.families.sequence import SequenceModel
from zoo.families.transformer import Transformer
from zoo.families.wavenet import WaveNet
from zoo.maths.scheduled_sampling import mix, teacher_probability
from zoo.nets.attention import attention_mask, rotary_tables, rotate
from zoo.nets.compiled import tanh_ratio
from zoo.nets.dilated import receptive_field
from zoo.nets.linear_attention import linear_attention
from zoo.nets.selective_scan import SelectiveBlock, scan, scan_by_steps
from zoo.training.compute import flops_per_step

SMALL = {"shape": (9,), "levels": 4, "width": 8, "depth": 2, "heads": 2}
VARIANTS: dict[str, tuple[type[SequenceModel], dict[str, Any]]] = {
    "causal": (Transformer, SMALL),
    "learned, tied": (Transformer, {**SMALL, "positions": "learned", "tied": True, "heads": 1}),
    "sliding": (Transformer, {**SMALL, "mask": "sliding", "window": 3}),
    "sliding, learned": (Transformer, {**SMALL, "mask": "sliding", "window": 4, "positions": "learned"}),
    "prefix": (Transformer, {**SMALL, "mask": "prefix", "prefix": 4}),
    "classes": (Transformer, {**SMALL, "num_classes": 3, "positions": "learned"}),
    "pixels": (Transformer, {**SMALL, "shape": (1, 3, 4), "levels": 3}),
    "colours": (Transformer, {**SMALL, "shape": (3, 2, 2), "levels": 3, "mask": "prefix", "prefix": 6}),
    "linear": (Transformer, {**SMALL, "mixer": "linear"}),
    "linear, learned": (Transformer, {**SMALL, "mixer": "linear", "positions": "learned", "num_classes": 3}),
    "selective": (Transformer, {**SMALL, "mixer": "selective"}),
    "wavenet": (WaveNet, {"shape": (12,), "levels": 5, "width": 6, "skip": 7, "stacks": 2, "depth": 2}),
    "wavenet, kernel 3": (WaveNet, {"shape": (12,), "levels": 4, "width": 4, "skip": 5, "depth": 2, "kernel": 3}),
    "wavenet, classes": (
        WaveNet, {"shape": (10,), "levels": 4, "width": 4, "skip": 6, "stacks": 1, "depth": 3, "num_classes": 2},
    ),
}  # fmt: skip
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def lively(variant: str, seed: int = 0, **changes: Any) -> SequenceModel:
    """A float64 model whose weights are large enough for every law to bite."""
    kind, arguments = VARIANTS[variant]
    torch.manual_seed(seed)
    model = kind(**{**arguments, **changes}).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn_like(parameter) * (0.7 if parameter.ndim > 1 else 0.3))
    return model


def some_labels(model: SequenceModel, n: int) -> Tensor | None:
    return torch.arange(n) % model.num_classes if model.num_classes else None


def values(model: SequenceModel, n: int, length: int | None = None, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.levels, (n, length or model.length), generator=generator)


@each_variant
@torch.no_grad()
def test_logits_depend_on_earlier_values_only(variant: str) -> None:
    """Changing any value leaves all logits up to its own as they are, and changes the next ones."""
    model = lively(variant)
    k, labels = values(model, 1), some_labels(model, 1)
    before = model(k, labels)
    for i in range(model.length):
        other = k.clone()
        other[:, i] = (k[:, i] + 1) % model.levels
        moved = (model(other, labels) - before).abs().amax((0, 2)) > 1e-12
        assert not moved[: i + 1].any()
        seen = model.length if not isinstance(model, WaveNet) else i + 1 + model.receptive_field
        assert i + 1 >= model.length or moved[i + 1]
        assert not moved[seen:].any()


@each_variant
@torch.no_grad()
def test_probabilities_of_all_sequences_sum_to_one(variant: str) -> None:
    changes = {"shape": (1, 2, 2) if "pixels" in variant else (3, 1, 1) if "colours" in variant else (4,), "levels": 3}
    if "prefix" in VARIANTS[variant][1]:
        changes["prefix"] = 2
    model = lively(variant, **changes)
    k = torch.tensor(list(itertools.product(range(3), repeat=model.length)))
    x = model.from_sequence(k).double() / 2
    labels = torch.ones(len(k), dtype=torch.int64) if model.num_classes else None
    p = model.log_prob(x, labels=labels).exp()
    assert p.std() > 0 and abs(p.sum().item() - 1) < 1e-5


@each_variant
def test_cached_sampler_equals_the_naive_one(variant: str) -> None:
    model = lively(variant)
    x = model.sample(4, seed=3)
    assert x.shape == (4, *model.shape) and x.std() > 0
    assert torch.equal(x, model.sample(4, seed=3, cached=False))
    assert torch.equal(model.quantize(x).double() / (model.levels - 1), x)
    options = {"temperature": 0.7, "top_k": 3, "top_p": 0.9}
    assert torch.equal(model.sample(1, seed=4, **options), model.sample(1, seed=4, cached=False, **options))


@each_variant
@torch.no_grad()
def test_cached_logits_equal_the_full_pass(variant: str) -> None:
    model = lively(variant)
    k, labels = values(model, 3), some_labels(model, 3)
    full, state = model(k, labels), model.start(3, labels)
    for t in range(model.length):
        torch.testing.assert_close(state.logits(), full[:, t], rtol=1e-11, atol=1e-11)
        state.put(k[:, t])
    for first in (1, 5, model.length - 1):  # a beginning at once, then the rest
        state = model.start(3, labels)
        state.put(k[:, :first])
        for t in range(first, model.length):
            torch.testing.assert_close(state.logits(), full[:, t], rtol=1e-11, atol=1e-11)
            state.put(k[:, t])


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("pixels", "colours")])
def test_sequences_longer_than_the_training_windows(variant: str) -> None:
    model = lively(variant)
    length = 3 * model.length + 2
    x = model.sample(2, seed=5, length=length)
    assert x.shape == (2, length)
    assert torch.equal(x, model.sample(2, seed=5, length=length, cached=False))
    assert torch.equal(x[:, : model.length], model.sample(2, seed=5, length=length)[:, : model.length])


@each_variant
@torch.no_grad()
def test_log_prob_sums_the_log_softmax(variant: str) -> None:
    model = lively(variant)
    k, labels = values(model, 4), some_labels(model, 4)
    x = model.from_sequence(k).double() / (model.levels - 1)
    log_p = model(k, labels).log_softmax(-1).gather(-1, k[..., None]).sum((1, 2))
    torch.testing.assert_close(model.log_prob(x, labels=labels), log_p, rtol=1e-12, atol=1e-12)
    terms = model.loss((x, torch.zeros(4, dtype=torch.int64) if labels is None else labels))
    torch.testing.assert_close(terms["loss"], -log_p.mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms["bits_per_value"], -log_p.mean() / model.length / math.log(2))
    assert model.likelihood() == "exact"


@pytest.mark.parametrize("variant", ["causal", "prefix", "wavenet"])
def test_sampler_draws_from_the_likelihood(variant: str) -> None:
    changes: dict[str, Any] = {"shape": (3,), "levels": 2} | ({"prefix": 1} if variant == "prefix" else {})
    model = lively(variant, **changes)
    n = 20_000
    k = model.quantize(model.sample(n, seed=0)) @ torch.tensor([4, 2, 1])
    with torch.no_grad():
        p = model.log_prob(torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()).exp()
    share = torch.bincount(k, minlength=8) / n
    assert ((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("variant", ["causal", "sliding", "prefix", "classes", "wavenet"])
@pytest.mark.parametrize("cached", [True, False])
def test_full_beam_finds_the_most_probable_sequence(variant: str, cached: bool) -> None:
    changes: dict[str, Any] = {"shape": (5,), "levels": 3} | ({"prefix": 2} if variant == "prefix" else {})
    model = lively(variant, **changes)
    all_k = torch.tensor(list(itertools.product(range(3), repeat=5)))
    labels = [1] * len(all_k) if model.num_classes else None
    with torch.no_grad():
        log_p = model.log_prob(all_k.double() / 2, labels=labels)
    best = all_k[log_p.argsort(descending=True)]
    one = 1 if model.num_classes else None
    found = model.quantize(model.sample(7, beams=3**5, labels=one, cached=cached))
    assert torch.equal(found, best[:7])
    first = best[0, :2]
    given = model.quantize(model.sample(1, beams=27, labels=one, given=first.double() / 2, cached=cached))
    assert torch.equal(given[0], best[0])
    narrow = model.quantize(model.sample(1, beams=1, labels=one, cached=cached))
    assert torch.equal(narrow, model.quantize(model.sample(1, greedy=True, labels=one)))  # a beam of one is greedy


@each_variant
def test_temperature_tends_to_greedy(variant: str) -> None:
    model = lively(variant)
    greedy = model.sample(2, seed=0, greedy=True)
    for options in ({"temperature": 1e-9}, {"top_k": 1}, {"top_p": 1e-9}, {"greedy": True, "cached": False}):
        assert torch.equal(greedy, model.sample(2, seed=1, **options))
    k = model.to_sequence(model.quantize(greedy))
    assert torch.equal(model(k, some_labels(model, 2)).argmax(-1), k)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("variant", ["causal", "prefix", "wavenet"])
def test_completion_keeps_what_is_known_and_its_noise(variant: str, cached: bool) -> None:
    model = lively(variant)
    free, given = model.sample(2, seed=7), model.sample(2, seed=8)
    done = model.sample(2, seed=7, given=given[:, :4], cached=cached)
    assert torch.equal(done[:, :4], given[:, :4]) and not torch.equal(done[:, 4:], given[:, 4:])
    assert torch.equal(model.sample(2, seed=7, given=given, known=4, cached=cached), done)
    mask = torch.zeros(model.length, dtype=torch.bool)
    mask[[2, 5]] = True
    assert torch.equal(model.sample(2, seed=7, given=free, known=mask, cached=cached), free)
    assert torch.equal(model.sample(2, seed=7, given=given[0], known=mask)[:, 5], given[0, 5].expand(2))
    holes = free.clone()
    holes[0, ::2] = holes[1, 1::3] = math.nan  # other values of each sequence
    assert torch.equal(model.sample(2, seed=7, given=holes, cached=cached), free)
    assert torch.equal(model.sample(2, seed=7, given=given[:, :6], known=mask[:6], cached=cached)[:, 5], given[:, 5])


@pytest.mark.parametrize("variant", ["pixels", "colours"])
def test_half_given_images_are_completed(variant: str) -> None:
    model = lively(variant)
    free, given = model.sample(3, seed=7), model.sample(3, seed=8)
    done = model.sample(3, seed=7, given=given, known=1)
    assert torch.equal(done[:, :, 0], given[:, :, 0]) and torch.equal(
        model.sample(3, seed=7, given=free, known=1), free
    )
    assert torch.equal(done, model.sample(3, seed=7, given=given, known=1, cached=False))


def test_text_goes_in_and_out() -> None:
    model = lively("causal", alphabet="ab c")
    (text,) = model.text(model.sample(1, seed=0, prompt="cab", length=40))
    assert text.startswith("cab") and len(text) == 40 and set(text) <= set("ab c")
    assert model.encode_text("a c").tolist() == [0, 2, 3]
    with pytest.raises(ConfigError, match="'x', which is not among"):
        model.sample(1, prompt="xa")
    with pytest.raises(ConfigError, match="no alphabet"):
        lively("causal").sample(1, prompt="a")
    with pytest.raises(ConfigError, match="one character a level"):
        Transformer(levels=3, alphabet="abb")


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5, 64, 150])
def test_linear_attention_in_chunks_is_the_sum_over_the_past(length: int) -> None:
    q, k, v = (torch.randn(2, 3, length, 4, dtype=torch.float64) for _ in range(3))
    f, g = F.elu(q) + 1, F.elu(k) + 1
    weights = (f @ g.transpose(-1, -2)).tril()
    expected = weights @ v / weights.sum(-1, keepdim=True)  # without positions, weights that sum to one
    y, products, keys = linear_attention(q, k, v)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(products, torch.einsum("bhtd,bhte->bhde", g, v))
    torch.testing.assert_close(keys, g.sum(2))
    softmax = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert length == 1 or not torch.allclose(y, softmax, atol=1e-3)  # another law, where there is a past


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
def test_a_scan_in_rounds_is_the_recurrence(length: int) -> None:
    a, b = torch.rand(2, length, 3, 4, dtype=torch.float64), torch.randn(2, length, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(scan(a, b), scan_by_steps(a, b))
    far = torch.full((1, 3_000, 1), 0.5, dtype=torch.float64)  # whose product of all factors is no number any more
    torch.testing.assert_close(scan(far, torch.ones_like(far))[:, -1], torch.tensor([[2.0]], dtype=torch.float64))


def test_a_selective_step_keeps_what_its_values_say() -> None:
    """With D = 0 nothing is read and nothing forgotten; with a large D the past is forgotten."""
    block = SelectiveBlock(8, 1, 8, 1).double()
    with torch.no_grad():
        block.step_size.weight.zero_()
        u = torch.randn(1, 6, 16, dtype=torch.float64)
        block.step_size.bias.fill_(-100.0)
        a, b, _ = block._chosen(u)
        assert torch.allclose(a, torch.ones_like(a)) and b.abs().max() < 1e-30
        block.step_size.bias.fill_(100.0)
        assert block._chosen(u)[0].max() < 1e-30
    assert not hasattr(SelectiveBlock(8, 1, 8, 1).cache(2, 9, u), "keys")  # its state has no length


def test_masks_say_who_sees_whom() -> None:
    assert attention_mask(3) is None
    sliding, prefix = attention_mask(5, window=2), attention_mask(4, prefix=2)
    assert sliding.long().tolist() == [[int(0 <= i - j < 2) for j in range(5)] for i in range(5)]
    assert prefix.long().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@torch.no_grad()
def test_a_sliding_window_as_long_as_the_sequence_is_causal() -> None:
    causal = lively("causal")
    sliding = lively("causal", mask="sliding", window=9)
    sliding.load_state_dict(causal.state_dict())
    k = values(causal, 2)
    torch.testing.assert_close(causal(k), sliding(k), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_prefix_is_read_both_ways() -> None:
    """With the prefix known, changing its first value moves what the block makes of a later one and vice versa."""
    model = lively("prefix")
    k = values(model, 1)
    other = k.clone()
    other[:, 3] = (k[:, 3] + 1) % model.levels  # the last of the prefix
    kept: list[Tensor] = []
    for v in (k, other):
        tokens = model.tokens(v[:, :-1])
        kept.append(model._stream(tokens, None, attention_mask(tokens.shape[1], prefix=model.prefix + 1)))
    assert (kept[0] - kept[1]).abs()[0, :5].amax(1).min() > 1e-6


def test_rotary_products_depend_on_distance_only() -> None:
    q, k = torch.randn(2, 6, dtype=torch.float64)
    tables = rotary_tables(0, 50, 6, q)
    Q, K = rotate(q.expand(50, 6), tables), rotate(k.expand(50, 6), tables)
    product = Q @ K.T
    for d in range(-49, 50):
        assert product.diagonal(d).std(unbiased=False) < 1e-12
    torch.testing.assert_close(Q.norm(dim=1), q.norm().expand(50))
    later = rotary_tables(30, 20, 6, q)
    assert all(torch.equal(a[30:], b) for a, b in zip(tables, later, strict=True))


@pytest.mark.parametrize(("stacks", "depth", "kernel", "expected"), [(3, 10, 2, 3070), (1, 4, 3, 31), (2, 2, 2, 7)])
def test_receptive_field_equals_the_formula(stacks: int, depth: int, kernel: int, expected: int) -> None:
    assert receptive_field([2**i for i in range(depth)] * stacks, kernel) == expected
    assert expected == stacks * (kernel - 1) * (2**depth - 1) + 1


@pytest.mark.parametrize(("stacks", "depth", "kernel"), [(1, 4, 3), (2, 2, 2), (1, 3, 4)])
def test_receptive_field_is_what_a_gradient_sees(stacks: int, depth: int, kernel: int) -> None:
    model = lively("wavenet", stacks=stacks, depth=depth, kernel=kernel)
    T = model.receptive_field + 6
    x = torch.randn(1, T, 6, dtype=torch.float64, requires_grad=True)
    model.layers(x)[0, -1].sum().backward()
    seen = x.grad[0].abs().amax(1) > 0
    assert seen[-model.receptive_field :].all() and not seen[: -model.receptive_field].any()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "wavenet" in v])
def test_compiled_sampler_equals_the_torch_one(variant: str) -> None:
    pytest.importorskip("numba")
    model = lively(variant, width=7, skip=5)
    given = model.sample(3, seed=8)
    mask = torch.zeros(model.length, dtype=torch.bool)
    mask[[0, 1, 4, -1]] = True
    holes = given.clone()
    holes[0, 3:] = holes[1:, :6] = math.nan
    for options in (
        {}, {"temperature": 0.6, "length": 40}, {"greedy": True}, {"given": given, "known": mask}, {"given": holes},
    ):  # fmt: skip
        assert torch.equal(model.sample(3, seed=2, **options), model.sample(3, seed=2, compiled=True, **options))
    with pytest.raises(ConfigError, match="has no top_k"):
        model.sample(1, compiled=True, top_k=2)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_logits_agree_in_single_precision() -> None:
    pytest.importorskip("numba")
    model = lively("wavenet, classes").float()
    k, labels = values(model, 2, 30), some_labels(model, 2)
    _, logits = model.generate(torch.rand(30, 2), k, torch.ones(2, 30, dtype=torch.bool), labels)
    torch.testing.assert_close(logits, model(F.pad(k, (0, 1)), labels)[:, -2], rtol=0, atol=1e-5)


def test_tanh_as_a_ratio_of_polynomials() -> None:
    p, q = (torch.tensor(c, dtype=torch.float64) for c in tanh_ratio())
    x = torch.linspace(-9, 9, 10_001, dtype=torch.float64)
    y = (x**2)[:, None]
    ratio = x * (p * y ** torch.arange(len(p))).sum(1) / (q * y ** torch.arange(len(q))).sum(1)
    torch.testing.assert_close(ratio, x.tanh(), rtol=0, atol=4e-8)
    assert (p > 0).all() and (q > 0).all()  # no cancellation, so that single precision will do


# -- scheduled sampling ------------------------------------------------------------------------------------------------


def test_mixing_follows_its_schedule() -> None:
    assert [teacher_probability("linear", 4, i) for i in (0, 1, 4, 9)] == [1, 0.75, 0, 0]
    assert [teacher_probability("exponential", 0.5, i) for i in (0, 1, 3)] == [1, 0.5, 0.125]
    sigmoid = [teacher_probability("inverse_sigmoid", 10, i) for i in (0, 10, 10_000_000)]
    assert sigmoid == pytest.approx([10 / 11, 10 / (10 + math.e), 0], abs=1e-12)
    assert teacher_probability(None, 0, 10**9) == 1
    for schedule, k in (("cubic", 1), ("exponential", 1.0), ("linear", 0.5), ("inverse_sigmoid", 0.0)):
        with pytest.raises(ConfigError):
            teacher_probability(schedule, k, 0)
    true, drawn, u = torch.zeros(100_000), torch.ones(100_000), torch.rand(100_000)
    assert mix(true, drawn, u, 0.7).mean().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("variant", ["causal", "wavenet", "pixels"])
def test_training_shows_draws_of_the_model_as_often_as_scheduled(variant: str) -> None:
    model = lively(variant, scheduled="linear", scheduled_k=10)
    model.set_noise([torch.Generator().manual_seed(0)])
    k = values(model, 1000)
    with torch.no_grad():
        p = model(k).softmax(-1)
    for step, eps in ((0, 1.0), (5, 0.5), (10, 0.0)):
        model.steps_done = step
        shown = model._shown(k, None)
        # A draw equals the true value with the probability that the model gives to it.
        expected = eps + (1 - eps) * p.gather(-1, k[..., None]).mean().item()
        assert (shown == k).double().mean().item() == pytest.approx(expected, abs=0.02)


def test_teacher_forcing_is_the_default_and_what_validates() -> None:
    plain, scheduled = lively("causal"), lively("causal", scheduled="exponential", scheduled_k=0.5)
    x = values(plain, 4).double() / 3
    scheduled.steps_done = 100
    batch = (x, torch.zeros(4, dtype=torch.int64))
    assert torch.equal(plain.train().loss(batch)["loss"], plain.eval().loss(batch)["loss"])
    assert torch.equal(scheduled.eval().loss(batch)["loss"], plain.loss(batch)["loss"])
    scheduled.train().set_noise([torch.Generator().manual_seed(0)])
    assert not torch.equal(scheduled.loss(batch)["loss"], plain.loss(batch)["loss"])


@pytest.mark.parametrize("variant", ["causal", "classes", "wavenet, classes", "selective"])
def test_a_curriculum_begins_with_pieces_that_know_nothing_of_each_other(variant: str) -> None:
    model = lively(variant, shape=(8,), curriculum=2, curriculum_every=5).train()
    k, labels = values(model, 3), some_labels(model, 3)
    x = k.double() / (model.levels - 1)
    for step, pieces in ((0, 4), (4, 4), (5, 2), (10, 1), (1000, 1)):
        model.steps_done = step
        assert model.pieces() == pieces
        alone = [model._log_prob(part, labels) for part in k.chunk(pieces, 1)]
        found = model.loss((x, labels if labels is not None else torch.zeros(3, dtype=torch.int64)))["loss"]
        torch.testing.assert_close(found, -sum(alone).mean())  # type: ignore[union-attr]
    whole = -model.log_prob(x, labels=labels).mean()
    torch.testing.assert_close(found, whole)
    model.steps_done = 0
    assert not torch.allclose(model.loss((x, labels))["loss"], whole)
    torch.testing.assert_close(model.eval().loss((x, labels))["loss"], whole)  # validation is of whole examples


def test_a_curriculum_goes_with_scheduled_sampling_and_is_counted_at_its_full_length() -> None:
    both = {"curriculum": 2, "curriculum_every": 5, "shape": (8,)}
    model = lively("causal", scheduled="linear", scheduled_k=100, **both)
    model.set_noise([torch.Generator().manual_seed(0)])
    model.train().steps_done = 50
    assert model.counted_from == 10 and model.loss((torch.zeros(2, 8).double(), torch.zeros(2)))["loss"].isfinite()
    batch = (torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64))
    plain, grown = (lively("causal", **options).float() for options in ({"shape": (8,)}, both))
    assert flops_per_step(grown, batch) == flops_per_step(plain, batch)
    for wrong in ({"curriculum": 3}, {"curriculum": 0}, {"curriculum": 16}, {"curriculum": 2, "curriculum_every": 0}):
        with pytest.raises(ConfigError, match="pieces of a sequence"):
            lively("causal", shape=(8,), **wrong)
    with pytest.raises(ConfigError, match="pieces of a sequence"):
        lively("pixels", curriculum=3)


@pytest.mark.parametrize("variant", ["causal", "classes", "wavenet, classes"])
def test_every_tensor_moves_within_the_declared_steps(variant: str) -> None:
    kind, arguments = VARIANTS[variant]
    torch.manual_seed(0)
    model = kind(**{**arguments, "scheduled": "linear", "scheduled_k": 2.0}).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    (optimizer,) = model.configure_optimizers()
    x = values(model, 8).float() / (model.levels - 1)
    for i in range(model.steps_to_move):
        model.steps_done = i
        loss = model.loss((x, torch.arange(8) % max(1, model.num_classes)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_dropout_is_off_outside_training_and_keeps_the_mean() -> None:
    model = lively("causal", dropout=0.5)
    k = values(model, 2)
    assert torch.equal(model(k), lively("causal")(k))
    y = model.train()._drop(torch.ones(2000, 50, dtype=torch.float64))
    assert set(y.unique().tolist()) == {0.0, 2.0} and abs(y.mean().item() - 1) < 0.02
    assert not torch.equal(model(k), model(k))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (2, 2)}, "shape must be"),
        ({"levels": 1}, "levels must be at least 2"),
        ({"width": 10, "heads": 3}, "does not divide among 3 heads"),
        ({"mask": "full"}, "mask must be causal, sliding or prefix"),
        ({"mask": "sliding"}, "window belongs to the sliding mask"),
        ({"window": 4}, "window belongs to the sliding mask"),
        ({"mask": "prefix", "prefix": 300}, "prefix must be between 1 and the 256"),
        ({"positions": "sine"}, "learned or rotary"),
        ({"mixer": "mean"}, "mixer must be one of softmax, linear, selective"),
        ({"mixer": "linear", "mask": "sliding", "window": 4}, "all but softmax are causal"),
        ({"width": 9, "heads": 3}, "a head has 3"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"scheduled": "never"}, "scheduled must be one of"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(arguments: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Transformer(**arguments)


def test_wrong_wavenets_end_in_one_sentence() -> None:
    for arguments in ({"kernel": 1}, {"depth": 0}, {"stacks": 0}):
        with pytest.raises(ConfigError):
            WaveNet(**arguments)


def test_wrong_sampling_options_end_in_one_sentence() -> None:
    model, pixels = lively("causal"), lively("pixels")
    x = model.sample(2, seed=0)
    for options, message in (
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"top_k": 0}, "top_k must be a positive integer"),
        ({"top_p": 1.5}, "top_p must lie in"),
        ({"known": 3}, "takes both"),
        ({"given": x[:, None]}, "given must have shape"),
        ({"given": x, "length": 4}, "only 4 are to be drawn"),
        ({"given": x, "known": 30}, "between 0 and 9"),
        ({"given": x, "known": torch.ones(4)}, "does not broadcast"),
        ({"given": x, "prompt": "a"}, "pass either prompt"),
        ({"beams": 1}, "a beam of 1 holds no 2"),
        ({"beams": 4, "given": x[:, :3]}, "one beginning at a time"),
        ({"length": 0}, "length must be a positive integer"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.sample(2, **options)
    with pytest.raises(ConfigError, match="an image has the model's size"):
        pixels.sample(1, length=3)
    with pytest.raises(ConfigError, match="takes both"):
        pixels.sample(1, given=torch.zeros(1, 3, 4))
    with pytest.raises(DataError, match=r"values in \[0, 1\]"):
        model.log_prob(3 * torch.ones(1, 9))
    with pytest.raises(ConfigError, match="is conditional"):
        lively("classes").log_prob(x)


# -- compute -----------------------------------------------------------------------------------------------------------


def _transformer_flops(args: Mapping[str, Any]) -> float:
    """Maps of each position, and attention over all pairs of them: hidden ones are multiplied, too."""
    assert args["mask"] != "prefix", "the two passes of a prefix are not written down here"
    T, d, h = math.prod(args["shape"]), args["width"], args["hidden"] or 4 * args["width"]
    pairs = {"softmax": 2 * T * T * d, "linear": _linear_products(T, d, args["heads"])}
    block = T * (4 * d * d + 2 * d * h) + pairs[args["mixer"]]
    return 6.0 * (args["depth"] * block + T * d * args["levels"])


def _linear_products(T: int, d: int, heads: int, chunk: int = 64) -> float:
    """All pairs within a chunk, twice; the sums, read and added to. Those of the first have no gradient, and what the
    last one adds is not read."""
    return T * (2 * chunk * d + 2 * d * d // heads) - chunk * d * d / heads


def _wavenet_flops(args: Mapping[str, Any]) -> float:
    """The last layer of a stack adds nothing to the stream."""
    T, C, S, N = math.prod(args["shape"]), args["width"], args["skip"], args["stacks"] * args["depth"]
    return 6.0 * T * (N * args["kernel"] * C * 2 * C + (N - 1) * C * C + N * C * S + S * S + S * args["levels"])


STEP_FLOPS = {"Transformer": _transformer_flops, "WaveNet": _wavenet_flops}
