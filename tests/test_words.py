"""Texts of letters as texts of whole words: what is read and written, and a model that learns words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zoo.context import PAD, Words, decode_texts, encode_texts
from zoo.data.captions import MNISTCaptions, MNISTWords
from zoo.errors import ConfigError
from zoo.families.transfusion import Transfusion
from zoo.fitting import fitted_to_data
from zoo.nets.transfusion import TransfusionNet
from zoo.registry import load_registry
from zoo.spec import build

ALPHABET, LETTERS, WORDS = " abc", 9, 3
VOCABULARY = ("a", "ab", "ba", "cab")


@pytest.fixture
def words() -> Words:
    return Words(VOCABULARY, ALPHABET, LETTERS, WORDS)


def test_what_is_read_is_written(words: Words) -> None:
    texts = ["", *VOCABULARY, *(f"{a} {b}" for a in VOCABULARY for b in VOCABULARY), "cab a ab"]
    letters = encode_texts(texts, ALPHABET, LETTERS)
    symbols = words.read(letters)
    expected = [[VOCABULARY.index(w) for w in text.split()] for text in texts]
    assert symbols.tolist() == [row + [PAD] * (WORDS - len(row)) for row in expected]
    assert torch.equal(words.write(symbols), letters)


@pytest.mark.parametrize("text", ["abc", "aa", "a b", " a", "a  ab", "bac", "b", "a a a a"])
def test_a_text_with_another_word_is_none_and_is_refused_where_it_is_asked_for(words: Words, text: str) -> None:
    letters = encode_texts([text, "a cab"], ALPHABET, LETTERS)
    assert words.read(letters).tolist() == [[PAD] * WORDS, [0, 3, PAD]]
    with pytest.raises(ConfigError, match=r"among the words that the model knows|is told at most 3"):
        words.check(letters)
    words.check(letters[1:])


def test_a_word_and_the_same_letters_in_another_order_are_two() -> None:
    """A sum of letters without their places would take one for the other."""
    words = Words(("ab", "ba", "aab", "aba"), ALPHABET, LETTERS, WORDS)
    letters = encode_texts(["ba ab", "aba aab"], ALPHABET, LETTERS)
    assert words.read(letters).tolist() == [[1, 0, PAD], [3, 2, PAD]]


def test_what_is_too_long_is_left_out_word_by_word(words: Words) -> None:
    texts = words.write(torch.tensor([[3, 3, 3], [3, 3, 0]]))
    assert decode_texts(texts, ALPHABET) == ["cab cab", "cab cab a"]


@pytest.mark.parametrize("vocabulary", [(), ("a", "a"), ("a b",), ("d",), ("",), ("a" * 40,)])
def test_vocabularies_that_cannot_be_are_refused(vocabulary: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"a vocabulary has words|too long"):
        Words(vocabulary, ALPHABET, LETTERS, WORDS)
    with pytest.raises(ConfigError, match="a vocabulary has words"):
        Words(("a",), "abc", LETTERS, WORDS)


def small(**options: Any) -> Transfusion:
    torch.manual_seed(0)
    net = TransfusionNet((1, 4, 4), 2, len(VOCABULARY), WORDS, width=16, depth=1, heads=2)
    options = {"vocabulary": VOCABULARY, "text_length": LETTERS, "table": 20, "steps": 2, **options}
    model = Transfusion(net, (1, 4, 4), ALPHABET, **options).eval()
    with torch.no_grad():  # the output starts at zero, and would hide what goes in
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def test_texts_stay_letters_for_those_who_ask() -> None:
    model = small(image_weight=0.0)
    x = torch.rand(6, 1, 4, 4)
    assert model.context == (LETTERS,)
    assert all(set(caption.split()) <= set(VOCABULARY) for caption in model.caption(x, temperature=1.0, seed=0))
    asked = model.sample(3, seed=0, labels=["cab a", "ab", ""])
    assert torch.equal(asked[:1], model.sample(3, seed=0, prompt="cab a")[:1])
    assert not torch.equal(asked, model.sample(3, seed=0, prompt="ab"))
    with pytest.raises(ConfigError, match="'c', which is not among the words"):
        model.sample(1, prompt="c")
    with pytest.raises(ConfigError, match="'abc', which is not among the words"):
        model.text_log_prob("abc")


def test_the_loss_of_letters_is_that_of_their_words() -> None:
    model = small(image_weight=0.0, image_first=1.0, text_dropout=0.0)
    texts = encode_texts(["cab a"] * 4, ALPHABET, LETTERS)
    x = torch.rand(4, 1, 4, 4)
    logits = model.network(*model._clean(x), torch.tensor([[3, 0, PAD]] * 4), torch.ones(4, dtype=torch.bool))[1]
    of_words = model.symbol_nats(logits, torch.tensor([[3, 0, PAD]] * 4), torch.ones(4, dtype=torch.bool))
    assert float(model.text_log_prob("cab a", given=x[:1])) == pytest.approx(-3 * of_words[0].item(), rel=1e-5)
    assert model.loss((x, texts))["text"].isfinite()
    with pytest.raises(ConfigError, match="'ac', which is not among the words"):
        model.accepts_condition(encode_texts(["a", "ac"], ALPHABET, LETTERS))


def test_captions_of_digits_are_made_of_the_words_of_the_entry() -> None:
    spec = load_registry()["transfusion-mnist_captions"].model
    data = MNISTCaptions()
    model = build(spec)
    model.accepts_condition(data.split("test")[1])
    assert (model.words.read(data.split("test")[1]) >= 0).any(1).all()
    assert fitted_to_data(spec, spec["init_args"], data) == spec
    other = fitted_to_data(spec, spec["init_args"], MNISTWords())["init_args"]
    assert other["vocabulary"] is None and other["network"]["init_args"]["letters"] == len(MNISTWords.alphabet)
    with pytest.raises(ConfigError, match="say by text_length how many letters"):
        small(text_length=None)
