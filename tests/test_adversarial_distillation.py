"""Laws of distilling a diffusion model against a critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from closed_forms import net, told
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.adversarial_distillation import AdversarialDistillation
from zoo.families.ddpm import DDPM
from zoo.families.score_sde import ScoreSDE
from zoo.maths.schedules import EDM
from zoo.nets.mlp import MLP
from zoo.nets.timed_mlp import TimedMLP


def _distillation(args: Mapping[str, Any]) -> float:
    """The student's step and its teacher, which is guided; the critic three times, and its penalty."""
    (total, first), D = told(args["network"], args["shape"][-1]), net(args["critic"])
    penalty = 2 * sum(D) + (sum(D) + sum(D[:-1])) + 2 * sum(D[:-1])
    guided = 2 if args["teacher"]["init_args"]["guidance_scale"] != 1 else 1
    return 2.0 * (3 * total - first + guided * total + 2 * sum(D) + 2 * (3 * sum(D) - D[0]) + penalty)


STEP_FLOPS = {"AdversarialDistillation": _distillation}


class Linear(nn.Module):
    """A network whose prediction of v makes x_0 be ``mean`` + ``slope`` (x_t - alpha mean), whatever the level."""

    def __init__(self, mean: float, slope: float) -> None:
        super().__init__()
        self.mean, self.slope = nn.Parameter(torch.tensor(mean)), slope

    def forward(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = (torch.sigmoid(s * log_snr).sqrt().view(-1, 1) for s in (1, -1))
        x_0 = self.mean + self.slope * (x - alpha * self.mean)
        return (alpha * x - x_0) / sigma  # v, of which alpha x - sigma v is x_0


def student(network: nn.Module | None = None, theirs: nn.Module | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    networks = [n or TimedMLP(2, width=8, depth=1) for n in (network, theirs)]
    teacher = DDPM(networks[1], [2], levels=None)
    options = {"teacher": teacher, "levels": None, **options}
    return AdversarialDistillation(networks[0], MLP([2, 8, 1], "silu"), [2], **options).double()


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True))


def test_a_student_that_sees_what_its_teacher_sees_loses_nothing() -> None:
    model = student(Linear(0.7, 0.0), Linear(0.7, 0.0))
    x = model.guess(torch.randn(6, 2, dtype=torch.float64), None)
    assert torch.allclose(x, torch.full_like(x, 0.7), atol=1e-6)
    assert model.distance(x, None).max() < 1e-10


def test_distance_pulls_towards_the_teacher_and_not_through_it() -> None:
    """The gradient in x has no factor (1 - slope alpha), which that through the teacher has."""
    model = student(theirs=Linear(0.7, 0.5))
    seen: list[tuple[Tensor, Tensor]] = []
    inside = model.teacher.output

    def watched(x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        seen.append((x, log_snr))
        return inside(x, log_snr, labels)

    model.teacher.output = watched
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    distance = model.distance(x, None)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    x_t, log_snr = seen[0]
    alpha = torch.sigmoid(log_snr).sqrt()[:, None]
    rest = x - (0.7 + 0.5 * (x_t - alpha * 0.7))
    torch.testing.assert_close(distance, (alpha * rest.square()).mean(1), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient, alpha * 2 * rest / 2, rtol=1e-5, atol=1e-8)
    through = alpha * 2 * rest * (1 - 0.5 * alpha) / 2  # the look-alike
    assert not torch.allclose(gradient, through, rtol=1e-2)


def test_each_player_moves_itself_alone() -> None:
    model = student()
    x_0 = torch.randn(6, 2, dtype=torch.float64)
    terms, x = model.student_loss(x_0, None, None)
    assert all(g is not None for g in gradients(terms["loss"], model.network))
    assert all(g is None for g in gradients(terms["distillation"], model.critic))
    judged = model.critic_loss(x_0, x, None)["critic_loss"]
    assert all(g is None for g in gradients(judged, model.network))
    assert all(not p.requires_grad for p in model.teacher.parameters())


def test_the_critic_plays_the_hinge_game_and_its_slope_on_data_is_penalised() -> None:
    model = student(r1=3.0)
    w = torch.tensor([[1.5, -2.0]], dtype=torch.float64)
    model.critic = nn.Linear(2, 1, bias=False).double()
    model.critic.weight.data = w
    x_0, x = torch.tensor([[0.2, 0.1], [4.0, 1.0]]).double(), torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()
    real, fake = x_0 @ w[0], x @ w[0]
    hinge = (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    terms = model.critic_loss(x_0, x, None)
    torch.testing.assert_close(terms["r1"], torch.tensor(1.5 * 6.25).double())
    torch.testing.assert_close(terms["critic_loss"], hinge + terms["r1"])


def test_one_step_is_what_the_student_sees_in_noise() -> None:
    model = student().eval()
    x = model.sample(4, seed=3)
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    level = model.level(torch.tensor(1), 1)
    seen = model.data_of(model.output(z, level.expand(4)), z, level)
    torch.testing.assert_close(x.double(), seen, rtol=1e-3, atol=1e-3)
    assert model.sample(4, seed=3, steps=4).shape == x.shape and model.calls({"steps": 4}) == 4


def test_levels_of_training_are_those_of_sampling() -> None:
    model = student(levels_of_training=4)
    seen: list[Tensor] = []
    inside = model.output
    model.output = lambda x, log_snr, labels=None: seen.append(log_snr) or inside(x, log_snr, labels)
    model.guess(torch.randn(400, 2, dtype=torch.float64), None)
    asked, counts = seen[0].unique(return_counts=True)
    torch.testing.assert_close(asked, model._grid("consistency", 4, None)[0][:-1], rtol=1e-5, atol=1e-5)
    assert counts.tolist() == [100] * 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 5}, "steps must lie between 1 and levels_of_training"),
        ({"distillation_weight": -1.0}, "not be negative"),
        ({"schedule": EDM()}, "schedules that preserve variance"),
        ({"predict": "x0"}, "the teacher predicts v, the model x0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        student(**options)


def test_a_distilled_model_has_few_steps_and_trains_no_more_without_its_teacher() -> None:
    model = student()
    with pytest.raises(ConfigError, match="takes 1 to 4 steps"):
        model.sample(1, seed=0, steps=5)
    released = model.released()
    assert released.teacher is None and released.target is None
    with pytest.raises(ConfigError, match="train with --teacher"):
        released.loss((torch.randn(2, 2).double(), torch.zeros(2, dtype=torch.int64)))
    ve = ScoreSDE(TimedMLP(2, width=8, depth=1), [2], EDM(), levels=None)
    with pytest.raises(ConfigError, match="schedules that preserve variance"):
        student(teacher=ve)
