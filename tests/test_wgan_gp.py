"""Laws of WGAN-GP and of the training step that adversarial models share."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from zoo.errors import ConfigError
from zoo.families.wgan_gp import WGANGP
from zoo.maths.penalties import gradient_penalty
from zoo.nets.conv import DownsamplingNet, UpsamplingNet
from zoo.nets.mlp import MLP
from zoo.spec import build

SHAPE = [1, 4, 4]


def tiny(n_critic: int = 3) -> WGANGP:
    torch.manual_seed(0)
    return WGANGP(
        MLP([3, 8, 16]), MLP([16, 8, 1], "leaky_relu", bias=False), 3, SHAPE, n_critic=n_critic, lr=1e-2
    ).double()


def batches(n: int, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(torch.rand(size, *SHAPE, dtype=torch.float64), torch.zeros(size, dtype=torch.long)) for _ in range(n)]


def state(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


class Recorder(pl.Callback):
    """What each batch left behind."""

    def __init__(self) -> None:
        self.states: list[tuple[Tensor, Tensor]] = []
        self.terms: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, module: WGANGP) -> None:
        self.states.append((state(module.critic), state(module.generator)))

    def on_train_batch_end(self, trainer: pl.Trainer, module: WGANGP, *_: object) -> None:
        self.states.append((state(module.critic), state(module.generator)))
        self.terms.append(dict(module.terms))

    def moved(self, player: int) -> list[bool]:
        return [bool((a[player] != b[player]).any()) for a, b in zip(self.states, self.states[1:], strict=False)]


def fit(model: WGANGP, data: list[tuple[Tensor, Tensor]], steps: int) -> tuple[pl.Trainer, Recorder]:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[recorder], num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=None), DataLoader(data[:2], batch_size=None))
    return trainer, recorder


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_step_is_a_batch_and_the_generator_moves_on_each_nth():
    model = tiny(n_critic=3)
    trainer, recorder = fit(model, batches(4), 8)  # two epochs of 4 batches: the pattern runs across their border
    assert trainer.global_step == 8
    assert recorder.moved(0) == [True] * 8
    assert recorder.moved(1) == [False, False, True, False, False, True, False, False]
    assert set(recorder.terms[0]) == {"critic_loss", "gap", "sign", "penalty", "critic_gradient"}
    assert set(recorder.terms[2]) == {"critic_loss", "gap", "sign", "penalty", "generator_loss", "generator_gradient"}
    assert all(p.requires_grad for p in model.parameters())
    assert {"loss", "critic_loss", "generator_loss"} <= set(model.loss(batches(1)[0]))


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_accumulated_batches_make_one_update_of_each_player():
    model = tiny(n_critic=2)
    model.accumulate = 2
    trainer, recorder = fit(model, batches(8), 4)
    assert trainer.global_step == 4
    assert recorder.moved(0) == [False, True] * 4
    assert recorder.moved(1) == [False, False, False, True] * 2


def test_all_parameters_have_moved_after_the_declared_steps():
    model = tiny()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    fit(model, batches(4), model.steps_to_move)
    assert model.steps_to_move == 4
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []


def test_penalty_has_the_closed_form_of_a_linear_critic():
    critic = nn.Linear(12, 1).double()
    real, fake, alpha = (torch.rand(5, *s, dtype=torch.float64) for s in ((3, 2, 2), (3, 2, 2), ()))
    penalty = gradient_penalty(lambda x: critic(x.flatten(1)), real, fake, alpha)
    norm = critic.weight.norm()
    assert torch.allclose(penalty, ((norm - 1) ** 2).expand(5), atol=1e-12)
    penalty.mean().backward()
    expected = 2 * (norm - 1) * critic.weight / norm
    assert torch.allclose(critic.weight.grad, expected.detach(), atol=1e-12)


def test_penalty_of_a_quadratic_critic_is_per_example_at_the_interpolates():
    real, fake, alpha = (torch.rand(6, *s, dtype=torch.float64) for s in ((1, 3, 3), (1, 3, 3), ()))
    penalty = gradient_penalty(lambda x: x.square().flatten(1).sum(1, keepdim=True) / 2, real, fake, alpha)
    a = alpha[:, None, None, None]
    x_hat = a * real + (1 - a) * fake  # the gradient of |x|^2 / 2 is x
    assert torch.allclose(penalty, (x_hat.flatten(1).norm(dim=1) - 1) ** 2, atol=1e-12)
    with torch.inference_mode():
        again = gradient_penalty(lambda x: x.square().flatten(1).sum(1, keepdim=True) / 2, real, fake, alpha)
    assert torch.allclose(again, penalty, atol=1e-15)


def test_each_player_gets_gradients_of_its_own_loss_only():
    model, batch = tiny(), batches(1)[0]
    model.critic_loss(batch)["loss"].backward()
    assert all(p.grad is None for p in model.generator.parameters())
    terms = model.critic_loss(batch)
    assert torch.allclose(terms["loss"], terms["penalty"] - terms["gap"])
    model.zero_grad()
    model.critic.requires_grad_(False)
    model.generator_loss(batch)["loss"].backward()
    assert all(p.grad is None for p in model.critic.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.generator.parameters())


def test_noise_of_two_ranks_is_what_each_would_draw():
    model, (x, labels) = tiny(), batches(1, size=6)[0]

    def critic_loss(share: Tensor, seeds: list[int]) -> Tensor:
        model.set_noise([torch.Generator().manual_seed(s) for s in seeds])
        return model.critic_loss((share, labels))["loss"]

    halves = [critic_loss(share, [seed]) for seed, share in enumerate(x.chunk(2))]
    assert torch.allclose(critic_loss(x, [0, 1]), sum(halves) / 2, atol=1e-12)


def test_compute_of_a_period_can_be_counted():
    model = WGANGP(UpsamplingNet(5, [4, 3], [1, 8, 8]), DownsamplingNet([2, 3], [1, 8, 8], hidden=4), 5, [1, 8, 8])
    batch = (torch.rand(2, 1, 8, 8), None)
    with FlopCounterMode(display=False) as counter:
        model.critic_loss(batch)["loss"].backward()
    assert counter.get_total_flops() > 0


def test_samples_are_images_and_reproducible():
    model = build(tiny().spec)
    x = model.sample(5, seed=1)
    assert x.shape == (5, *SHAPE)
    assert x.min() >= 0
    assert x.max() <= 1
    assert torch.equal(x, model.sample(5, seed=torch.Generator().manual_seed(1)))
    centre = model.sample(2, seed=0, temperature=0.0)
    assert torch.equal(centre, model.decode(torch.zeros(2, 3)))
    with pytest.raises(ConfigError, match="temperature"):
        model.sample(1, temprature=1.0)
    with pytest.raises(ConfigError, match="n_critic"):
        tiny(n_critic=0)
