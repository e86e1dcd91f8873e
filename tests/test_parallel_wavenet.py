"""Laws of distilling a WaveNet into inverse autoregressive flows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from test_sequence import _wavenet_flops
from torch import Tensor

from zoo.errors import ConfigError
from zoo.families.parallel_wavenet import ParallelWaveNet, of_wavenet, relaxed_log_prob
from zoo.families.wavenet import WaveNet

L, T = 8, 10


def _parallel_wavenet(args: Mapping[str, Any]) -> float:
    """The flows with their gradients, but none for noise; the teacher forward and back to the student's recording."""
    length, C, S, N = args["shape"][0], args["width"], args["skip"], args["depth"]
    flow = C + N * 2 * C * 2 * C + (N - 1) * C * C + N * C * S + S * 2
    student = 3 * args["flows"] * flow - C  # the first flow's input is noise
    return 2.0 * length * student + 2 / 3 * _wavenet_flops(args["teacher"]["init_args"])


STEP_FLOPS = {"ParallelWaveNet": _parallel_wavenet}


def wavenet(levels: int = L, **options: Any) -> WaveNet:
    torch.manual_seed(1)
    model = WaveNet((T,), levels, width=4, skip=5, stacks=1, depth=3, rate=8000, **options).double()
    torch.nn.init.normal_(model.out.weight)
    return model


def student(teacher: WaveNet | None = None, stir: float = 0.4, **options: Any) -> ParallelWaveNet:
    torch.manual_seed(2)
    options = {"flows": 2, "width": 4, "skip": 5, "depth": 3, "levels": L, **options}
    model = ParallelWaveNet((T,), rate=8000, teacher=teacher, **options).double()
    with torch.no_grad():
        for p in model.flows.parameters():
            p.add_(stir * torch.randn_like(p))
    model.set_noise([torch.Generator().manual_seed(0)])
    return model


def logistic(*shape: int, seed: int = 3) -> Tensor:
    u = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u.logit()


def log_logistic(a: Tensor) -> Tensor:
    return a - 2 * torch.nn.functional.softplus(a)


# -- the student -------------------------------------------------------------------------------------------------------


def test_log_density_is_the_change_of_variables() -> None:
    model = student()
    z = logistic(3, T)
    x = model.flow_inverse(z).detach()
    back, log_det = model.flow(x)
    torch.testing.assert_close(back, z)
    for i in range(3):
        J = torch.autograd.functional.jacobian(lambda z: model.flow_inverse(z[None])[0], z[i])
        assert float(torch.triu(J, 1).abs().max()) == 0  # no sample hangs on later noise
        assert float(log_det[i]) == pytest.approx(-float(torch.linalg.slogdet(J)[1]))
    torch.testing.assert_close(model.density(x), log_logistic(z).sum(1) + log_det)
    m, log_s = model.law(z)  # and it is a product of logistics given the noise before each
    a = (2 * x - 1 - m) * torch.exp(-log_s)
    torch.testing.assert_close(model.density(x), (log_logistic(a) - log_s + math.log(2)).sum(1).detach())


def test_one_pass_draws_what_the_definition_draws_sample_by_sample() -> None:
    model = student(flows=3)
    z = logistic(2, T)
    drawn = torch.zeros(2, T, dtype=torch.float64)
    u = torch.zeros(3, 2, T, dtype=torch.float64)  # what goes into each flow
    for t in range(T):
        value = model.start_scale * z[:, t]
        for i, flow in enumerate(model.flows):
            u[i, :, t] = value
            location, log_s = (v[:, t] for v in flow(u[i].clone()))
            value = value * log_s.exp() + location
        drawn[:, t] = value
    torch.testing.assert_close(2 * model.flow_inverse(z) - 1, drawn)
    called = []
    model.flows[0].register_forward_hook(lambda *_: called.append(1))
    samples = model.sample(3, seed=0)
    assert len(called) == 1 and samples.shape == (3, T)
    torch.testing.assert_close(samples * (L - 1), (samples * (L - 1)).round())


def test_probabilities_of_codes_are_bounded_by_the_density() -> None:
    model = student(stir=0.1, levels=2)
    x = torch.tensor([[float(c) for c in f"{i:0{T}b}"] for i in range(2**T)], dtype=torch.float64)
    bounds = model.log_prob(x, k=64, seed=0)
    assert 0.1 < float(bounds.exp().sum()) < 1  # the rest lies outside of the range
    assert model.likelihood() == "exact+dequant"


# -- the teacher -------------------------------------------------------------------------------------------------------


def test_the_teacher_is_itself_at_whole_codes_and_a_line_between() -> None:
    teacher = wavenet()
    model = student(teacher)
    k = torch.randint(L, (4, T), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.taught(k.double()), teacher(k))
    c = (k.double() + 0.3).clamp(max=L - 1).requires_grad_()
    logits = model.taught(c)
    assert not torch.allclose(logits, teacher(k))
    (slope,) = torch.autograd.grad(logits[:, -1].square().sum(), c)
    assert bool((slope[:, :-1][c[:, :-1] < L - 1] != 0).any()) and float(slope[:, -1].abs().max()) == 0
    torch.testing.assert_close(model.in_codes(torch.tensor([-1 + 1 / L, 1 - 1 / L])), torch.tensor([0.0, L - 1.0]))


def test_the_relaxed_teacher_is_a_density() -> None:
    logits = torch.randn(5, L, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = torch.linspace(-40, L + 40, 20_001, dtype=torch.float64)
    density = relaxed_log_prob(logits[:, None], c, 0.7).exp()
    torch.testing.assert_close(torch.trapezoid(density, c), torch.ones(5, dtype=torch.float64), rtol=1e-8, atol=0)
    mean = torch.trapezoid(density * c, c)
    torch.testing.assert_close(mean, logits.softmax(1) @ torch.arange(L).double())


# -- the objective -----------------------------------------------------------------------------------------------------

CODE, BANDWIDTH = 5.0, 0.5
SCALE = BANDWIDTH * 2 / L
"""Of v, where the teacher is one logistic around a code."""


def sure() -> WaveNet:
    """A teacher whose every sample is a logistic around one code."""
    teacher = wavenet()
    with torch.no_grad():
        teacher.out.weight.zero_()
        teacher.out.bias.copy_(torch.where(torch.arange(L) == CODE, 0.0, -1e4))
    return teacher


def pair(location: float, scale: float) -> ParallelWaveNet:
    """A student of it that draws independent logistics, of this location less the teacher's and this scale over its."""
    model = student(sure(), stir=0.0, flows=1, bandwidth=BANDWIDTH, scale=SCALE * scale)
    with torch.no_grad():
        model.flows[0].out.bias[0] = (CODE + 0.5) * 2 / L - 1 + location * SCALE
    return model


def terms(model: ParallelWaveNet, data: tuple[Tensor, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in model.loss(data).items()}


def kl_of_logistics(location: float, scale: float) -> float:
    x = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    log_p = log_logistic((x - location) / scale) - math.log(scale)
    return float(torch.trapezoid(log_p.exp() * (log_p - log_logistic(x)), x))


def batch(n: int = 4_000) -> tuple[Tensor, Tensor]:
    return torch.zeros(n, T, dtype=torch.float64), torch.zeros(n, dtype=torch.long)


def test_the_divergence_is_zero_where_the_student_is_the_teacher_and_the_known_one_elsewhere() -> None:
    for location, scale in ((0.0, 1.0), (1.5, 1.0), (0.0, 0.5), (-1.0, 2.0)):
        found = terms(pair(location, scale), batch())
        assert found["kl"] / T == pytest.approx(kl_of_logistics(location, scale), abs=0.02), (location, scale)
        entropy = T * (2 + math.log(SCALE * scale))
        assert (
            float(found["entropy"])
            == pytest.approx(entropy)
            == pytest.approx(float(found["cross_entropy"] - found["kl"]))
        )


def slopes(model: ParallelWaveNet, term: Any) -> Tensor:
    """Return the gradient of a term in location and log-scale, a sample of the recording."""
    found = term(model)
    (slope,) = torch.autograd.grad(found, model.flows[0].out.bias)
    return slope / T


def mean_squared_error(model: ParallelWaveNet) -> Tensor:
    """The look-alike that regresses draws on the teacher's mean."""
    z = model.noise(4_000, T)
    m, log_s = model.law(z)
    codes = model.in_codes(m + log_s.exp() * z)
    mean = model.taught(codes).softmax(-1) @ torch.arange(L).double()
    return (codes - mean).square().sum(1).mean()


def test_only_the_divergence_rests_at_the_teacher() -> None:
    rests = slopes(pair(0.0, 1.0), lambda m: m.loss(batch())["loss"])
    assert float(rests.abs().max()) < 0.05
    alone = slopes(pair(0.0, 1.0), lambda m: m.loss(batch())["cross_entropy"])
    assert float(alone[1]) == pytest.approx(1.0, abs=0.05)  # without the entropy it shrinks, down to one recording
    squared = slopes(pair(0.0, 1.0), mean_squared_error)
    assert float(squared[1]) > 0.5


def test_the_student_learns_the_teacher() -> None:
    model = pair(3.0, 3.0)
    optimizer = torch.optim.Adam(model.flows.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(batch(64))["loss"].backward()
        optimizer.step()
    assert terms(model, batch())["kl"] / T < 0.05 < kl_of_logistics(3.0, 3.0)
    assert all(p.grad is None for p in model.teacher.parameters())


def test_power_is_compared_in_the_waveform() -> None:
    model = student(wavenet(), power=2.0)
    x = torch.rand(4, T, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert float(model.power_gap(2 * x - 1, x)) == pytest.approx(0, abs=1e-20)
    found = terms(model, (x, torch.zeros(4)))
    assert found["loss"] - found["kl"] == pytest.approx(2 * found["power"]) and found["power"] > 0
    assert "power" not in student(wavenet()).loss((x, torch.zeros(4)))


def test_what_is_published_has_no_teacher_and_draws_the_same() -> None:
    model = student(wavenet()).float()
    bare = model.released()
    assert bare.teacher is None and torch.equal(bare.sample(2, seed=1), model.sample(2, seed=1))
    with pytest.raises(ConfigError, match="its teacher is gone"):
        bare.loss((torch.zeros(2, T), torch.zeros(2)))
    arguments = of_wavenet({"shape": [3], "levels": 4, "rate": 1, "flows": 2}, wavenet())
    assert (arguments["shape"], arguments["levels"], arguments["rate"]) == ([T], L, 8000)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"shape": (1, 4, 4)}, "recordings of codes"), ({"flows": 0}, "at least 1"), ({"bandwidth": 0.0}, "positive"),
     ({"power": -1.0}, "at least 1"), ({"teacher": wavenet(4)}, "draws 4 levels"),
     ({"teacher": wavenet(num_classes=2)}, "told 2 classes")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ParallelWaveNet(**{"shape": (T,), "levels": L, "rate": 8000, **options})
