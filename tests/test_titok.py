"""Laws of TiTok: tokens without a place, both stages of its training, and the look-alike that breaks each law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import test_discrete
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.abilities import Tokenises, reconstruct
from zoo.errors import ConfigError
from zoo.families.code_prior import CodePrior
from zoo.families.pixelcnn import PixelCNN
from zoo.families.titok import TiTok, TunedTiTok
from zoo.families.vq_vae import VQVAE
from zoo.nets.latent_tokens import TokenDecoder, TokenEncoder
from zoo.nets.mlp import MLP
from zoo.nets.quantisers import FSQ, VectorQuantiser
from zoo.registry import load_registry
from zoo.trained_parts import fitted

SHAPE, M = [1, 8, 8], 3


def _trunk(args: Mapping[str, Any], length: int) -> int:
    w = args["width"]
    return args["depth"] * (12 * w * w * length + 2 * length * length * w)


def _nets(args: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Multiply-adds of the encoder, of its first layer, of the decoder, of its first layer."""
    E, D = (args[name]["init_args"] for name in ("encoder", "decoder"))
    places, out = (E["size"][0] // E["patch"]) * (E["size"][1] // E["patch"]), D["size"][0] * D["size"][1]
    first = places * E["channels"] * E["patch"] ** 2 * E["width"]
    encoder = first + _trunk(E, places + E["tokens"]) + E["tokens"] * E["width"] * E["features"]
    read = D["tokens"] * D["features"] * D["width"]
    return encoder, first, read + _trunk(D, out + D["tokens"]) + out * D["width"] * D["channels"], read


def titok_flops(args: Mapping[str, Any]) -> float:
    """Both Transformers, the search, and the proxy's encoder and search forward."""
    encoder, first, decoder, _ = _nets(args)
    q, inner = args["quantiser"]["init_args"], args["autoencoder"]["init_args"]
    search = args["tokens"] * q["size"] * q["dim"]
    proxy = sum(test_discrete._encoder(inner["encoder"], 784)) + test_discrete._search(inner["quantiser"], 49)
    return 2.0 * (3 * (encoder + decoder) - first + search + proxy)


def tuned_flops(args: Mapping[str, Any]) -> float:
    """The encoder and the search forward; the decoder, the mean of the proxy's vectors, and its decoder."""
    args = args["tokenizer"]["init_args"]
    encoder, _, decoder, read = _nets(args)
    q, inner = args["quantiser"]["init_args"], args["autoencoder"]["init_args"]
    search, p = args["tokens"] * q["size"] * q["dim"], inner["quantiser"]["init_args"]
    mean = 49 * p["size"] * p["dim"]
    return 2.0 * (
        encoder + search + 3 * decoder - read + 2 * mean + 3 * sum(test_discrete._decoder(inner["decoder"], 49))
    )


STEP_FLOPS = {"TiTok": titok_flops, "TunedTiTok": tuned_flops}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def proxy(q: nn.Module | None = None, **options: Any) -> VQVAE:
    q = q or VectorQuantiser(5, 4)
    nets = MLP([64, 8, q.dim * 4]), MLP([q.dim * 4, 8, 64])
    return VQVAE(*nets, q, SHAPE, [2, 2], "bernoulli", **options)


def titok(inner: VQVAE | None = None, size: int = 8) -> TiTok:
    inner = inner or proxy()
    encoder = TokenEncoder(1, [size, size], 4, M, 6, 8, 2, 2)
    decoder = TokenDecoder(6, M, [2, 2], 1, inner.codebook_size, 8, 2, 2)
    return TiTok(inner, encoder, decoder, VectorQuantiser(7, 6, normalised=True), M)


def prior() -> PixelCNN:
    return PixelCNN([1, 1, M], 7, width=8, depth=1, first_kernel=3)


def pixels(n: int = 4) -> Tensor:
    return (torch.rand(n, *SHAPE) > 0.5).float()


def steps(model: nn.Module, n: int = 3) -> None:
    (optimizer,) = model.configure_optimizers()
    for _ in range(n):
        model.training_step((pixels(8), None), 0).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_number_of_tokens_is_that_of_the_model_whatever_the_image() -> None:
    model = titok()
    assert model.codes(pixels()).shape == (4, 1, 1, M) == (4, *model.grid) and isinstance(model, Tokenises)
    for size in (28, 32):
        encoder = TokenEncoder(1, [size, size], 4, M, 6, 8, 1, 2)
        assert encoder(torch.rand(2, 1, size, size)).shape == (2, 6, 1, M)


def test_every_token_sees_every_patch_and_windows_do_not() -> None:
    encoder, x = TokenEncoder(1, [8, 8], 4, M, 6, 8, 2, 2).double(), pixels(1).double()
    (slopes,) = (torch.autograd.functional.jacobian(lambda v: encoder(v).square().sum(1).flatten(), x),)  # (M, ...)
    seen = F.avg_pool2d(slopes.flatten(0, 2).abs(), 4)  # (M, 2, 2)
    assert (seen > 0).all()
    pooled = torch.autograd.functional.jacobian(lambda v: F.avg_pool2d(v, 4).flatten(), x)  # tokens that are windows
    assert not (F.avg_pool2d(pooled.flatten(0, 2).abs(), 4) > 0).all()


def test_tokens_follow_their_own_vectors_when_these_change_places() -> None:
    encoder, x, order = TokenEncoder(1, [8, 8], 4, M, 6, 8, 2, 2).double(), pixels(2).double(), torch.tensor([2, 0, 1])
    before = encoder(x)
    encoder.tokens.data = encoder.tokens.data[order]
    assert torch.allclose(encoder(x), before[..., order])


def test_pixels_depend_on_the_image_through_the_codes_alone() -> None:
    model = titok().double().eval()
    x, other = pixels(2).double(), pixels(2).double()
    codes = model.codes(x)
    with torch.no_grad():
        assert torch.equal(model.decode(codes), model.reconstruct(x))
        z, made = model.quantise(x)
        assert torch.allclose(z, model.embed(made[""].codes))
    fixed = model.embed(codes).requires_grad_()
    (slope,) = torch.autograd.grad(model.decoder(fixed).square().sum(), fixed)
    z, _ = model.quantise(other)
    (through,) = torch.autograd.grad(model.decoder(z).square().sum(), z, retain_graph=True)
    w = model.encoder.last.weight
    assert torch.autograd.grad(z, w, through)[0].abs().sum() > 0  # straight through, and no other way
    with torch.no_grad():
        z = model.embed(model.codes(other))
    assert not z.requires_grad and slope.abs().sum() > 0
    leak = TokenDecoder(6, M, [2, 2], 1, 5, 8, 2, 2).double()  # one that is fed what the patches became
    fed = leak(z) + model.encoder.first(F.pixel_unshuffle(other, 4).flatten(2).mT).mean()
    assert torch.autograd.grad(fed.sum(), model.encoder.first.weight)[0].abs().sum() > 0


def test_lengths_of_latents_do_not_change_the_codes() -> None:
    model, x = titok(), pixels(32)
    plain = titok()
    plain.quantiser = VectorQuantiser(7, 6)
    found = []
    for m in (model, plain):
        before = m.codes(x)
        m.encoder.last.weight.data.mul_(9)
        m.encoder.last.bias.data.mul_(9)
        found.append(torch.equal(m.codes(x), before))
    assert found == [True, False]


def test_first_stage_learns_the_codes_of_the_other_and_leaves_it_alone() -> None:
    model, x = titok(), pixels(16)
    before = {k: v.clone() for k, v in model.autoencoder.state_dict().items()}
    terms = model.train().loss((x, None))
    logits, codes = model.decoder(model.quantise(x)[0]), model.autoencoder.codes(x)[:, 0]
    log_p = logits.log_softmax(1).gather(1, codes[:, None]).flatten(1).sum(1)
    assert torch.allclose(terms["proxy"], -log_p.mean()) and "reconstruction" not in terms
    assert torch.allclose(terms["loss"], terms["proxy"] + 0.25 * terms["commitment"])
    steps(model, 4)
    assert all(torch.equal(v, before[k]) for k, v in model.autoencoder.state_dict().items())
    assert not model.train().autoencoder.training
    shown = model.eval().loss((x, None))
    assert torch.allclose(shown["elbo"], model.log_prob(x).mean(), rtol=1e-5)


def test_certain_logits_decode_as_the_other_autoencoder_does() -> None:
    model, x = titok(), pixels()
    codes = model.autoencoder.codes(x)
    certain = 100 * F.one_hot(codes[:, 0], 5).movedim(3, 1).float()
    with torch.no_grad():
        assert torch.allclose(model._pixels(certain).mean, model.autoencoder.decode(codes), atol=1e-5)
        assert not torch.allclose(model._pixels(0 * certain).mean, model.autoencoder.decode(codes), atol=1e-3)


def test_second_stage_leaves_encoder_tokens_and_codebook() -> None:
    first = titok()
    steps(first, 3)
    model, x = TunedTiTok(first, lr=1e-2), pixels(16)
    before, codes = {k: v.clone() for k, v in model.state_dict().items()}, model.codes(x)
    loss = float(model.loss((x, None))["loss"].detach())
    steps(model.train(), 5)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    kept = (
        "tokenizer.encoder.",
        "tokenizer.quantiser.",
        "tokenizer.autoencoder.encoder.",
        "tokenizer.autoencoder.quantiser.",
    )
    assert moved and not any(name.startswith(kept) for name in moved)
    assert "tokenizer.encoder.tokens" in before and "tokenizer.quantiser.codebook" in before
    assert any(n.startswith("tokenizer.decoder.") for n in moved)
    assert any(n.startswith("tokenizer.autoencoder.decoder.") for n in moved)
    assert torch.equal(model.codes(x), codes) and float(model.loss((x, None))["loss"].detach()) != loss
    assert not first.quantiser.training and first.decoder.training
    whole = titok()  # stage 1 over again would move them
    before = {k: v.clone() for k, v in whole.state_dict().items()}
    steps(whole, 5)
    assert any(not torch.equal(v, before[k]) for k, v in whole.state_dict().items() if k.startswith("encoder."))
    assert not torch.equal(whole.quantiser.codebook, before["quantiser.codebook"])


def test_diagnosis_looks_at_the_tokens_and_not_at_the_other_autoencoder() -> None:
    for model in (titok().eval(), TunedTiTok(titok()).eval(), CodePrior(titok(), prior()).eval()):
        x = pixels()
        with torch.no_grad():
            assert torch.allclose(reconstruct(model, x), model.decode(model.codes(x)))
            assert not torch.allclose(reconstruct(model, x), titok().autoencoder.reconstruct(x))


def test_tokens_take_a_prior_in_either_stage() -> None:
    for model in (titok(), TunedTiTok(titok())):
        pair = CodePrior(model, prior()).eval()
        x = pixels()
        assert pair.sample(2, seed=0).shape == (2, *SHAPE) and pair.log_prob(x).shape == (4,)
        assert not any(p.requires_grad for p in pair.autoencoder.parameters())


def test_other_parts_are_refused_and_those_that_fit_set_the_sizes() -> None:
    entry = load_registry().resolve("titok")
    arguments, _, _ = fitted(entry, "autoencoder", proxy(), "mine")
    assert arguments["decoder"]["init_args"]["channels"] == 5 and arguments["decoder"]["init_args"]["size"] == [2, 2]
    assert arguments["encoder"]["init_args"]["size"] == [8, 8] and arguments["tokens"] == 16
    assert TiTok(proxy(FSQ([3, 3])), *_parts(9)).autoencoder.codebook_size == 9
    for wrong, said in (
        (lambda: TiTok(proxy(VectorQuantiser(5, 4, 2)), *_parts(5)), "one code a position.*got a VQVAE with 2 codes"),
        (lambda: TiTok(MLP([4, 4]), *_parts(5)), "got a MLP"),
        (lambda: TunedTiTok(proxy()), "got a VQVAE"),
        (lambda: TokenEncoder(1, [9, 8], 4, M, 6, 8), "does not divide into patches"),
        (lambda: TokenEncoder(1, [8, 8], 4, M, 6, 9), "does not divide into 4 heads"),
    ):
        with pytest.raises(ConfigError, match=said):
            wrong()


def _parts(K: int) -> tuple[Any, ...]:
    return TokenEncoder(1, [8, 8], 4, M, 6, 8), TokenDecoder(6, M, [2, 2], 1, K, 8), VectorQuantiser(7, 6), M
