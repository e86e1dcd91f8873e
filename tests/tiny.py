"""Runs of models with a few dozen parameters on points in the plane, for tests of the engine."""

from __future__ import annotations

from typing import Any

from zoo.training.fit import Run

QUIET = [
    "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--training.log_every", "1000",
    "--training.sample_every", "0", "--trainer.limit_val_batches", "0", "--training.threads", "1",
]  # fmt: skip


def _mlp(*features: int) -> dict[str, Any]:
    return {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": list(features), "activation": "tanh"}}


def _entry(name: str, model: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    data = {"class_path": "zoo.data.toys.EightGaussians", "init_args": {"batch_size": 8, "points": 200}}
    return {"name": name, "model": model, "data": data, "trainer": {"max_steps": 10}, "training": training}


VAE = _entry(
    "tiny_vae",
    {
        "class_path": "zoo.families.vae.VAE",
        "init_args": {
            "encoder": _mlp(2, 8, 4), "decoder": _mlp(2, 8, 4), "shape": [2], "latent_dim": 2,
            "likelihood": "gaussian", "lr": 0.01,
        },
    },
    {"ema": 0.9},
)  # fmt: skip

GAN = _entry(
    "tiny_gan",
    {
        "class_path": "zoo.families.wgan_gp.WGANGP",
        "init_args": {
            "generator": _mlp(2, 8, 2), "critic": _mlp(2, 8, 1), "latent_dim": 2, "shape": [2], "n_critic": 3,
            "lr": 0.01,
        },
    },
    {"ema": 0.9},
)  # fmt: skip


def vae(*args: str, **options: Any) -> Run:
    """Return a run of a VAE with a two-dimensional latent."""
    return Run(VAE, [*QUIET, *args], **options)


def gan(*args: str, **options: Any) -> Run:
    """Return a run of a WGAN-GP that updates its generator every third step."""
    return Run(GAN, [*QUIET, *args], **options)


def gan_rank(folder: str, rank: int, port: int, death: int | None) -> str:
    """Train as one of two processes that were started from outside; ``death`` is the step in which it kills itself."""
    import os
    import signal

    import torch
    from lightning.pytorch import Callback

    from zoo.errors import ZooError

    class Die(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step + 1 == death:
                os.kill(os.getpid(), signal.SIGKILL)

    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    run = gan("--trainer.max_steps", "50", "--training.checkpoint_every", "4", folder=folder)
    run.arguments["callbacks"] = [Die()]
    try:
        return str(run.start())
    except ZooError as error:
        return f"{type(error).__name__}: {error}"
