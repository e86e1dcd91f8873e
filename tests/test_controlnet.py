"""ControlNet: what is frozen stays, what is told nothing is the base, and edges are followed once that is learnt."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closed_forms import unet as unet_flops
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.controlnet import ControlNet
from zoo.families.ddpm import DDPM
from zoo.maths.edges import edges
from zoo.nets.control import ControlledUNet
from zoo.nets.unet import UNet

SHAPE = (1, 8, 8)


def _controlnet(args: Mapping[str, Any]) -> float:
    """The base, back through its way up, and three times the copy of the way down with its hint and zeros."""
    inner, K = args["network"]["init_args"], args["network"]["init_args"]["control"]
    widths, E, patch, sides = inner["widths"], inner["embedding"], inner["patch"], [args["shape"][-1] // inner["patch"]]
    for _ in widths[1:]:
        sides.append(-(-sides[-1] // 2))
    total, first = unet_flops(inner, args["shape"][-1])
    up = 9 * widths[0] * inner["channels"] * patch**2 * sides[0] ** 2
    for i, (a, b) in enumerate(pairwise(widths)):
        up += inner["blocks"] * (2 * 9 * a * a * sides[i] ** 2 + E * 2 * a)
        up += a * b * sides[i + 1] ** 2 + 2 * a * a * sides[i] ** 2
    hint = 9 * K * patch**2 * widths[0] * sides[0] ** 2
    zeros = sum(w * w * s * s for w, s in zip(widths, sides, strict=True)) + 10 * (widths[0] * sides[0]) ** 2
    return 2.0 * (total + up + 3 * (total - up + hint + zeros) - first - hint)


STEP_FLOPS = {"ControlNet": _controlnet}


def unet(classes: int = 0, kind: type[UNet] = UNet) -> UNet:
    network = kind(1, [8, 16], embedding=16, attention=[1], heads=2, num_classes=classes)
    nn.init.normal_(network.out.weight, std=0.2)  # as if it had been trained
    return network


def pair(classes: int = 0) -> tuple[DDPM, ControlNet]:
    """Return a base, and a model that starts from it."""
    torch.manual_seed(0)
    base = DDPM(unet(classes), SHAPE, num_classes=classes, steps=4)
    model = ControlNet(unet(classes, ControlledUNet), SHAPE, base, num_classes=classes, steps=4)
    model.adopt()
    return base.eval(), model.eval()


def squares(n: int, seed: int) -> Tensor:
    """Return white squares of 4 x 4 pixels on black, anywhere: (n, 1, 8, 8)."""
    place = torch.randint(5, (n, 2), generator=torch.Generator().manual_seed(seed))
    rows, columns = (torch.arange(8)[None] - p[:, None] for p in place.T)
    inside = ((rows >= 0) & (rows < 4))[:, :, None] & ((columns >= 0) & (columns < 4))[:, None]
    return inside[:, None].float()


def steps(model: DDPM, n: int, lr: float) -> None:
    """Train on squares, as the engine would."""
    (player,) = model.players().values()
    optimizer = torch.optim.Adam(player.parameters, lr)
    model.train()
    for i in range(n):
        loss = model.loss((squares(32, i), torch.zeros(32, dtype=torch.int64)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


# -- edges ------------------------------------------------------------------------------------------------------------


def test_edges_are_steps_of_a_quarter_and_more_in_any_direction() -> None:
    x = torch.zeros(3, 1, 6, 6)
    x[0, :, :, 3:], x[1, :, 3:], x[2, :, :, 3:] = 0.25, 1.0, 0.24
    found = edges(x)
    assert found[0, 0].sum(0).tolist() == [0, 0, 6, 6, 0, 0] and torch.equal(found[1, 0].sum(1), found[0, 0].sum(0))
    assert not found[2].any() and not edges(torch.full((1, 3, 5, 5), 0.7)).any()
    y = torch.rand(2, 3, 9, 7)
    assert torch.equal(edges(y.rot90(1, (2, 3))), edges(y).rot90(1, (2, 3))) and 0 < edges(y).mean() < 1


# -- the law ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 3])
def test_it_starts_as_its_base_whatever_it_is_told(classes: int) -> None:
    base, model = pair(classes)
    free = base.sample(3, seed=1)
    assert torch.equal(model.sample(3, seed=1), free)
    assert torch.equal(model.sample(3, seed=1, control=squares(3, 0)), free)


def test_a_copy_without_zeros_does_not_start_as_its_base() -> None:
    base, model = pair()
    nn.init.normal_(model.network.zero.weight, std=0.1)
    assert not torch.equal(model.sample(3, seed=1, control=squares(3, 0)), base.sample(3, seed=1))


def test_untold_it_stays_its_base_bit_for_bit_while_the_copy_learns() -> None:
    base, model = pair()
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    steps(model, 5, 1e-2)
    moved = {name for name, p in model.network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(("branch", "hint", "zero"))}
    assert torch.equal(model.sample(3, seed=1), base.sample(3, seed=1))
    assert not torch.equal(model.sample(3, seed=1, control=squares(3, 0)), base.sample(3, seed=1))


def test_only_the_edges_of_a_control_count() -> None:
    _, model = pair()
    steps(model, 3, 1e-2)
    x = squares(3, 0)
    told = model.sample(3, seed=1, control=x)
    assert torch.equal(told, model.sample(3, seed=1, control=1 - x))  # an edge has no direction
    assert torch.equal(told, model.sample(3, seed=1, control=model.control(x).bool()))
    assert torch.equal(model.sample(3, seed=1, control=x[0]), model.sample(3, seed=1, control=x[:1].expand(3, 1, 8, 8)))
    assert not torch.equal(told, model.sample(3, seed=1, control=squares(3, 9)))


@pytest.mark.slow
def test_edges_are_followed_once_that_is_learnt() -> None:
    """Squares are drawn where the control has them: nine in ten of pixels of edges agree, of free ones a third."""
    torch.manual_seed(0)
    base = DDPM(UNet(1, [16, 32], embedding=32, attention=[1]), SHAPE, steps=10)
    steps(base, 600, 3e-3)
    model = ControlNet(ControlledUNet(1, [16, 32], embedding=32, attention=[1]), SHAPE, base, steps=10)
    model.adopt()
    x = squares(64, -1)
    steps(model, 400, 3e-3)

    def agreement(samples: Tensor) -> float:
        seen, asked = edges(samples.round()).bool(), edges(x).bool()
        return float((seen & asked).sum() / (seen | asked).sum())

    told, free = (agreement(model.sample(64, seed=0, **options)) for options in ({"control": x}, {}))
    assert told > 0.85 and free < 0.5, (told, free)


# -- from the command line, and of the server --------------------------------------------------------------------------


def test_the_edges_of_a_file_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zoo._cli.main import main
    from zoo.images import save_png

    _, model = pair()
    steps(model, 3, 1e-2)
    x = squares(3, 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoo.hub.load", lambda *given, **more: model)
    save_png(x, "three.png", columns=3)
    save_png(x[:1], "one.png", columns=1, pad=0)
    sample = ["sample", "controlnet", "--seed", "1"]
    assert main([*sample, "--control", "three.png", "--out", "a.npz"]) == 0
    assert torch.equal(torch.from_numpy(np.load("a.npz")["samples"]), model.sample(3, seed=1, control=x))
    assert main([*sample, "--control", "one.png", "-n", "2", "--out", "b.npz"]) == 0
    assert torch.equal(torch.from_numpy(np.load("b.npz")["samples"]), model.sample(2, seed=1, control=x[0]))
    for words, said in (
        (["--control", "three.png", "-n", "4"], "holds 3 images"),
        (["--control", "no.png"], "there is no file no.png"),
        (["--control", "one.png", "--given", "one.png"], "give one of them"),
    ):  # fmt: skip
        assert main([*sample, *words, "--out", "c.npz"]) == 2
        assert said in capsys.readouterr().err and not Path("c.npz").exists()
    monkeypatch.setattr("zoo.hub.load", lambda *given, **more: pair()[0])
    assert main([*sample, "--control", "one.png", "--out", "c.npz"]) == 2
    assert "follows no control" in capsys.readouterr().err


def test_a_client_of_the_server_posts_what_is_followed() -> None:
    types = pytest.importorskip("zoo.serving.request_types", reason="the extra serve is not installed")
    from zoo.images import png_bytes

    _, model = pair()
    steps(model, 3, 1e-2)
    x = squares(1, 0)
    assert types.controls(model)["control"]["kind"] == "picture" == types.controls(model)["given"]["kind"]
    options = {"control": base64.b64encode(png_bytes(x, pad=0)).decode()}
    question = types.sample_type("controlnet", model, 8)(n=2, seed=1, options=options)
    draw = types.draw_of(question, model)
    assert torch.equal(model.sample(draw.n, seed=draw.seed, **draw.options), model.sample(2, seed=1, control=x[0]))


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (torch.zeros(2, 1, 8, 8), "control must be pictures of shape"),
        (torch.zeros(3, 8, 8), "control must be pictures of shape"),
        (torch.full((3, 1, 8, 8), 255.0), r"in \[0, 1\]"),
        (torch.full((3, 1, 8, 8), torch.nan), r"in \[0, 1\]"),
        (torch.zeros(3, 1, 8, 8, dtype=torch.uint8), r"in \[0, 1\]"),
    ],
)
def test_wrong_controls_are_refused(control: Tensor, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pair()[1].sample(3, seed=0, control=control)


def test_what_does_not_fit_is_refused() -> None:
    base, model = pair()
    with pytest.raises(ConfigError, match="num_classes 0"):
        ControlNet(unet(3, ControlledUNet), SHAPE, base, num_classes=3)
    with pytest.raises(ConfigError, match="weak copy"):
        ControlNet(unet(0, ControlledUNet), SHAPE, weak_batches=3)
    with pytest.raises(ConfigError, match="at least one channel of control"):
        ControlledUNet(1, [8], control=0)
    wider = ControlNet(ControlledUNet(1, [16, 16], embedding=16), SHAPE, base)
    with pytest.raises(ConfigError, match="differs from the base"):
        wider.adopt()
    released = model.released()
    assert released.base is None and torch.equal(released.sample(2, seed=0), model.sample(2, seed=0))
    with pytest.raises(ConfigError, match="train with --base"):
        released.loss((squares(2, 0), torch.zeros(2, dtype=torch.int64)))
