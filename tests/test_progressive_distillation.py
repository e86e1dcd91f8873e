"""Laws of halving the steps of a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from closed_forms import regression, told
from torch import Tensor

from zoo.errors import ConfigError
from zoo.families.ddpm import DDPM
from zoo.families.progressive_distillation import ProgressiveDistillation
from zoo.families.score_sde import ScoreSDE
from zoo.maths.samplers import ddim
from zoo.maths.schedules import EDM, Cosine
from zoo.nets.timed_mlp import TimedMLP


def _distillation(args: Mapping[str, Any]) -> float:
    """The network's training step, and two evaluations of the teacher."""
    return regression(args) + 2.0 * 2 * told(args["network"], args["shape"][-1])[0]


STEP_FLOPS = {"ProgressiveDistillation": _distillation}


def student(**options: Any) -> ProgressiveDistillation:
    torch.manual_seed(0)
    network, theirs = (TimedMLP(2, width=8, depth=1) for _ in range(2))
    teacher = DDPM(theirs, [2], levels=None)
    options = {"begin": 8, "steps": 1, "phase": 3, "teacher": teacher, **options}
    return ProgressiveDistillation(network, [2], levels=None, **options).double()


SPREAD = 0.6


def gaussian(x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
    """E[x_0 | x_t] of data from N(0, SPREAD^2)."""
    alpha, sigma = Cosine().coefficients(log_snr)
    return alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_one_step_of_a_perfect_student_is_two_of_the_teacher(steps: int) -> None:
    model = student()
    model.taught = gaussian  # type: ignore[method-assign]
    schedule = model.schedule
    x = torch.randn(5, 2, dtype=torch.float64)

    def perfect(x: Tensor, log_snr: Tensor) -> Tensor:
        times = (torch.arange(steps, 0, -1), model._grid("ddim", steps, None)[0])
        i = times[0][(times[1] - log_snr).abs().argmin()].expand(len(x))
        return model.two_steps(x, i, steps)

    few = ddim(perfect, x, model._grid("ddim", steps, None)[0], schedule)
    many = ddim(gaussian, x, model._grid("ddim", 2 * steps, None)[0], schedule)
    torch.testing.assert_close(few, many, rtol=1e-9, atol=1e-9)
    copied = ddim(gaussian, x, model._grid("ddim", steps, None)[0], schedule)  # the look-alike: the teacher's own x_0
    assert (copied - many).abs().max() > 0.01


def test_targets_lead_where_the_teacher_leads() -> None:
    model = student()
    x, i = torch.randn(4, 2, dtype=torch.float64), torch.tensor([1, 2, 3, 4])
    target = model.two_steps(x, i, 4)
    for row in range(1, 4):  # the first one ends at the data
        levels = [model.level(2 * i[row] - back, 8) for back in (0, 1, 2)]
        one = x[row : row + 1]
        (a_t, s_t), (a_s, s_s) = model.schedule.coefficients(levels[0]), model.schedule.coefficients(levels[2])
        single = a_s * target[row] + s_s / s_t * (one[0] - a_t * target[row])
        state = one
        for now, then in ((0, 1), (1, 2)):
            seen = model.taught(state, levels[now].view(1, 1), None)
            (a, s), (b, q) = model.schedule.coefficients(levels[now]), model.schedule.coefficients(levels[then])
            state = b * seen + q / s * (state - a * seen)
        torch.testing.assert_close(single, state[0], rtol=1e-9, atol=1e-9)


def test_steps_are_halved_phase_by_phase_and_the_student_becomes_the_teacher() -> None:
    model = student()
    model.adopt()
    assert all(torch.equal(v, model.teacher.network.state_dict()[k]) for k, v in model.network.state_dict().items())
    batch = torch.randn(4, 2, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    seen, taken = [], []
    for done in range(12):
        model.steps_done = done
        with torch.no_grad():
            for p in model.network.parameters():
                p.add_(0.01)
        before = [p.clone() for p in model.target.parameters()]
        seen.append(int(model.training_step(batch, 0) * 0 + model.terms["steps"]))
        taken.append(any(not torch.equal(a, b) for a, b in zip(before, model.target.parameters(), strict=True)))
    assert seen == [4] * 3 + [2] * 3 + [1] * 6
    assert [i for i, moved in enumerate(taken) if moved] == [3, 6]
    model.steps_done = 0
    first = model.taught(batch[0], torch.zeros(4, 1, dtype=torch.float64), None)
    model.steps_done = 5
    assert not torch.allclose(first, model.taught(batch[0], torch.zeros(4, 1, dtype=torch.float64), None))


def test_samples_take_as_many_steps_as_are_left() -> None:
    model = student().float()
    called = []
    model.network.register_forward_hook(lambda *_: called.append(1))
    model.sample(3, seed=0)
    assert len(called) == 1 == model.calls_per_sample
    model.sample(3, seed=0, steps=4)
    assert len(called) == 5
    with pytest.raises(ConfigError, match="even in time"):
        model.sample(1, spacing="log_snr")
    bare = model.released()
    assert bare.teacher is None and torch.equal(bare.sample(2, seed=1), model.sample(2, seed=1))
    with pytest.raises(ConfigError, match="its teacher is gone"):
        bare.loss((torch.zeros(2, 2), torch.zeros(2).long()))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"begin": 6, "steps": 4}, "steps doubled"), ({"begin": 2, "steps": 2}, "steps doubled"),
     ({"phase": 0}, "phase at least 1"), ({"schedule": EDM()}, "preserve variance"),
     ({"teacher": ScoreSDE(TimedMLP(2, width=8), [2], EDM(), levels=None)}, "preserve variance"),
     ({"teacher": DDPM(TimedMLP(2, width=8), [2], levels=None, predict="eps")}, "make them equal")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        student(**options)
