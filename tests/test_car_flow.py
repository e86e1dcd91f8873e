"""Condition-aware reparameterisation: shifts of a path's ends for each class, and the short cut of scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.flow_matching import FlowMatching
from zoo.families.interpolant import Interpolant
from zoo.families.rectified_flow import RectifiedFlow
from zoo.nets.timed_mlp import TimedMLP

S = 0.5
"""Standard deviation of each class; class y has its mean at 3 (y - 1/2) (1, -1)."""


def centres(labels: Tensor) -> Tensor:
    return 3 * (labels[:, None].double() - 0.5) * torch.tensor([1.0, -1.0], dtype=torch.float64)


class Centred(nn.Module):
    """The velocity from N(0, 1) to N(0, S^2) along straight lines, blind to the class."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        t = time[:, None]
        return (t * S**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * S**2) * x + 0 * self.unused


def blind(shift: str = "joint", **options: Any) -> FlowMatching:
    model = FlowMatching(Centred(), [2], None, num_classes=2, label_dropout=0.0, time_scale=1.0, shift=shift, **options)
    model.set_noise([torch.Generator().manual_seed(0)])
    return model.double()


def batch(n: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 2
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return centres(labels) + S * noise, labels


def settled(model: FlowMatching, data: tuple[Tensor, Tensor]) -> float:
    """Return the least loss over the shifts, in which it is convex for this network."""
    optimizer = torch.optim.LBFGS(model.shift.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        model.set_noise([torch.Generator().manual_seed(0)])
        loss = model.loss(data)["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)
    return closure().item()


def test_shifts_alone_tell_a_network_that_is_blind_to_the_class_where_its_data_are() -> None:
    model = blind("target")
    before = model.loss(batch(4_000))["loss"].item()
    after = settled(model, batch(4_000))
    found = -model.shift.target.detach()[:2]
    torch.testing.assert_close(found, centres(torch.arange(2)), rtol=0, atol=0.06)  # z_1 has one law for both
    x, labels = batch(4_000)
    one_law = blind("target").loss((x - centres(labels), labels))["loss"].item()
    assert after == pytest.approx(one_law, rel=0.02) and before > after + 1
    drawn = model.sample(4_000, seed=0, labels=[0, 1] * 2_000, steps=20)
    for y in range(2):
        torch.testing.assert_close(drawn[y::2].mean(0), centres(torch.tensor([y]))[0], rtol=0, atol=0.1)
        assert float(drawn[y::2].std(0).mean()) == pytest.approx(S, rel=0.1)


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize("shift", ["source", "target", "joint"])
def test_loss_and_samples_are_those_of_the_shifted_path(shift: str, path: str) -> None:
    """Equation 9 and algorithm 2, written down in z."""
    torch.manual_seed(0)
    net = TimedMLP(2, 16, 1, num_classes=3)
    model = FlowMatching(net, [2], None, num_classes=3, shift=shift, path=path, label_dropout=0.3).double()
    mu = [torch.zeros(4, 2, dtype=torch.float64) for _ in range(2)]
    for i, table in enumerate((model.shift.source, model.shift.target)):
        if table is not None:
            table.data.normal_(generator=torch.Generator().manual_seed(i))
            mu[i] = table.data
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    x_1 = torch.randn(6, 2, dtype=torch.float64)
    model.set_noise([torch.Generator().manual_seed(5)])
    own = model.loss((x_1, labels))["loss"]
    model.set_noise([torch.Generator().manual_seed(5)])
    x_0, t, y = model.randn(6, 2), model.training_times(6), model.dropped(labels)
    z_0, z_1 = x_0 + mu[0][y], x_1 + mu[1][y]
    v = net(model.path.state(z_0, z_1, t), model.time_scale * t, y)
    torch.testing.assert_close(own, F.mse_loss(v, model.path.velocity(z_0, z_1, t)))
    if path != "linear":
        return
    z, steps = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64), 7
    x = model.solve(model.field(labels, 1.0), z, steps, "euler")
    z = z + mu[0][labels]
    for i in range(steps):
        z = z + net(z, torch.full((6,), model.time_scale * i / steps, dtype=torch.float64), labels).detach() / steps
    torch.testing.assert_close(x.detach(), z - mu[1][labels])


def test_guidance_is_of_velocities_of_the_same_states() -> None:
    """The look-alike subtracts velocities of two differently shifted paths; in x both are of one."""
    model = blind("joint").requires_grad_(False)
    model.shift.source.normal_(), model.shift.target.normal_()
    x, t, labels = torch.randn(4, 2).double(), torch.tensor(0.4).double(), torch.tensor([0, 1, 1, 0])
    own, average = model.velocity(x, t, labels), model.velocity(x, t)
    torch.testing.assert_close(model.field(labels, 3.0)(x, t), -2 * average + 3 * own)
    assert not torch.allclose(average, own)
    torch.testing.assert_close(model.velocity(x, t, torch.full((4,), 2)), average)  # the null label's own shift


def collapsing(scale: float, y: Tensor, t: Tensor) -> float:
    """Return the loss of the best velocity where the source is ``scale`` x_0."""
    g = torch.Generator().manual_seed(7)
    x_0 = torch.randn(len(y), 2, generator=g, dtype=torch.float64)
    z_0, beside = scale * x_0, t[:, None]
    z_t, dz = (1 - beside) * z_0 + beside * y, y - z_0
    slope = (beside * S**2 - (1 - beside) * scale**2) / ((1 - beside) ** 2 * scale**2 + beside**2 * S**2)
    return float((slope * z_t - dz).square().mean())


def test_scales_lead_to_a_constant_source_at_no_loss_and_shifts_do_not() -> None:
    n, g = 40_000, torch.Generator().manual_seed(2)
    y = S * torch.randn(n, 2, generator=g, dtype=torch.float64)
    t = 0.05 + 0.95 * torch.rand(n, generator=g, dtype=torch.float64)
    losses = [collapsing(scale, y, t) for scale in (1.0, 0.3, 0.1, 0.0)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-20 < 0.1 < losses[0]  # the velocity is z / t
    x, labels = batch(2_000)
    values = []
    for seed in range(3):  # whatever the shifts are, the velocity that goes with them has the same loss
        model = blind("joint").requires_grad_(False)
        model.shift.source.normal_(generator=torch.Generator().manual_seed(seed))
        model.shift.target.normal_(generator=torch.Generator().manual_seed(seed + 9))
        ends, net = (model.shift.source, model.shift.target), model.network

        def follows(z: Tensor, time: Tensor, y: Tensor, ends: Any = ends, net: Any = net) -> Tensor:
            c, beside = centres(y), time[:, None]
            mean = (1 - beside) * ends[0][y] + beside * (ends[1][y] + c)
            return net.old(z - mean, time, y) + ends[1][y] + c - ends[0][y]

        net.old, net.forward = net.forward, follows
        values.append(model.loss((x, labels))["loss"].item())
    assert max(values) - min(values) < 1e-12 and values[0] > 0.1
    assert not any("scale" in name for name, _ in blind().named_parameters())


def test_likelihood_knows_of_the_shift_and_shifts_go_with_a_teacher() -> None:
    torch.manual_seed(0)
    model = blind("joint").requires_grad_(False)
    model.shift.source.normal_()
    model.shift.target.copy_(model.shift.source - torch.cat([centres(torch.arange(2)), torch.zeros(1, 2)]))
    x, labels = batch(6)  # z_t = x_t - t c + mu_0, so that the centred velocity is that of z - mu_0
    old = model.network.forward
    model.network.forward = lambda z, t, y: old(z - model.shift.source[y], t, y)
    exact = torch.distributions.Normal(centres(labels), S).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x, labels=labels, seed=0, exact=True), exact, rtol=0, atol=5e-3)
    teacher = FlowMatching(TimedMLP(2, 16, 1, num_classes=2), [2], None, num_classes=2, shift="joint")
    teacher.shift.source.data.normal_()
    net = TimedMLP(2, 16, 1, num_classes=2)
    student = RectifiedFlow(net, [2], teacher, None, num_classes=2, shift="joint")
    student.adopt()
    assert torch.equal(student.shift.source, teacher.shift.source)
    moved = {id(p) for p in student.players()["model"].parameters}
    assert {id(p) for p in student.shift.parameters()} <= moved
    with pytest.raises(ConfigError, match="same shift"):
        RectifiedFlow(net, [2], teacher, None, num_classes=2).adopt()


def test_a_shift_without_classes_and_unknown_ones_are_refused() -> None:
    net = TimedMLP(2, 16, 1)
    for wrong in ({"shift": "joint"}, {"shift": "scale", "num_classes": 2}):
        with pytest.raises(ConfigError, match="shift"):
            FlowMatching(net, [2], None, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="shift"):  # its path has a noise beside it
        Interpolant(TimedMLP(2, 16, 1, 4, num_classes=2), [2], None, num_classes=2, shift="joint")
    assert not [name for name in FlowMatching(net, [2], None).state_dict() if "shift" in name]
