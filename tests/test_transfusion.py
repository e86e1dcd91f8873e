"""Transfusion: one Transformer, causal over letters and not within an image; and the captions it learns from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.context import PAD, decode_texts, encode_texts
from zoo.data.captions import (
    BOLD,
    LEFT,
    THIN,
    WORDS,
    MNISTCaptions,
    MNISTWords,
    TilesCaptions,
    described,
    ink_and_slant,
)
from zoo.data.mnist import MNIST, read_mnist
from zoo.errors import ConfigError, DataError
from zoo.families.denoising import Denoise
from zoo.families.transformer import Transformer
from zoo.families.transfusion import Transfusion
from zoo.fitting import fitted_to_data
from zoo.maths.decoding import Decoding
from zoo.nets.transfusion import TransfusionNet, seen
from zoo.registry import load_registry
from zoo.spec import build

# -- compute ----------------------------------------------------------------------------------------------------------


def transfusion_flops(args: Mapping[str, Any]) -> float:
    """The blocks over all symbols and patches, the maps around them, the halves of the U-Net, and the time's vector."""
    net = args["network"]["init_args"]
    (C, H, W), p, d, T = net["shape"], net["patch"], net["width"], net["length"]
    N, V, c = H * W // p**2, net["letters"] + 3, net.get("convolutions", 0)
    S, hidden = T + 3 + N, net.get("hidden") or 4 * d
    total = net["depth"] * ((4 * d * d + 2 * d * hidden) * S + 2 * S * S * d) + (T + 2) * d * V + 2 * d * d
    if not c:
        stem = C * p * p * d * N
        return 2.0 * (3 * (total + 2 * stem) - stem - d * d)
    folded, places = C * (p // 2) ** 2, 4 * N
    stem = 9 * folded * c * places
    block = 18 * c * c * places + 2 * c * d
    total += 2 * stem + 2 * block + 4 * c * d * N + d * c * N + 2 * c * c * places
    return 2.0 * (3 * total - stem - d * d)


STEP_FLOPS = {"Transfusion": transfusion_flops}

# -- captions ---------------------------------------------------------------------------------------------------------


def drawn_line(lean: float, width: float, length: int = 20) -> Tensor:
    """Return a stroke that moves by ``lean`` columns for each row upwards, (1, 1, 28, 28) in [0, 1]."""
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    away = (columns - 13.5 + lean * (rows - 13.5)).abs()
    ink = (width / 2 + 0.5 - away).clamp(0, 1) * ((rows - 13.5).abs() < length / 2)
    return ink[None, None].double()


def test_ink_is_the_sum_and_slant_the_shear() -> None:
    for lean in (-0.4, 0.0, 0.25, 0.5):
        ink, slant = ink_and_slant(drawn_line(lean, 4.0))
        assert float(slant) == pytest.approx(lean, abs=0.03) and float(ink) == pytest.approx(80, abs=1)
    assert ink_and_slant(torch.zeros(1, 1, 28, 28))[1].tolist() == [0]


def test_captions_say_what_the_numbers_say() -> None:
    pictures = torch.cat([drawn_line(0.5, 2.0), drawn_line(-0.3, 8.0), drawn_line(0.1, 5.0)])
    assert described(pictures, torch.tensor([1, 7, 3])) == ["a thin one slanted right", "a bold seven slanted left",
                                                            "a three"]  # fmt: skip


@pytest.fixture(scope="module")
def captions() -> MNISTCaptions:
    return MNISTCaptions()


def test_captions_of_digits_carry_more_than_the_class(captions: MNISTCaptions) -> None:
    x, told = captions.split("test")
    assert torch.equal(x, MNIST().split("test")[0]) and told.shape == (10_000, *captions.context)
    texts = decode_texts(told, captions.alphabet)
    assert torch.equal(captions.classes_of(texts), read_mnist("t10k")[1])
    assert captions.classes_of(["a thin", "a one two"]).tolist() == [-1, -1]
    ink, slant = ink_and_slant(x[:500].double() / 255)
    for text, weight, lean in zip(texts[:500], ink.tolist(), slant.tolist(), strict=True):
        assert ("thin" in text) == (weight < THIN) and ("bold" in text) == (weight > BOLD)
        assert ("slanted left" in text) == (lean < LEFT)
    shares = [sum(word in text for text in texts) / 10_000 for word in ("thin", "bold", "left", "right")]
    assert all(0.15 < share < 0.4 for share in shares), shares
    again = captions.captions_of(x[:50].double() / 255, read_mnist("t10k")[1][:50])
    assert again == texts[:50] and max(map(len, texts)) <= 26 and set("".join(texts)) <= set(captions.alphabet)


def test_captions_of_tiles_are_their_names() -> None:
    data = TilesCaptions()
    x, told = data.split("test")
    texts = decode_texts(told, data.alphabet)
    assert x.shape == (214, 3, 32, 32) and told.shape == (214, 28)
    assert {text.split()[0] for text in texts} == {"monster", "item", "player"}
    assert len(set(texts)) > 150 and all(text == " ".join(text.split()) for text in texts)


# -- tiny models ------------------------------------------------------------------------------------------------------

ALPHABET, LENGTH, SHAPE = "abc ", 5, (1, 4, 4)


def stirred(model: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model.eval()


def net(**options: Any) -> TransfusionNet:
    return TransfusionNet(SHAPE, 2, len(ALPHABET), LENGTH, **{"width": 16, "depth": 2, "heads": 2, **options})


def model(convolutions: int = 0, **options: Any) -> Transfusion:
    torch.manual_seed(0)
    made = Transfusion(net(convolutions=convolutions), SHAPE, ALPHABET, table=20, steps=4, **options)
    return stirred(made).double()


def images(n: int) -> Tensor:
    return torch.rand(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def texts(*given: str) -> Tensor:
    return encode_texts(given, ALPHABET, LENGTH)


def passed(made: Transfusion, x: Tensor, told: Tensor, first: list[bool]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        time = torch.linspace(-1, 1, len(x), dtype=torch.float64)
        return made.network(x, time, told, torch.tensor(first))


# -- who sees what ----------------------------------------------------------------------------------------------------


def test_positions_tell_the_order() -> None:
    where = net().positions(texts("ab", "abc"), torch.tensor([False, True]))
    far = 1 << 20
    assert where.tolist() == [[0, 1, 2, far, far, far, 3, 4, 5], [0, 4, 5, 6, far, far, 1, 2, 3]]
    assert seen(where, where)[0, 0, 7].tolist() == [True, True, True, False, False, False, True, True, False]


@pytest.mark.parametrize("convolutions", [0, 4])
def test_later_symbols_change_nothing_earlier(convolutions: int) -> None:
    made, x = model(convolutions), images(1)
    for told, other, letter in (("abcab", "abcac", 4), ("abcab", "bbcab", 0)):
        for first in (False, True):
            (image, text), (image_, text_) = (passed(made, x, texts(t), [first]) for t in (told, other))
            moved = (text - text_)[0].abs().amax(1) > 1e-9  # of start, five letters, EOI
            assert not moved[: letter + 1].any() and moved[letter + 1 : 6].all()
            assert bool(moved[6]) != first and bool(((image - image_).abs() > 1e-9).all()) != first


def test_one_patch_changes_all_of_its_image_and_the_text_behind_it() -> None:
    made, x = model(), images(1)
    y = x.clone()
    y[:, :, 2:, 2:] += 0.3
    for first in (False, True):
        (image, text), (image_, text_) = (passed(made, z, texts("abcab"), [first]) for z in (x, y))
        assert bool(((image - image_).abs() > 1e-9).all()), "all patches see one another"
        moved = (text - text_)[0].abs().amax(1) > 1e-9
        assert not moved[0] and bool(moved[1:6].all()) == first == bool(moved[1:6].any()) and moved[6]


def test_causal_attention_within_the_image_is_found() -> None:
    """The look-alike: patches with positions of their own, so that the first would not see the last."""
    made, x = model(), images(1)
    y = x.clone()
    y[:, :, 2:, 2:] += 0.3
    shared = made.network.with_patches

    def one_after_the_other(where: Tensor) -> Tensor:
        found = shared(where)
        found[:, -5:] += torch.arange(5)
        return found

    made.network.with_patches = one_after_the_other
    made.network.tables = lambda where: TransfusionNet.tables(made.network, where)
    image, image_ = (passed(made, z, texts("ab"), [False])[0] for z in (x, y))
    assert torch.allclose(image[:, :, :2, :2], image_[:, :, :2, :2], atol=1e-12)


def test_a_text_is_read_alike_whatever_stands_beside_it() -> None:
    """Padding counts for nothing: alone, and in a batch with a longer one."""
    made, x = model(), images(2)
    image, text = passed(made, x, texts("ab", "abcab"), [False, True])
    time = torch.tensor([-1.0], dtype=torch.float64)
    with torch.no_grad():
        alone, logits = made.network(x[:1], time, texts("ab")[:, :2])
    assert torch.allclose(image[:1], alone, atol=1e-12)
    assert torch.allclose(text[0, [0, 1, 2, -1]], logits[0], atol=1e-12)


# -- without one side -------------------------------------------------------------------------------------------------


def twin(made: Transfusion, length: int) -> Transformer:
    """A Transformer over the symbols, with the same weights."""
    own = made.network.state_dict()
    found = Transformer((length,), len(ALPHABET) + 3, width=16, depth=2, heads=2).eval().to(made.dtype)
    found.load_state_dict({k: own[k] for k in found.state_dict()})
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_an_image_it_is_the_transformer_bit_for_bit(dtype: torch.dtype) -> None:
    made = model().to(dtype)
    told = texts("abcab", "cca b")
    symbols = torch.cat([told, torch.full((2, 1), made.network.BOI)], 1)  # the mark that an image follows
    other = twin(made, 6)
    with torch.no_grad():
        assert torch.equal(made.network.text_logits(symbols), other(symbols))
        assert torch.equal(made.text_log_prob(["abcab", "cca b"]), other._log_prob(symbols, None))
    _, text = passed(made.double(), images(2), told, [False, False])
    assert torch.allclose(text[:, :6].to(dtype), other.double()(symbols).to(dtype), atol=1e-6), "nor with one behind"


def test_without_a_text_it_is_a_denoiser_of_patches() -> None:
    """Patches that change places with their positions change places in the output, and nothing else changes."""
    made, x = model(), images(2)
    nothing = torch.full((2, LENGTH), PAD)
    out, _ = passed(made, x, nothing, [False, False])
    net, order = made.network, torch.tensor([2, 0, 3, 1])

    def permuted(y: Tensor) -> Tensor:
        patches = y.unflatten(2, (2, 2)).unflatten(4, (2, 2)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, order]
        return patches.unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    net.places = net.places[order]
    again, _ = passed(made, permuted(x), nothing, [False, False])
    assert torch.allclose(again, permuted(out), atol=1e-12) and not torch.allclose(again, out)
    assert torch.allclose(made.output(x, torch.zeros(2).double()), made.output(x, torch.zeros(2).double(), nothing))


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_each_symbol_is_counted_once() -> None:
    made = model()
    end, boi = made.network.END, made.network.BOI
    told = texts("ab", "abcab", "ab", "")
    first = torch.tensor([False, False, True, False])
    assert made.targets(told, first).tolist() == [
        [0, 1, boi, -1, -1, -1, end], [0, 1, 2, 0, 1, boi, end], [-1, 1, end, -1, -1, -1, 0], [-1] * 7,
    ]  # fmt: skip


def test_the_loss_is_the_sum_of_both_sides() -> None:
    made, batch = model(image_first=0.0, text_dropout=0.0, image_weight=3.0), (images(4), texts("ab", "c", "abc", "a"))
    made.set_noise([torch.Generator().manual_seed(0)])
    terms = {name: term.detach() for name, term in made.loss(batch).items()}
    assert terms["loss"] == pytest.approx(float(terms["text"] + 3 * terms["mse"]))
    with torch.no_grad():
        each = []
        for text in ("ab", "c", "abc", "a"):
            symbols = torch.cat([texts(text)[:, : len(text)], torch.tensor([[made.network.BOI]])], 1)
            log_p = made.network.text_logits(symbols).log_softmax(-1)
            each.append(-log_p.gather(2, symbols[..., None]).sum())
    assert torch.allclose(made.text_log_prob(["ab", "c", "abc", "a"]), -torch.stack(each))


def test_without_its_weight_the_image_teaches_nothing() -> None:
    made = model(image_first=0.0, text_dropout=0.0, image_weight=0.0).train()
    made.loss((images(4), texts("ab", "c", "abc", "a")))["loss"].backward()
    moved = {name for name, p in made.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert "network.embedding.weight" in moved and "network.image_out.out.weight" not in moved
    behind = {n for n in moved if "image_" in n or "time" in n}
    assert behind == {n for n, _ in made.named_parameters() if "image_in" in n or "network.time" in n}, (
        "by the end mark"
    )


@pytest.mark.parametrize(("share", "last"), [(0.5, 9), (0.1, 2), (0.0, 0)])
def test_images_that_come_first_have_no_more_than_their_share_of_the_noise(share: float, last: int) -> None:
    levels: list[Tensor] = []
    made = model(image_first=1.0, image_first_noise=share)
    passing = made.network.forward
    made.network.forward = lambda x, time, *rest: (levels.append(time), passing(x, time, *rest))[1]
    made.loss((images(64), texts(*["ab"] * 64)))
    assert levels[0].min() >= made.log_snrs[last] - 1e-9
    made.image_first = 0.0
    made.loss((images(64), texts(*["ab"] * 64)))
    assert levels[1].min() < made.log_snrs[15]


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convolutions", [0, 4])
def test_the_memory_of_a_text_is_a_full_pass(convolutions: int) -> None:
    made = model(convolutions, guidance_scale=2.0)
    told = ["ab", "abcab", "c"]
    fast = made.sample(3, seed=0, labels=told)
    made.denoiser = lambda *given: Denoise(made, *given)
    assert torch.allclose(fast, made.sample(3, seed=0, labels=told), atol=1e-9)
    made.denoiser = lambda labels, *given: Denoise(made, None, 1.0, *given[1:])
    assert not torch.allclose(fast, made.sample(3, seed=0, labels=told), atol=1e-3)


def test_letters_kept_are_full_passes() -> None:
    made, x = model(), images(3)
    choose = Decoding(greedy=True)
    written = made.written(3, torch.Generator().manual_seed(0), x, choose)
    assert made.caption(x) == decode_texts(written, ALPHABET)
    symbols = torch.full((3, 1), PAD)
    for i in range(LENGTH):
        with torch.no_grad():
            logits = made.network(*made._clean(x), symbols, torch.ones(3, dtype=torch.bool))[1]
        logits = logits[:, i] if i else logits[:, -1]
        following = logits.argmax(-1)
        going = (written[:, i] >= 0) if i else torch.ones(3, dtype=torch.bool)
        assert torch.equal(following[going & (written[:, i] >= 0)], written[:, i][going & (written[:, i] >= 0)])
        symbols = torch.cat([symbols[:, :i], following[:, None]], 1) if i else following[:, None]
        symbols = symbols.clamp(max=len(ALPHABET) - 1)


def test_texts_are_drawn_as_often_as_they_are_likely() -> None:
    made = model()
    drawn = made.written(4000, torch.Generator().manual_seed(0), None, Decoding())
    told = decode_texts(drawn, ALPHABET)
    with torch.no_grad():
        p = made.network.text_logits(torch.zeros(1, 1, dtype=torch.long))[0, 0].softmax(-1)
    for i, letter in enumerate(ALPHABET):
        share = sum(t.startswith(letter) for t in told) / 4000
        assert share == pytest.approx(float(p[i]), abs=4 * math.sqrt(0.25 / 4000))


def test_text_to_image_and_back_and_both() -> None:
    made = model()
    assert made.sample(2, seed=0, prompt="ab").shape == (2, *SHAPE)
    assert torch.equal(made.sample(2, seed=0, prompt="ab"), made.sample(2, seed=0, labels="ab"))
    assert not torch.allclose(made.sample(2, seed=0, prompt="ab"), made.sample(2, seed=0, prompt="ba"))
    told, x = made.joint(3, seed=5)
    assert len(told) == 3 and torch.equal(x, made.sample(3, seed=5))
    assert len(made.caption(x)) == 3 and made.caption(x, temperature=1.0, seed=0) == made.caption(
        x, temperature=1.0, seed=0
    )
    with pytest.raises(ConfigError, match="either labels or a prompt"):
        made.sample(1, labels="ab", prompt="ab")
    with pytest.raises(ConfigError, match="'z'"):
        made.sample(1, prompt="z")


def test_likelihoods_of_both_sides_say_what_they_are() -> None:
    made, x = model(), images(2)
    assert made.likelihood() == "vlb" and made.text_likelihood() == "exact"
    assert made.log_prob(x, labels=["ab", "c"], seed=0).shape == (2,)
    with pytest.raises(ConfigError, match="pass labels"):
        made.log_prob(x)
    given = made.text_log_prob(["ab", "c"], given=x)
    assert given.shape == (2,) and not torch.allclose(given, made.text_log_prob(["ab", "c"], given=x.flip(0)))
    with pytest.raises(ConfigError, match="one letter at least"):
        made.text_log_prob([""])


def test_every_text_has_its_share_of_one() -> None:
    """The chances of all texts of two letters at most, and of those that go on, sum to one."""
    made = model()
    letters = [*ALPHABET]
    short = [*letters, *(a + b for a in letters for b in letters)]
    ends = float(made.text_log_prob(short).exp().sum())
    with torch.no_grad():
        start = made.network.text_logits(torch.zeros(1, 1, dtype=torch.long))[0, 0].softmax(-1)
        marks = float(start[len(ALPHABET) :].sum())
        more = 0.0
        for a in range(len(ALPHABET)):
            p = made.network.text_logits(torch.tensor([[a, 0]]))[0].softmax(-1)
            more += float(p[0, a] * (p[1, made.network.END] + p[1, made.network.EOI]))
            for b in range(len(ALPHABET)):
                q = made.network.text_logits(torch.tensor([[a, b, 0]]))[0].softmax(-1)
                more += float(q[0, a] * q[1, b] * (1 - q[2, made.network.BOI]))
    assert ends + marks + more == pytest.approx(1, abs=1e-9)


def test_options_that_do_not_fit_are_refused() -> None:
    for options, match in (
        ({"alphabet": "ab"}, "made for 4"), ({"image_first": 2.0}, "shares"), ({"image_first_noise": -0.1}, "shares"),
        ({"variance": "learned"}, "no classes"), ({"label_dropout": 0.3}, "hide texts by text_dropout"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            Transfusion(net(), SHAPE, **{"alphabet": ALPHABET, **options})
    for wrong in ({"width": 18}, {"patch": 3}):
        arguments = {"shape": SHAPE, "patch": 2, "letters": 4, "length": 5, "width": 16, **wrong}
        with pytest.raises(ConfigError, match="TransfusionNet"):
            TransfusionNet(**arguments)


def test_texts_and_images_are_checked_before_they_are_scored() -> None:
    model, x = Transfusion(net(), SHAPE, alphabet=ALPHABET).eval(), torch.rand(2, *SHAPE)
    levels = (x * 255).to(torch.uint8)
    right = model.text_log_prob(["a", "b"], given=levels / 255.0)
    assert torch.equal(model.text_log_prob(["a", "b"], given=levels), right)
    assert torch.equal(model.text_log_prob(["a", "b"], given=levels.numpy()), right)
    for given in (x * 255 + 2, x * 2 - 1.5, x * torch.nan, x[0], "an image"):
        with pytest.raises(DataError, match="text_log_prob's given"):
            model.text_log_prob(["a", "b"], given=given)
    for wrong in ("hot", math.nan, True, -1.0, 0.0):
        with pytest.raises(ConfigError, match="temperature"):
            model.caption(x, temperature=wrong)
        with pytest.raises(ConfigError, match="temperature"):
            model.joint(1, temperature=wrong)
    for texts in (None, 7, [], {"a"}, [None, "a"], [""], torch.zeros(2, 1)):
        with pytest.raises(ConfigError, match="text"):
            model.text_log_prob(texts)


def test_other_pictures_and_letters_are_followed() -> None:
    spec = load_registry()["transfusion-mnist_captions"].model
    own = {k: v for k, v in spec["init_args"].items() if k not in ("vocabulary", "text_length")}
    network = own["network"]
    own["network"] = {**network, "init_args": {**network["init_args"], "letters": 20, "length": 26}}
    spec = {**spec, "init_args": own}
    data = MNISTCaptions()
    assert fitted_to_data(spec, own, data) == spec
    tiles = fitted_to_data(spec, own, TilesCaptions())["init_args"]
    assert tiles["shape"] == [3, 32, 32] == tiles["network"]["init_args"]["shape"]
    assert tiles["network"]["init_args"]["letters"] == 27 == len(tiles["alphabet"])
    assert tiles["network"]["init_args"]["length"] == 28 == build({**spec, "init_args": tiles}).context[0]
    words = build(fitted_to_data(spec, own, MNISTWords()))
    assert words.network.letters == 15 and words.context == (5,)
    with pytest.raises(ConfigError, match="made for texts of 26 letters, got 5"):
        build({**spec, "init_args": {**own, "text_length": 5}})
    with pytest.raises(DataError, match="a text of 26 characters for each example, the data give a text of 28"):
        build(spec).accepts_condition(torch.zeros(1, 28).long())


def test_words_name_the_digits(captions: MNISTCaptions) -> None:
    data = MNISTWords()
    texts = decode_texts(data.split("test")[1], data.alphabet)
    assert texts == [
        WORDS[digit] for digit in captions.classes_of(decode_texts(captions.split("test")[1], captions.alphabet))
    ]
    assert torch.equal(data.classes_of(texts), read_mnist("t10k")[1])
    assert MNISTCaptions.classes_of([f"a thin {word}" for word in WORDS]).tolist() == list(range(10))
