"""Videos: the laws of the moving digits, of the factorised denoiser, and of the causal tokenizer."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from closed_forms import causal_half
from torch import Tensor, nn

from zoo.data.base import BatchStream
from zoo.data.mnist import read_mnist
from zoo.data.moving_digits import DIRECTIONS, Motion, MovingDigits, drawn_motion, fold, placed, shrunk
from zoo.errors import ConfigError, DataError
from zoo.families.code_prior import CodePrior
from zoo.families.cosmos import Cosmos
from zoo.families.flow_matching import FlowMatching
from zoo.families.score_sde import ScoreSDE
from zoo.families.transformer import Transformer
from zoo.families.video_diffusion import VideoDiffusion
from zoo.maths.completion import known_values
from zoo.maths.wavelets import haar, inverse_haar
from zoo.nets.causal_video import CausalBlock, CausalDecoder, CausalEncoder, CausalTimeConv
from zoo.nets.quantisers import FSQ
from zoo.nets.video_unet import VideoUNet

# -- compute ----------------------------------------------------------------------------------------------------------


def video_unet(args: Mapping[str, Any], frames: int, side: int) -> tuple[int, int]:
    """Return multiply-adds of a forward pass, and those of layers whose input has no gradient."""
    widths, E, patch, T = args["widths"], args["embedding"], args["patch"], frames
    folded, out = args["channels"] * patch**2, args["out_channels"] * patch**2
    sides = [side // patch]
    for _ in widths[1:]:
        sides.append(-(-sides[-1] // 2))
    stem = 9 * folded * widths[0] * sides[0] ** 2 * T
    total = 2 * E * E + stem + 9 * widths[0] * out * sides[0] ** 2 * T
    for level, (w, s) in enumerate(zip(widths, sides, strict=True)):
        stage = args["blocks"] * T * (2 * 9 * w * w * s * s + E * 2 * w)
        stage += s * s * (4 * w * w * T + 2 * T * T * w)
        total += stage * (1 if level == len(widths) - 1 else 2)
    for i in range(len(widths) - 1):
        a, b = widths[i : i + 2]
        total += T * ((9 + 1) * a * b * sides[i + 1] ** 2 + 2 * a * a * sides[i] ** 2)
    return total, stem + E * E


def video_diffusion_flops(args: Mapping[str, Any]) -> float:
    _, T, side, _ = args["shape"]
    total, first = video_unet(args["network"]["init_args"], T, side)
    return 2.0 * (3 * total - first)


def cosmos_flops(args: Mapping[str, Any]) -> float:
    bands = 8 ** args["encoder"]["init_args"].get("levels", 2)
    one, two = args["encoder"]["init_args"], args["decoder"]["init_args"]
    up, first = causal_half(one, one["channels"] * bands, one["out"], args["grid"])
    down, _ = causal_half(two, two["features"], two["channels"] * bands, args["grid"])
    return 2.0 * (3 * (up + down) - first)


STEP_FLOPS = {"VideoDiffusion": video_diffusion_flops, "Cosmos": cosmos_flops}

# -- moving digits ----------------------------------------------------------------------------------------------------


def centre(clips: Tensor) -> Tensor:
    """Return the centre of mass of each frame, (B, T, 2)."""
    x, place = clips[:, 0].double(), torch.arange(clips.shape[-1], dtype=torch.float64)
    mass = x.sum((2, 3))
    return torch.stack([(x.sum(3) * place).sum(2) / mass, (x.sum(2) * place).sum(2) / mass], 2)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return shrunk(read_mnist("t10k")[0][:200])


def test_shrinking_is_the_mean_over_areas(digits: Tensor) -> None:
    """Against the mean over 5 x 5 parts of each pixel, of which a new one covers 7 x 7; and no ink is lost."""
    images = read_mnist("t10k")[0][:5]
    fine = images.double().repeat_interleave(5, 2).repeat_interleave(5, 3)
    means = torch.nn.functional.avg_pool2d(fine, 7)
    assert digits.dtype == torch.uint8 and digits.shape[1:] == (1, 20, 20)
    assert (digits[:5].double() - means).abs().max() <= 0.5
    assert torch.equal(shrunk(torch.full((1, 1, 28, 28), 255, dtype=torch.uint8)), digits.new_full((1, 1, 20, 20), 255))


def test_a_digit_moves_by_its_velocity_until_a_wall_and_is_reflected(digits: Tensor) -> None:
    motion = drawn_motion(200, torch.Generator().manual_seed(0))
    clips = placed(digits, motion, 12)
    steps = centre(clips).diff(dim=1)  # (B, 11, 2)
    assert torch.allclose(steps[:, 0], motion.velocity.double(), atol=1e-9), "the first step meets no wall"
    place, velocity = motion.start.clone(), motion.velocity.clone()
    for t in range(11):  # the way a ball goes, pixel by pixel
        before = place.clone()
        for i in range(200):
            for axis in range(2):
                for _ in range(abs(int(velocity[i, axis]))):
                    if not 0 <= place[i, axis] + velocity[i, axis].sign() <= 12:
                        velocity[i, axis] = -velocity[i, axis]
                    place[i, axis] += velocity[i, axis].sign()
        assert torch.allclose(steps[:, t], (place - before).double(), atol=1e-9)
    wrapped = (motion.start + 6 * motion.velocity) % 13  # the look-alike: through the wall, in again on the other side
    assert not torch.equal(wrapped, fold(motion.start + 6 * motion.velocity))


def test_every_frame_holds_the_whole_digit(digits: Tensor) -> None:
    clips = placed(digits, drawn_motion(200, torch.Generator().manual_seed(1)), 30)
    ink = clips.long().flatten(3).sum(3)[:, 0]
    assert clips.dtype == torch.uint8 and torch.equal(ink, ink[:, :1].expand(-1, 30))
    assert torch.equal(ink[:, 0], digits.long().flatten(1).sum(1))


def test_directions_are_what_two_frames_show_and_are_even() -> None:
    data = MovingDigits(frames=3)
    clips, labels = data.split("test")
    assert clips.shape == (10_000, 1, 3, 32, 32) and torch.equal(labels, read_mnist("t10k")[1])
    step = centre(clips[:1000, :, :2]).diff(dim=1)[:, 0].round().long().sign()
    assert torch.equal(step, torch.tensor(DIRECTIONS)[data.motions("test")[:1000]])
    assert data.motions("test").bincount(minlength=8).min() > 1100
    with pytest.raises(ConfigError, match="no direction of their own"):
        data.motions("train")


def test_clips_of_training_are_a_function_of_seed_step_and_rank() -> None:
    data = MovingDigits(frames=4, batch_size=4, limit=64)
    first = [x for x, _ in data.train_dataloader()]
    stream = data.train_dataloader()
    stream.load_state_dict({"step": 7})
    again = next(iter(stream))[0]
    assert torch.equal(first[7], again) and first[0].shape == (4, 1, 4, 32, 32)
    split, move = data.split("train"), data.transform
    ranks = [next(iter(BatchStream(split, 4, seed=0, rank=r, world=2, transform=move)))[0] for r in range(2)]
    assert torch.equal(next(iter(BatchStream(split, 4, seed=0, rank=1, world=2, transform=move)))[0], ranks[1])
    assert not torch.equal(*ranks)
    second = next(iter(data.train_dataloader()))
    assert torch.equal(first[0], second[0])
    data._stream.load_state_dict({"step": 16})
    assert not any(torch.equal(x, y) for x in first for y, _ in data._stream), "another epoch moves them another way"


def test_two_digits_go_through_each_other() -> None:
    data = MovingDigits(frames=3, digits=2)
    x = shrunk(read_mnist("t10k")[0][:50])
    clips, direction = data.moved(x, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    own, other = drawn_motion(50, g), drawn_motion(50, g)
    pair = x[torch.randperm(50, generator=g)]
    assert torch.equal(clips, torch.maximum(placed(x, own, 3), placed(pair, other, 3)))
    assert torch.equal(direction, own.direction) and data.preparation == {"digits": 2}
    for wrong in ({"frames": 1}, {"digits": 3}):
        with pytest.raises(ConfigError, match="2 frames at least, and 1 or 2 digits"):
            MovingDigits(**wrong)


# -- the denoiser -----------------------------------------------------------------------------------------------------


def stirred(model: Any, seed: int = 0) -> Any:
    """Give every tensor some noise, so that no output is zero because of its initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model.eval()


SHAPE = (1, 4, 8, 8)


def unet(channels: int = 2, classes: int = 0) -> VideoUNet:
    return VideoUNet(channels, [8, 8], embedding=8, heads=2, out_channels=1, num_classes=classes)


def denoiser(**options: Any) -> VideoDiffusion:
    classes = options.get("num_classes", 0)
    return stirred(VideoDiffusion(unet(classes=classes), SHAPE, table=20, **options))


def test_space_and_time_are_factorised() -> None:
    """Without its attention over time the network maps each frame as if it were alone; with it a frame sees all."""
    net, t = stirred(unet(1)).double(), torch.tensor([0.3, -1.0], dtype=torch.float64)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        other = x.clone()
        other[:, :, 3] += 1
        assert not torch.allclose(net(x, t)[:, :, 0], net(other, t)[:, :, 0], atol=1e-6)
        for module in net.modules():
            if hasattr(module, "qkv"):
                module.out.weight.zero_()
                module.out.bias.zero_()
        whole = net(x, t)
        alone = torch.cat([net(x[:, :, i : i + 1], t) for i in range(4)], 2)
    assert torch.allclose(whole, alone, atol=1e-10)


def test_the_network_knows_the_order_of_frames() -> None:
    net, t = stirred(unet(1)).double(), torch.tensor([0.3], dtype=torch.float64)
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        assert not torch.allclose(net(x[:, :, order], t), net(x, t)[:, :, order], atol=1e-4)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "heun", "dpm_solver", "ode"])
def test_any_sampler_draws_clips(sampler: str) -> None:
    x = denoiser(num_classes=2).sample(3, seed=0, sampler=sampler, steps=3, guidance_scale=1.5)
    assert x.shape == (3, *SHAPE) and x.min() >= 0 and x.max() <= 1


@pytest.mark.parametrize("sampler", ["euler_maruyama", "predictor_corrector"])
def test_the_network_serves_other_families(sampler: str) -> None:
    sde = stirred(ScoreSDE(VideoUNet(1, [8], embedding=8, heads=2), SHAPE, levels=256))
    assert sde.sample(2, seed=0, sampler=sampler, steps=3).shape == (2, *SHAPE)
    flow = stirred(FlowMatching(VideoUNet(1, [8], embedding=8, heads=2), SHAPE, levels=256, steps=2))
    assert flow.sample(2, seed=0).shape == (2, *SHAPE)


def test_given_frames_are_kept_and_seen() -> None:
    model, given = denoiser(), torch.rand(SHAPE)
    x = model.sample(2, seed=0, steps=4, given=given, known=2)
    assert torch.allclose(x[:, :, :2], given[:, :2].expand(2, -1, -1, -1, -1), atol=1e-6)
    other = given.clone()
    other[:, 0] = 1 - other[:, 0]
    y = model.sample(2, seed=0, steps=4, given=other, known=2)
    assert not torch.allclose(x[:, :, 2:], y[:, :, 2:], atol=1e-4), "what comes depends on what was given"
    later = given.clone()
    later[:, 2:] = 0.5
    assert torch.equal(x, model.sample(2, seed=0, steps=4, given=later, known=2)), "and on nothing that was not"
    hidden = given.clone()
    hidden[:, 2:] = math.nan
    assert torch.equal(x, model.sample(2, seed=0, steps=4, given=hidden))
    with pytest.raises(ConfigError, match="between 0 and 4 frames"):
        model.sample(2, given=given, known=5)


def test_known_frames_are_counted_from_the_first() -> None:
    values, mask = known_values(SHAPE, 3, torch.rand(SHAPE), 1, torch.device("cpu"))
    assert values.shape == mask.shape == (3, *SHAPE)
    assert mask[:, :, 0].all() and not mask[:, :, 1:].any()


class Watched(nn.Module):
    """Keep what a network of clips is given, and answer nothing."""

    def forward(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        self.x = x
        return torch.zeros_like(x[:, :1])


def test_training_hides_what_is_to_come_and_counts_only_that() -> None:
    net = Watched()
    model = VideoDiffusion(net, SHAPE, prediction=1.0, predict="eps", table=20)
    model.set_noise([torch.Generator().manual_seed(0)])
    x = torch.rand(64, *SHAPE)
    terms = model.loss((x, torch.zeros(64, dtype=torch.long)))
    seen = net.x[:, 1, :, 0, 0].bool()
    counts = seen.sum(1)
    assert set(counts.tolist()) == {1, 2, 3}, "at least one frame is given and one is to come"
    assert torch.equal(seen, torch.arange(4) < counts[:, None])
    clean = seen[:, None, :, None, None].expand_as(x)
    assert torch.equal(net.x[:, :1][clean], (2 * x - 1)[clean]) and not torch.equal(net.x[:, :1], 2 * x - 1)
    model.set_noise([torch.Generator().manual_seed(0)])
    noise = model.noisy((x, torch.zeros(64, dtype=torch.long)))
    alpha, sigma = model.schedule.coefficients(noise[2].view(-1, 1, 1, 1, 1))
    eps = (noise[1] - alpha * noise[0]) / sigma
    own = [eps[i, :, int(counts[i]) :].square().mean() for i in range(64)]
    assert terms["mse"] == pytest.approx(float(torch.stack(own).mean()), rel=1e-4)
    none = VideoDiffusion(net, SHAPE, prediction=0.0, table=20)
    none.loss((x, torch.zeros(64, dtype=torch.long)))
    assert not net.x[:, 1].any()


def test_video_options_that_make_no_sense_are_refused() -> None:
    for options, match in (
        ({"shape": (1, 8, 8)}, "clips"), ({"shape": SHAPE, "prediction": 1.5}, "between 0 and 1"),
        ({"shape": SHAPE, "variance": "learned"}, "no learned variance"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            VideoDiffusion(unet(), **options)
    with pytest.raises(ConfigError, match="divide into 4 heads"):
        VideoUNet(1, [6])


# -- wavelets and the causal tokenizer --------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "axes"), [(1, (2,)), (2, (2, 3)), (2, (2, 3, 4)), (0, (2, 3))])
def test_haar_is_inverted_and_keeps_a_share_of_the_energy(levels: int, axes: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 8, 12, dtype=torch.float64)
    z = haar(x, levels, axes)
    assert z.shape[1] == 3 * 2 ** (levels * len(axes)) and z.numel() == x.numel()
    assert torch.allclose(inverse_haar(z, levels, axes), x, atol=1e-12)
    assert z.square().sum() == pytest.approx(float(x.square().sum()) / 2 ** (levels * len(axes)))
    low = torch.nn.functional.avg_pool3d(x, [2**levels if a in axes else 1 for a in (2, 3, 4)])
    assert torch.allclose(z[:, :3], low, atol=1e-12), "the lowest band is the mean"


def test_haar_says_what_does_not_divide() -> None:
    with pytest.raises(ConfigError, match="cannot be halved 2 times"):
        haar(torch.zeros(1, 1, 6, 8), 2, (2, 3))


def tokenizer(**options: Any) -> Cosmos:
    encoder, decoder = CausalEncoder(1, 8, 3, 2, 2), CausalDecoder(3, 8, 2, 2, 2)
    arguments = {"shape": [1, 9, 8, 8], "grid": [3, 2, 2], **options}
    return stirred(Cosmos(encoder, decoder, FSQ([4, 3, 3]), **arguments)).double()


def clips(n: int = 2, frames: int = 9) -> Tensor:
    return torch.rand(n, 1, frames, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_no_latent_sees_what_is_to_come() -> None:
    model, x = tokenizer(), clips()
    z = model.latent(x)
    for frame in range(9):
        y = x.clone()
        y[:, :, frame] = 1 - y[:, :, frame]
        changed = (model.latent(y) - z).abs().amax((0, 1, 3, 4)) > 1e-9
        own = 0 if frame == 0 else 1 + (frame - 1) // 4
        assert not changed[:own].any() and changed[own], frame
    noise = torch.randn_like(z)
    mean = model.observation(z).mean
    for t in range(3):  # the same of the way back
        z_ = z.clone()
        z_[:, :, t] += noise[:, :, t]
        changed = (model.observation(z_).mean - mean).abs().amax((0, 1, 3, 4)) > 1e-12
        assert not changed[: 0 if t == 0 else 1 + 4 * (t - 1)].any() and changed.any()


def test_symmetric_padding_would_see_the_future() -> None:
    """The look-alike that the law finds."""
    model, x = tokenizer(), clips()

    def symmetric(self: CausalTimeConv, x: Tensor) -> Tensor:
        padded = torch.cat([x[:, :1], x, x[:, -1:]], 1)
        seen = torch.cat([padded[:, i : i + x.shape[1]] for i in range(3)], 2)
        return self.conv(seen.flatten(0, 1)).unflatten(0, x.shape[:2])

    block = next(m for m in model.encoder.modules() if isinstance(m, CausalBlock))
    block.time.forward = symmetric.__get__(block.time)
    y = x.clone()
    y[:, :, 8] = 1 - y[:, :, 8]
    assert (model.latent(y) - model.latent(x))[:, :, 1].abs().max() > 1e-6


def test_the_first_latent_is_the_image_s_and_an_image_is_a_clip_of_one_frame() -> None:
    model, x = tokenizer(), clips()
    assert torch.allclose(model.latent(x)[:, :, :1], model.latent(x[:, :, :1]), atol=1e-12)
    codes = model.codes(x[:, :, :1])
    assert codes.shape == (2, 1, 1, 2, 2) and torch.equal(codes, model.codes(x)[:, :, :1])
    assert model.decode(codes).shape == (2, 1, 1, 8, 8)
    assert torch.allclose(model.decode(model.codes(x))[:, :, :1], model.decode(codes), atol=1e-12)
    longer = torch.cat([x, clips(2, 4)], 2)
    assert torch.equal(model.codes(longer)[:, :, :3], model.codes(x)) and model.reconstruct(longer).shape[2] == 13
    one = model.log_prob(x[:, :, :1])
    p = model.observation(model.embed(codes)).log_prob(x[:, :, :1]).flatten(1).sum(1)
    assert torch.allclose(one, p - 4 * math.log(36))
    with pytest.raises(DataError, match="examples of shape"):
        model.codes(x[:, :, :2])
    with pytest.raises(DataError, match="codes of shape"):
        model.decode(codes[..., :1])


def test_latents_of_a_still_clip_are_equal() -> None:
    model, x = tokenizer(), clips(2, 1).expand(-1, -1, 9, -1, -1)
    z = model.latent(x)
    assert torch.allclose(z, z[:, :, :1].expand_as(z), atol=1e-12)
    moving = model.latent(clips())
    assert not torch.allclose(moving, moving[:, :, :1].expand_as(moving), atol=1e-3)


def test_the_tokenizer_says_what_it_takes() -> None:
    for options, match in (
        ({"grid": [2, 2]}, "a grid"), ({"shape": [1, 8, 8, 8]}, "a grid"), ({"scale": "pixel"}, "predicted or shared"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            tokenizer(**options)
    with pytest.raises(ConfigError, match="groups of 4, got 8 frames; take 5"):
        CausalEncoder(1, 8, 3, 1, 2)(torch.zeros(1, 1, 8, 8, 8))


def test_other_clips_get_their_grid() -> None:
    before = {"shape": [1, 9, 32, 32], "grid": [3, 8, 8]}
    fitted = Cosmos.fitted_to({**before, "shape": [1, 17, 64, 32]}, before)
    assert fitted["grid"] == [5, 16, 8] and Cosmos.fitted_to(before, before) == before
    with pytest.raises(ConfigError, match="choose such data, as by"):
        Cosmos.fitted_to({**before, "shape": [1, 8, 32, 32]}, before)


def code_prior() -> CodePrior:
    prior = Transformer([1, 3, 2, 2], 36, width=16, depth=1, heads=2, positions="learned")
    return stirred(CodePrior(tokenizer().float(), prior))


def test_codes_of_clips_have_a_prior_in_the_order_of_time() -> None:
    model, x = code_prior(), clips().float()
    codes = model.codes(x)
    order = model.prior.to_sequence(codes)
    assert torch.equal(order.unflatten(1, (3, 2, 2)), codes[:, 0]), "frame after frame"
    assert torch.equal(model.prior.from_sequence(order), codes)
    assert model.sample(2, seed=0).shape == (2, 1, 9, 8, 8)
    assert torch.allclose(model.log_prob(x), model.autoencoder.log_likelihood(x, codes) + model.prior.log_prob(
        model.image(codes)))  # fmt: skip


def test_a_prior_of_codes_continues_first_frames() -> None:
    model, x = code_prior(), clips(1).float()[0]
    assert torch.equal(model.known_codes(torch.ones(2, 1, 9, 8, 8).bool()), torch.ones(2, 1, 3, 2, 2).bool())
    y = model.sample(4, seed=0, given=x, known=5)
    assert torch.equal(y[:, :, :5], x[:, :5].expand(4, -1, -1, -1, -1)) and not torch.equal(y[0, :, 5:], y[1, :, 5:])
    mask = (torch.arange(9) < 4).view(1, 1, 9, 1, 1).expand(2, 1, 9, 8, 8)
    assert model.known_codes(mask).flatten(2).all(2).tolist() == [[False]] * 2
    assert model.known_codes(mask)[0, 0].flatten(1).all(1).tolist() == [True, False, False]


def test_moving_pictures_hold_the_frames() -> None:
    from PIL import Image

    from zoo.media import medium, samples_of

    model = denoiser()
    x = model.sample(3, seed=0, steps=2)
    files = samples_of(model, x, ending=".apng")
    assert medium(model) == "video" and set(files) == {".apng", ".png"}
    assert Image.open(io.BytesIO(files[".apng"])).n_frames == 4


def test_motion_names_its_direction() -> None:
    steps = torch.tensor(DIRECTIONS)
    assert Motion(torch.zeros(8, 2).long(), 3 * steps).direction.tolist() == list(range(8))
