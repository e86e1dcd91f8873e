"""What forked children start from: everything imported, nothing computed; and the functions that they run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import zoo.training.fit as fit
from zoo.callbacks.pictures import Pictures
from zoo.registry import Entry, load_registry
from zoo.spec import class_of
from zoo.training.engine import Stopped

SMALL = [
    *("--data.limit", "400", "--training.log_every", "1000", "--training.sample_every", "0"),
    *("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"),
]

DEAR = ("pixelcnn_pp", "transformer", "wavenet", "edm", "dit", "stylegan", "r3gan", "gat", "consistency", "glow",
        "latent_diffusion", "rectified_flow", "reflow", "gated_pixelcnn", "gated_pixelcnn_cond",
        "vq_vae2", "bsq", "lfq", "rq_vae", "mgvq", "dvae", "softvq", "titok", "titok_tuned", "gq_vae",
        "maskgit", "maskgit_cond", "transformer_codes", "vq_vae2_prior", "vqgan_prior", "rq_transformer",
        "var", "var_cond", "infinity", "mar", "flowar",
        "var_tokenizer", "infinity_tokenizer", "ebm_drl",
        "video_diffusion", "cosmos", "cosmos_prior", "transfusion", "v_jepa",
        "transformer_tokens", "transformer_bpe", "bpe",
        "ebm_cond", "energy_matching", "energy_matching_cd", "mmd_generator", "s_jko_mmd", "nce", "diffflow", "uotm",
        "interpolant", "iaf_vae", "vampprior", "flow_prior_vae", "hierarchical_vae",
        "factor_vae", "m2",
        "pixelsnail", "row_lstm", "image_gpt", "biggan", "progan", "stylegan3",
        "vae_gan", "perceptual_vae", "flow_decoder_vae", "progressive_distillation",
        "residual_flow", "spline_flow", "schroedinger_bridge",
        "inverse_lipschitz_vae", "controlnet", "adversarial_distillation")  # fmt: skip
"""Models whose runs in several processes cost more than ten seconds: the long tests take them, the default suite takes
others of their families."""

DEAR_TOGETHER = (*DEAR, "vq_vae_prior", "vqgan", "cvae", "beta_vae", "gan", "wgan", "dcgan", "nice", "realnvp",
                 "ffjord", "autoencoder_kl", "vae", "vae_small", "score_sde", "fsq", "s_jko",
                 "lsgan", "rf_dit", "linear_transformer", "i_jepa", "car_flow")  # fmt: skip
"""The same for runs in processes that start anew: relatives of these stay in the default suite."""

SLOW_SAMPLERS = ("pixelcnn_pp", "pixelsnail", "row_lstm")
"""Models that take seconds to draw one image: the default suite draws from them in the tests of the contract only."""


COLOUR = ("tiles", "cifar10")
"""Data whose models take several times as long as their relatives on digits."""


def is_large(entry: Entry) -> bool:
    """Tell whether a step takes a second or more: on colour pictures, or of a wider model for a GPU."""
    return entry.dataset in COLOUR or entry.tag == "gpu"


LARGE = tuple(n for n, e in load_registry().items() if is_large(e))
"""Entries that the long tests take."""


def one_of_each(kind: Callable[[Entry], Hashable] = lambda e: e.model["class_path"]) -> list[str]:
    """Return a registry name of each kind, by default of each class; of those on digits where there are any."""
    entries = sorted(load_registry().values(), key=lambda e: not is_large(e))
    return sorted({kind(e): e.name for e in entries}.values())


def one_a_class(dear: tuple[str, ...]) -> list[Any]:
    """Return a registry name of each class, one that is not dear where there is one, as parameters of a test."""
    entries = sorted(load_registry().values(), key=lambda e: (not is_large(e), e.name.partition("-")[0] not in dear))
    return long(sorted({e.model["class_path"]: e.name for e in entries}.values()), dear)


def relatives(names: Iterable[str]) -> tuple[str, ...]:
    """Return those registry names of whose class there is another one."""
    names = sorted(names, key=lambda n: not is_large(load_registry()[n]))
    one = {load_registry()[n].model["class_path"]: n for n in names}
    return tuple(n for n in names if n not in one.values())


def drawing(names: Iterable[str]) -> list[str]:
    """Return those registry names whose models generate; the others only represent."""
    return [n for n in names if class_of(load_registry()[n].model["class_path"]).generates]


def long(names: Iterable[str], dear: tuple[str, ...] = DEAR) -> list[Any]:
    """Return registry names as parameters of a test, marked slow where ``dear`` has them, or their models."""
    slow = [pytest.mark.slow]
    return [pytest.param(n, marks=slow if n in dear or n.partition("-")[0] in dear else []) for n in names]


def conditions(model: Any, n: int) -> torch.Tensor:
    """Return what a batch of n tells a model: classes (n,), or texts (n, T) of different lengths."""
    if not model.context:
        return torch.arange(n) % max(2, model.num_classes)
    place = torch.arange(*model.context)
    return (place % len(model.alphabet)).masked_fill(place > torch.arange(n)[:, None] + 1, -1)


def entry(name: str) -> dict[str, Any]:
    """Return a registry entry as the plain data that `zoo.training.fit.Run` takes."""
    whole = dataclasses.asdict(load_registry().resolve(name))
    return {k: whole[k] for k in ("name", "model", "data", "trainer", "training")}


def train(
    name: str,
    folder: str,
    steps: int,
    batch: int = 4,
    *more: str,
    ranks: tuple[int, ...] | None = None,
    pictures: bool = False,
    **options: Any,
) -> str:
    """Train an entry for a few steps on one thread and return the run folder; pictures take longer than the steps."""
    torch.set_num_threads(1)
    arguments = [*SMALL, "--trainer.max_steps", str(steps), "--data.batch_size", str(batch), *more]
    run = fit.Run(entry(name), arguments, folder=folder, **options)
    run.ranks = ranks
    try:
        few = mock.patch.dict(Pictures.__init__.__kwdefaults__, count=9)  # of each grid
        with few if pictures else mock.patch.object(Pictures, "draw"):
            return str(run.start())
    except Stopped as stop:
        return f"stopped by {stop.signal_name} after {stop.step}"


def train_rank(name: str, folder: str, steps: int, batch: int, rank: int, world: int, port: int, *more: str) -> str:
    """Train as one of several processes that were started from outside, as torchrun does."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    return train(name, folder, steps, batch, "--trainer.accelerator", "cpu", "--trainer.devices", str(world), *more)


def weights(folder: str | Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return the raw and averaged weights of a run's last checkpoint."""
    from zoo.runs import last_checkpoint, read_checkpoint

    content = read_checkpoint(last_checkpoint(folder))
    return {"raw": content["state_dict"], "ema": (content.get("ema") or {}).get("parameters", {})}


def difference(a: str | Path, b: str | Path) -> float:
    """Return the largest absolute difference between the weights of two runs, raw and averaged."""
    A, B = weights(a), weights(b)
    assert A["raw"].keys() == B["raw"].keys() and A["ema"].keys() == B["ema"].keys()
    return max((x.double() - B[k][n].double()).abs().max().item() for k in A for n, x in A[k].items())


def train_and_kill(name: str, folder: str, steps: int, batch: int, stop: int, sig: str, *more: str) -> str:
    """Train in a grandchild that gets a signal in the middle of step ``stop``, and say how it ended."""
    import signal

    from lightning.pytorch import Callback

    class Send(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == stop - 1:
                os.kill(os.getpid(), getattr(signal, sig))

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        build = fit.Run.trainer
        fit.Run.trainer = lambda self, callbacks, loggers: build(self, [*callbacks, Send()], loggers)
        said = train(name, folder, steps, batch, *more)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said = os.read(read, 10_000).decode()
    return said or "killed"


def resume(name: str, folder: str, steps: int, batch: int, *more: str) -> str:
    """Go on with a run from its newest checkpoint; start it anew where it had not come to one."""
    import shutil

    from zoo.errors import RunError
    from zoo.runs import last_checkpoint

    try:
        last_checkpoint(folder)
    except RunError:
        shutil.rmtree(folder)
        return train(name, folder, steps, batch, *more)
    return train(name, folder, steps, batch, *more, resume=True)


def train_both(name: str, folder: str, steps: int, batch: int, *more: str) -> str:
    """Train in one process that draws the noise of two ranks."""
    return train(name, folder, steps, batch, *more, ranks=(0, 1))


def tuned_from(start: str, tuned: str) -> bool:
    """Tell whether the second run holds the averaged weights of the first one: its learning rate was zero."""
    mean, raw = weights(start)["ema"], weights(tuned)["raw"]
    return all(torch.equal(value, raw[name]) for name, value in mean.items())
