"""Samplers chosen on a loaded model by name or object, callbacks at each step, states on the way, a seed an example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.errors import ConfigError
from zoo.maths import samplers
from zoo.maths.solvers import SOLVERS, Solver
from zoo.maths.watching import Step, _watchers
from zoo.registry import load_registry
from zoo.serving.request_types import controls, option_fields


def tiny(name: str, **arguments: Any) -> Any:
    """Return a registered model with a network of its own random weights, its output layers too."""
    torch.manual_seed(0)
    model = zoo.create(name, **arguments).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture(scope="module")
def diffusion() -> Any:
    return tiny("ddpm_cond-mnist")


@pytest.fixture(scope="module")
def flow() -> Any:
    return tiny("flow_matching-mnist")


def test_a_sampler_is_chosen_by_name(diffusion: Any) -> None:
    asked = diffusion.sample(2, seed=1, sampler="ddim", steps=4, guidance_scale=2.0)
    usual = diffusion.sample(2, seed=1, steps=4)
    try:
        assert diffusion.set_sampler("ddim", steps=4, guidance_scale=2.0) is diffusion
        assert torch.equal(diffusion.sample(2, seed=1), asked)
        assert not torch.equal(diffusion.sample(2, seed=1, guidance_scale=1.0), asked)  # what is given counts more
        said = diffusion.sampler({})
        assert (said["sampler"], said["steps"], said["guidance_scale"]) == ("ddim", 4, 2.0)
        assert diffusion.calls({}) == 8 == diffusion.calls({"sampler": "ddim", "steps": 4, "guidance_scale": 2.0})
    finally:
        diffusion.set_sampler()
    assert torch.equal(diffusion.sample(2, seed=1, steps=4), usual) and diffusion.chosen_options == {}
    for wrong, said in (("dimm", r"unknown sampler 'dimm'. Did you mean 'ddim'"), (None, "no sampling option 'stps'")):
        with pytest.raises(ConfigError, match=said):
            diffusion.set_sampler(wrong, **({} if wrong else {"stps": 3}))
    with pytest.raises(ConfigError, match="has one way of sampling"):
        tiny("gan-mnist").set_sampler("ddim")


def test_a_sampler_is_an_object(diffusion: Any) -> None:
    def mine(denoise: Any, x: Tensor, log_snrs: Tensor, schedule: Any, noise: Any) -> Tensor:
        return samplers.ddim(denoise, x, log_snrs, schedule, noise, 0.0)

    named = diffusion.sample(2, seed=1, sampler="ddim", steps=4)
    assert torch.equal(diffusion.sample(2, seed=1, sampler=mine, steps=4), named)
    try:
        assert torch.equal(diffusion.set_sampler(mine, steps=4).sample(2, seed=1), named)
        assert diffusion.sampler({})["sampler"] == "mine"
    finally:
        diffusion.set_sampler()
    with pytest.raises(ConfigError, match="eta is an option of other samplers, not of mine"):
        diffusion.sample(1, sampler=mine, eta=0.5)
    with pytest.raises(ConfigError, match="sampler must be a name or a function"):
        diffusion.sample(1, sampler=3)


def test_a_solver_of_a_flow_is_a_name_or_an_object(flow: Any) -> None:
    named = flow.sample(2, seed=1, solver="heun", steps=3)
    try:
        assert torch.equal(flow.set_sampler("heun", steps=3).sample(2, seed=1), named)
        assert torch.equal(flow.set_sampler(SOLVERS["heun"], steps=3).sample(2, seed=1), named)
        assert flow.sampler({})["solver"] == "Solver" and flow.calls({}) == 3 * 2 * 2  # guided
        ralston = Solver(
            lambda v, x, t, h: x + h / 4 * ((k := v(x, t)) + 3 * v(x + 2 / 3 * h * k, t + 2 / 3 * h)), 2, 2
        )
        other = flow.set_sampler(ralston, steps=3).sample(2, seed=1)
        assert not torch.equal(other, named) and (other - named).abs().mean() < 0.1
    finally:
        flow.set_sampler()


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "euler_maruyama", "heun", "dpm_solver", "ode"])
def test_a_callback_sees_each_step_and_changes_nothing(diffusion: Any, sampler: str) -> None:
    seen: list[Step] = []
    model = diffusion if sampler in diffusion.samplers else tiny("score_sde-mnist")
    plain = model.sample(3, seed=2, sampler=sampler, steps=5)
    told = model.sample(3, seed=2, sampler=sampler, steps=5, callback=seen.append)
    assert torch.equal(plain, told) and not _watchers
    assert [s.index for s in seen] == list(range(5)) and {s.total for s in seen} >= {5}
    levels = [s.level for s in seen[:-1]]
    assert levels == sorted(levels) and seen[-1].level is None and len({*levels}) == 4
    assert torch.equal(seen[-1].images, told) and seen[0].x.shape == (3, 1, 28, 28)


def test_a_callback_can_change_the_state(diffusion: Any, flow: Any) -> None:
    for model, half in ((diffusion, 4), (flow, 4)):
        x = model.sample(
            2, seed=0, steps=4, callback=lambda s: torch.zeros_like(s.x) if s.index == s.total - 1 else None
        )
        assert (x == x.flatten()[0]).all() and abs(float(x.flatten()[0]) - 0.5) < 0.01, half
    with pytest.raises(ConfigError, match=r"of shape \(2, 1, 28, 28\); this one returned \(3,\)"):
        flow.sample(2, seed=0, steps=2, callback=lambda s: torch.zeros(3))
    with pytest.raises(ConfigError, match="does not go from noise to data in steps"):
        tiny("pixelcnn-mnist").sample(1, callback=print)
    with pytest.raises(KeyboardInterrupt):  # and it can end the work, which leaves nobody watching
        flow.sample(1, seed=0, callback=_interrupt)
    assert not _watchers


def _ralston(v: Any, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    k = v(x, t)
    return x + h / 4 * (k + 3 * v(x + 2 / 3 * h * k, t + 2 / 3 * h))


def _interrupt(step: Step) -> None:
    raise KeyboardInterrupt


def test_states_on_the_way_end_in_the_samples(flow: Any) -> None:
    states, x = flow.intermediates(2, every=2, seed=3, steps=5)
    assert states.shape == (3, 2, 1, 28, 28) and torch.equal(states[-1], x)
    assert torch.equal(x, flow.sample(2, seed=3, steps=5)) and 0 <= states.min() <= states.max() <= 1
    latent = zoo.load("latent_diffusion-mnist")
    states, x = latent.intermediates(1, seed=3, steps=3)
    assert states.shape == (3, 1, 1, 28, 28) and torch.allclose(states[-1], x, atol=1e-6)


def test_an_example_has_a_seed_of_its_own(flow: Any) -> None:
    gan, pixels = tiny("gan-mnist"), zoo.load("gated_pixelcnn_cond-mnist")
    for model, options in ((gan, {}), (flow, {"steps": 2}), (pixels, {"labels": [4, 5]})):
        pair = model.sample(2, seed=[7, 9], **options)
        for i, seed in enumerate((7, 9)):
            own = {k: [v[i]] if k == "labels" else v for k, v in options.items()}
            assert torch.equal(pair[i : i + 1], model.sample(1, seed=seed, **own)), type(model).__name__
    generators = [torch.Generator().manual_seed(s) for s in (7, 9)]
    assert torch.equal(gan.sample(2, seed=generators), gan.sample(2, seed=[7, 9]))
    with pytest.raises(ConfigError, match="seed must be one, or 3, one an example, got 2"):
        gan.sample(3, seed=[1, 2])


def test_options_that_are_words_say_which() -> None:
    """Each option of a sampler that is told by a word, of every class, has its words: for the page, and for checks."""
    free, seen = {"prompt"}, set()
    for name, entry in load_registry().items():
        if (cls := entry.model["class_path"]) in seen:
            continue
        seen.add(cls)
        model = entry.build_model()
        words = model.option_words()
        told = {n for n, p in model.option_parameters().items() if "str" in str(p.annotation).split(" | ")} - free
        assert told <= set(words), f"{name}: {told - set(words)}"
        if model.generates:
            shown = controls(model)
            assert set(shown) == set(option_fields(model))
            assert all(c["kind"] == "word" and c["words"] for n, c in shown.items() if n in told)
            assert all(c["about"] for c in shown.values()), (name, [n for n, c in shown.items() if not c["about"]])
