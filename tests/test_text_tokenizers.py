"""Texts: two paths of a VAE, tokens with learnt lengths, byte pairs, and priors over tokens of any tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.abilities import TokenisesText
from zoo.data.text import read_shakespeare
from zoo.errors import ConfigError
from zoo.export.parts import parts
from zoo.families.autoregressive import scores
from zoo.families.byte_pairs import BytePairs
from zoo.families.dual_path_vae import DualPathVAE
from zoo.families.gated_quantised_vae import GatedQuantisedVAE
from zoo.families.token_prior import TokenPrior
from zoo.families.transformer import Transformer
from zoo.maths.distributions import gaussian_kl
from zoo.maths.spans import before, hard_gates, left_packed, span_chances, span_masks, written
from zoo.spec import build

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz"
TEXT = "the cat sat on the mat and the rat sat on the cat"


def _blocks(tokens: int, width: int, depth: int) -> float:
    return depth * (12 * tokens * width**2 + 2 * tokens**2 * width)


def dual_path_flops(args: Mapping[str, Any]) -> float:
    """The encoder, and the decoder along both paths, each with its head; three passes for one forward."""
    T, d, L, z = args["shape"][0], args["width"], args["levels"], args["latent_dim"]
    encoder = _blocks(T, d, args["encoder_depth"]) + 2 * d * z
    return 6.0 * (encoder + 2 * (_blocks(T, d, args["depth"]) + T * d * L + z * d))


def gated_flops(args: Mapping[str, Any]) -> float:
    """The encoder, the gates and the head, forward and back; each vector against the codes, and their averages."""
    T, d, D, K, J = args["shape"][0], args["width"], args["dim"], args["vocabulary"], args["longest"]
    trained = _blocks(T, d, args["depth"] + 1) + 3 * T * d * (d + 1) + T * d * D
    trained += T * args["hidden"] * (D + J * (args["levels"] + 1))
    return 6.0 * trained + 2.0 * 2 * T * D * K


def byte_pair_flops(args: Mapping[str, Any]) -> float:
    """Counts of tokens against their probabilities, and back to these."""
    return 2.0 * 2 * args["vocabulary"]


def token_prior_flops(args: Mapping[str, Any]) -> float:
    """The prior, three passes for one forward; and what the tokenizer computes to cut a text up."""
    prior, told = args["prior"]["init_args"], args["tokenizer"]["init_args"]
    S, d = prior["shape"][0], prior["width"]
    flops = 6.0 * (_blocks(S, d, prior["depth"]) + S * d * prior["levels"])
    if "dim" not in told:
        return flops
    T, w, D, K, J = told["shape"][0], told["width"], told["dim"], told["vocabulary"], told["longest"]
    cut = _blocks(T, w, told["depth"] + 1) + 3 * T * w * (w + 1) + T * w * D + T * D * K
    return flops + 2.0 * (cut + T * told["hidden"] * (D + J * (told["levels"] + 1)))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "DualPathVAE": dual_path_flops,
    "GatedQuantisedVAE": gated_flops,
    "BytePairs": byte_pair_flops,
    "TokenPrior": token_prior_flops,
}


def dual(**options: Any) -> DualPathVAE:
    torch.manual_seed(0)
    sizes = {"latent_dim": 3, "width": 16, "encoder_depth": 1, "depth": 1, "heads": 2}
    return DualPathVAE([6], 5, **{**sizes, **options}).double()


def gated(**options: Any) -> GatedQuantisedVAE:
    torch.manual_seed(0)
    sizes = {"vocabulary": 7, "dim": 8, "width": 16, "depth": 1, "heads": 2, "longest": 3, "hidden": 8}
    return GatedQuantisedVAE([9], 5, **{**sizes, **options}).double()


def pairs(vocabulary: int = 60, texts: list[str] | None = None) -> BytePairs:
    model = BytePairs([len(TEXT)], len(ALPHABET), vocabulary, ALPHABET)
    model.learn_merges([TEXT] if texts is None else texts)
    return model


def examples(texts: list[str], alphabet: str = ALPHABET) -> Tensor:
    return torch.tensor([[alphabet.index(c) for c in text] for text in texts]) / (len(alphabet) - 1)


# -- two paths ---------------------------------------------------------------------------------------------------------


def test_a_path_that_hides_nothing_is_the_other_one_and_after_the_stop_the_loss_is_the_bound() -> None:
    x = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(0)).double() / 4

    def terms(step: int, **options: Any) -> dict[str, Tensor]:
        model = dual(stop=10, kl_steps=5, **options)
        model.steps_done = step
        model.set_noise([torch.Generator().manual_seed(1)])
        with torch.no_grad():
            return model.loss((x, None))

    open_path = terms(7, hidden_share=0.0)
    assert torch.equal(open_path["hidden_reconstruction"], open_path["reconstruction"])
    both = terms(7, hidden_share=0.5)
    assert not torch.allclose(both["hidden_reconstruction"], both["reconstruction"])
    assert both["loss"] == pytest.approx(
        float((both["hidden_reconstruction"] + both["reconstruction"]) / 2 + both["kl"])
    )
    after = terms(10, hidden_share=0.5, kl_dropout=0.5)
    assert "hidden_reconstruction" not in after and torch.allclose(after["loss"], -after["elbo"])
    assert not torch.allclose(both["loss"], -both["elbo"]), "before the stop it is another loss"


def test_the_mean_weight_of_the_kl_is_what_is_not_dropped() -> None:
    model = dual(kl_steps=100, kl_dropout=0.3, beta=2.0)
    model.set_noise([torch.Generator().manual_seed(0)])
    model.steps_done = 50
    w = model.kl_weights(20_000, 3)
    assert set(w.unique().tolist()) == {0.0, 1.0} and float(w.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(w.mean(0).std()) < 0.02, "dimensions of an example are dropped one by one"
    model.steps_done = 100
    assert torch.equal(model.kl_weights(20, 3), torch.full((1, 1), 2.0, dtype=torch.float64))


def test_hidden_characters_are_read_as_unknown_and_told_as_they_are() -> None:
    model = dual()
    values = torch.tensor([[0, 1, 2, 3, 4, 0]])
    z, hidden = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[False, True] * 3])
    logits = model.decoder(values.masked_fill(hidden, model.decoder.unknown), z)
    other = values.masked_fill(hidden, 4)
    assert torch.equal(model.decoder(other.masked_fill(hidden, model.decoder.unknown), z), logits)
    assert not torch.allclose(model.decoder(other, z), logits)
    assert logits.shape == (1, 6, 5), "the unknown character is never told"


def test_bounds_grow_with_draws_and_stay_below_the_likelihood() -> None:
    """On two characters out of two, the sum over all z is a sum over a grid."""
    torch.manual_seed(1)
    model = DualPathVAE([2], 2, latent_dim=1, width=8, encoder_depth=1, depth=1, heads=2).double()
    x = torch.tensor([[0.0, 1.0]]).double()
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None]
    values = torch.tensor([[0, 1]]).expand(len(z), -1)
    log_p = scores(model.decoder(values, z), values)
    exact = float(
        (log_p.detach() - z[:, 0].square() / 2 - math.log(math.sqrt(2 * math.pi)) + math.log(16 / 2000)).logsumexp(0)
    )
    elbo, iwae = (float(model.log_prob(x.expand(2000, -1), k=k, seed=0).mean()) for k in (1, 200))
    assert elbo < exact - 0.1 and iwae == pytest.approx(exact, abs=0.01)
    mean, log_var = (part.detach() for part in model.posterior(x))
    assert elbo == pytest.approx(exact - float(gaussian_kl(mean, log_var).sum()), abs=0.01), "z hardly matters yet"
    with pytest.raises(ConfigError, match="k must"):
        model.log_prob(x, k=0)


# -- spans -------------------------------------------------------------------------------------------------------------


def test_hard_gates_give_masks_that_tile_the_text() -> None:
    for every in (1, 2, 3, 4):
        ends = (torch.arange(12) % every == every - 1).double()[None]
        m = span_masks(ends, 5)
        expected = (torch.arange(5) < every).double().expand(12 // every, -1)
        assert torch.equal(m[0][ends[0] > 0], expected), "exactly the span since the last gate"
        covered = torch.zeros(12)
        for t, j in product(range(12), range(5)):
            if t >= j:
                covered[t - j] += ends[0, t] * m[0, t, j]
        assert torch.equal(covered, torch.ones(12))
    ends = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    assert span_masks(ends, 4)[0].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]


def test_soft_gates_have_the_chances_of_hard_ones() -> None:
    g = torch.tensor([[0.2, 0.7, 0.4, 0.5, 0.3]], dtype=torch.float64)
    for reach in (1, 2, 3, 5):
        mean = torch.zeros(5, reach, dtype=torch.float64)
        for bits in product((0.0, 1.0), repeat=5):
            b = torch.tensor([bits], dtype=torch.float64)
            ends = hard_gates(b, reach)
            lengths = span_masks(ends.double(), reach).sum(2)[0].long()
            for t in ends[0].nonzero()[:, 0].tolist():
                mean[t, lengths[t] - 1] += torch.where(b > 0, g, 1 - g).prod()
        w = span_chances(g, reach)
        assert torch.allclose(w[0], mean)
        for s in range(5):
            holds = sum(float(w[0, t, n:].sum()) for t in range(s, 5) if (n := t - s) < reach)
            assert holds == pytest.approx(1), "each place lies in one token"
    closed = torch.cat([g[:, :-1], torch.ones(1, 1, dtype=torch.float64)], 1)  # the last place ends a token
    masks = closed[..., None] * span_masks(closed, 5)
    assert torch.allclose(span_chances(g, 5).flip(2).cumsum(2).flip(2), masks), "the paper's, without a longest length"


def test_tokens_end_where_gates_open_and_nowhere_too_late() -> None:
    g = torch.tensor([[0.9, 0.1, 0.1, 0.1, 0.1, 0.6, 0.1], [0.0] * 7])
    assert hard_gates(g, 3).int().tolist() == [[1, 0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 0, 1, 1]]
    assert left_packed(torch.tensor([[-1, 5, -1, 3], [1, -1, -1, -1]])).tolist() == [[5, 3, -1, -1], [1, -1, -1, -1]]
    assert before(torch.tensor([[1, 2, 3]]), 2, -1)[0].tolist() == [[1, -1], [2, 1], [3, 2]]


def test_tokens_are_written_out_one_after_the_other() -> None:
    strings, lengths = torch.tensor([[1, 0, 0], [2, 3, 0], [4, 5, 6]]), torch.tensor([1, 2, 3])
    values, total = written(torch.tensor([[2, 0, 1, -1], [0, -1, -1, -1], [1, 1, 1, 1]]), strings, lengths, 6)
    assert values.tolist() == [[4, 5, 6, 1, 2, 3], [1, 0, 0, 0, 0, 0], [2, 3, 2, 3, 2, 3]]
    assert total.tolist() == [6, 1, 8]


# -- tokens with learnt lengths ----------------------------------------------------------------------------------------


def test_with_hard_gates_the_loss_is_the_bound_that_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gated(price=math.log(7), commitment=0.0)
    x = torch.randint(5, (4, 9), generator=torch.Generator().manual_seed(0)).double() / 4
    whole = model.encoded

    def hard(values: Tensor) -> tuple[Tensor, Tensor]:
        z, g = whole(values)
        return z, hard_gates(g, 3).double()

    monkeypatch.setattr(model, "encoded", hard)
    assert torch.allclose(-model.log_prob(x).mean(), model.loss((x, None))["loss"])
    model.cost_steps, model.steps_done = 10, 5
    half = model.loss((x, None))
    assert torch.allclose(half["loss"], -model.log_prob(x).mean() - math.log(7) / 2 * half["tokens"])


def test_probabilities_of_short_texts_sum_to_less_than_one() -> None:
    model = gated()
    texts = torch.tensor(list(product(range(5), repeat=3))).double() / 4
    total = float(model.log_prob(texts).exp().sum())
    assert 0 < total <= 1


def test_tokens_that_cost_nothing_are_short_and_dear_ones_as_long_as_can_be() -> None:
    counts = []
    for price, cost_steps in ((0.0, 10**6), (12.0, 0)):
        model = gated(price=price, cost_steps=cost_steps, lr=0.01).train()
        model.set_noise([torch.Generator().manual_seed(0)])
        optimizer, g = model.configure_optimizers()[0], torch.Generator().manual_seed(1)
        for i in range(100):
            x = torch.randint(5, (16, 9), generator=g).double() / 4
            model.training_step((x, None), i).backward()
            optimizer.step()
            optimizer.zero_grad()
        counts.append(float((model.eval().tokens(x) >= 0).sum(1).double().mean()))
    assert counts[0] > 4 and counts[1] == 3


def test_codes_are_words_of_a_vocabulary() -> None:
    model = gated()
    x = torch.randint(5, (6, 9), generator=torch.Generator().manual_seed(0)).double() / 4
    tokens, _ = model.tokenised(x)
    strings, lengths = model.spelling()
    assert strings.shape == (7, 3) and lengths.min() >= 1 and lengths.max() <= 3
    told, n = model.said_of(model.quantiser.book()[0])
    for k in range(7):
        last = [int(told[k, j].argmax()) for j in range(3)]
        assert strings[k, : lengths[k]].tolist() == last[: int(n[k].argmax()) + 1][::-1]
    again = model.reconstruct(x)
    assert again.shape == x.shape
    for row in range(6):
        spelled = [v for c in tokens[row].tolist() if c >= 0 for v in strings[c, : lengths[c]].tolist()]
        assert (again[row] * 4).round().long().tolist() == (spelled + [0] * 9)[:9]
    assert isinstance(model, TokenisesText)


# -- byte pairs --------------------------------------------------------------------------------------------------------


def test_byte_pairs_are_exact_and_follow_by_hand() -> None:
    pytest.importorskip("tokenizers")
    model = pairs()
    x = examples([TEXT])
    tokens, log_p = model.tokenised(x)
    strings, lengths = model.spelling()
    values, total = written(tokens, strings, lengths, len(TEXT))
    assert torch.equal(values, model.quantize(x)) and int(total) == len(TEXT) and float(log_p) == 0
    assert int((tokens >= 0).sum()) < len(TEXT) / 2
    merges = [m for m in model.merges.tolist() if m[0] >= 0]
    words = ["".join(ALPHABET[v] for v in strings[len(ALPHABET) + i, : lengths[len(ALPHABET) + i]]) for i in range(3)]
    assert words[0] == "at" and all(len(w) > 1 for w in words)  # at: six times
    row = model.quantize(x)[0].tolist()
    pieces: list[list[int]] = []
    for v in row:  # a word with the blank before it
        pieces.append([v]) if ALPHABET[v] == " " or not pieces else pieces[-1].append(v)
    for rank, (a, b) in enumerate(merges):  # the same, merge by merge
        for piece in pieces:
            i = 0
            while i < len(piece) - 1:
                if piece[i : i + 2] == [a, b]:
                    piece[i : i + 2] = [len(ALPHABET) + rank]
                i += 1
    assert [t for piece in pieces for t in piece] == tokens[0][tokens[0] >= 0].tolist()


def test_without_merges_tokens_are_characters_and_the_library_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.nets.byte_pairs._library", lambda: pytest.fail("asked"))
    model = BytePairs([6], len(ALPHABET), 40, ALPHABET)
    x = examples(["the ca"])
    assert torch.equal(model.tokenised(x)[0], model.quantize(x))
    assert float(model.log_prob(x)) == pytest.approx(-6 * math.log(40))


def test_weights_bring_their_merges_along() -> None:
    pytest.importorskip("tokenizers")
    model = pairs()
    again = build(model.spec)
    x = examples([TEXT])
    again.tokenised(x)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.tokenised(x)[0], model.tokenised(x)[0])
    with pytest.raises(ConfigError, match="alphabet"):
        BytePairs([6], 5, 40, None)
    with pytest.raises(ConfigError, match="vocabulary"):
        BytePairs([6], len(ALPHABET), 5, ALPHABET)


def test_a_missing_library_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("zoo.nets.byte_pairs.importlib.import_module", missing)
    with pytest.raises(ConfigError, match="extra text"):
        pairs()


def test_merges_of_the_plays_shorten_them() -> None:
    pytest.importorskip("tokenizers")
    text = read_shakespeare()[:20_000]
    alphabet = "".join(sorted(set(text)))
    model = BytePairs([200], len(alphabet), len(alphabet) + 60, alphabet)
    model.learn_merges([text[i : i + 200] for i in range(0, 20_000, 200)])
    x = examples([text[:200]], alphabet)
    assert 1.2 < 200 / int((model.tokenised(x)[0] >= 0).sum()) < 2.5
    assert model.text(x) == [text[:200]]


# -- priors ------------------------------------------------------------------------------------------------------------


def prior(tokenizer: Any, tokens: int = 12, **options: Any) -> TokenPrior:
    torch.manual_seed(0)
    return TokenPrior(tokenizer, Transformer([tokens], tokenizer.vocabulary, width=16, depth=1, heads=2, **options))


def test_a_prior_over_characters_is_the_model_of_characters() -> None:
    """Byte pairs without a merge are characters, so the bound is exact and equals the Transformer's."""
    model = prior(BytePairs([6], len(ALPHABET), len(ALPHABET), ALPHABET), tokens=6)
    x = examples(["the ca", "t sat "])
    assert torch.allclose(model.log_prob(x), model.prior.log_prob(x), atol=1e-5)
    assert torch.allclose(model.loss((x, None))["loss"], -model.prior.log_prob(x).mean(), atol=1e-4)


def test_the_bound_counts_every_token_once_beyond_what_it_learns_from() -> None:
    pytest.importorskip("tokenizers")
    tokenizer = pairs()
    model, x = prior(tokenizer, tokens=4), examples([TEXT])
    tokens = model.tokens(x)
    assert tokens.shape[1] > 4
    by_hand = scores(model.prior(tokens), tokens)
    assert torch.allclose(model.log_prob(x), by_hand)
    few = tokens[:, :4]
    assert torch.allclose(model.loss((x, None))["loss"], -scores(model.prior(few), few).mean())
    learned = prior(tokenizer, tokens=4, positions="learned")
    with pytest.raises(ConfigError, match="rotary"):
        learned.log_prob(x)


def test_a_prior_of_an_inexact_tokenizer_pays_for_what_it_tells_wrong() -> None:
    tokenizer = gated().float()
    model = prior(tokenizer)
    x = torch.randint(5, (3, 9), generator=torch.Generator().manual_seed(0)).float() / 4
    tokens, told = tokenizer.tokenised(x)
    assert (told < 0).all()
    texts = torch.tensor(list(product(range(5), repeat=3))).float() / 4
    assert float(model.log_prob(texts).exp().sum()) <= 1
    n = (tokens >= 0).sum(1)
    alone = torch.stack([scores(model.prior(t[None, :k]), t[None, :k])[0] for t, k in zip(tokens, n, strict=True)])
    assert torch.allclose(model.log_prob(x), told + alone, atol=1e-5)


def test_samples_are_as_long_as_asked_and_begin_as_told() -> None:
    pytest.importorskip("tokenizers")
    model = prior(pairs()).eval()
    x = model.sample(3, seed=0)
    assert x.shape == (3, len(TEXT)) and torch.equal(x, model.sample(3, seed=0)) and len(model.text(x)[0]) == len(TEXT)
    told = model.text(model.sample(2, seed=0, prompt="the cat", length=30))
    assert all(len(t) == 30 and t.startswith("the cat") for t in told)
    with pytest.raises(ConfigError, match="prompt holds"):
        model.sample(1, prompt="THE")


def test_of_a_prior_its_step_is_exported_and_of_texts_at_once_nothing() -> None:
    model = prior(BytePairs([6], len(ALPHABET), 40, ALPHABET), tokens=6)
    assert [(name, part.kind) for name, part in parts(model).items()] == [
        (name, part.kind) for name, part in parts(model.prior).items()
    ]
    for other in (dual(), gated(), BytePairs([6], len(ALPHABET), 40, ALPHABET)):
        with pytest.raises(ConfigError, match="nothing to export"):
            parts(other)


def test_what_is_no_tokenizer_or_no_prior_is_refused() -> None:
    tokenizer = BytePairs([6], len(ALPHABET), 40, ALPHABET)
    with pytest.raises(ConfigError, match="no tokenizer"):
        TokenPrior(dual().float(), Transformer([6], 5))
    with pytest.raises(ConfigError, match="40 tokens"):
        TokenPrior(tokenizer, Transformer([6], 41))
    with pytest.raises(ConfigError, match="sequences"):
        TokenPrior(tokenizer, gated().float())
