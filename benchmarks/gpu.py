"""What a GPU is used for: training and sampling on one card, against bare loops in the same run.

    python benchmarks/gpu.py --out benchmarks/results/gpu.md      # ten minutes on one current card
    python benchmarks/gpu.py --only train --models vae,ddpm       # a part of it
    python benchmarks/gpu.py --smoke                              # a few steps of everything, on the CPU too

Training: ``zoo fit`` with captured graphs, against a loop without any of the zoo's machinery around the same loss: data
on the device, forward and backward pass and fused AdamW recorded once as a CUDA graph and replayed (of a GAN the steps
of the critic and of the generator). Both at the recipe's batch and at 512; the arms take turns, and medians are
printed. Where a loss cannot be recorded the bare loop is not, and the table says so.

Sampling: of the bundled weights, whole calls of ``sample`` with a wait for the device at both ends. What determinism
costs is measured on a model of transposed convolutions: the same calls with and without `zoo.devices.repeatable`.

The U-Net of CIFAR-10 is that of 128-256-256 channels with two blocks a level, on random images (its speed does not
depend on them), in bfloat16, channels last and compiled; its share of the card's peak counts the operations by
`zoo.training.compute`. ``before`` is what was measured on one H200 before data lived on the card and graphs were
captured; only ratios within one run mean something on another card.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback
from timing import silent

import zoo
from zoo.checking import trusted
from zoo.data.base import BatchStream, TensorData
from zoo.data.tensors import hold
from zoo.model import GenerativeModel
from zoo.registry import load_registry
from zoo.spec import build
from zoo.training.compute import flops_per_step
from zoo.training.fit import Run

MODELS = ("vae", "wgan_gp", "ddpm", "dit", "pixelcnn")
BEFORE = {"vae": 35_500, "wgan_gp": 4_310, "ddpm": 2_100, "dit": 2_930, "pixelcnn": 720}
"""Examples a second at the recipe's batch on one H200, without captured graphs."""

SAMPLED = {"pixelcnn-mnist": (64, 120.0), "gated_pixelcnn-mnist": (64, 157.0), "wavenet-tones": (4, None)}
"""How many are drawn at once, and how many a second it were on one H200, without captured graphs."""

RATE = 8_000
"""Values a second of the recordings that ``wavenet-tones`` draws."""

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "A10": 125e12, "T4": 65e12}
"""Operations a second of dense products in half precision, by the makers' data sheets."""

UNET = {
    "class_path": "zoo.families.score_sde.ScoreSDE",
    "init_args": {
        "network": {
            "class_path": "zoo.nets.unet.UNet",
            "init_args": {
                "channels": 3, "widths": [128, 256, 256], "blocks": 2, "embedding": 256, "attention": [1],
                "num_classes": 10,
            },
        },
        "shape": [3, 32, 32], "num_classes": 10, "predict": "edm", "steps": 18, "lr": 1e-3,
        "schedule": {
            "class_path": "zoo.maths.schedules.EDM",
            "init_args": {"sigma_min": 0.002, "sigma_max": 80.0, "mean": -1.2, "std": 1.2},
        },
    },
}  # fmt: skip


def wait(device: torch.device) -> float:
    """Wait for the device, and return the time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Clock(Callback):
    """Time the steps after ``warm`` ones, waiting for the device at both ends and nowhere between."""

    def __init__(self, warm: int, steps: int) -> None:
        self.warm, self.steps, self.done, self.seconds = warm, steps, 0, float("nan")

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.done += 1
        if self.done == self.warm:
            self.start = wait(module.device)
        elif self.done == self.warm + self.steps:
            self.seconds = (wait(module.device) - self.start) / self.steps


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        device: where.
        rounds: turns of each arm.
        warm, steps: of training.
        batches: of training beside the recipe's.
        calls: of a sampler.
        values: how many values a recording has.
    """

    device: torch.device
    rounds: int = 3
    warm: int = 60
    steps: int = 200
    batches: tuple[int, ...] = (512,)
    calls: int = 5
    values: int = 8_000


def options(plan: Plan, batch: int, *more: str) -> list[str]:
    """Return what is typed after ``zoo fit`` for a run of the plan."""
    compiled = ["--training.compile", "true", "--training.compile_mode", "reduce-overhead"]
    return [
        "--trainer.accelerator", "gpu" if plan.device.type == "cuda" else "cpu", "--trainer.devices", "1",
        "--data.batch_size", str(batch), "--trainer.max_steps", str(plan.warm + plan.steps),
        "--trainer.limit_val_batches", "0", "--training.sample_every", "0", "--trainer.enable_progress_bar", "false",
        *(compiled if plan.device.type == "cuda" else []), *more,
    ]  # fmt: skip


def entry_of(name: str) -> dict[str, Any]:
    """Return a registry entry as the plain data that a run takes."""
    whole = dataclasses.asdict(load_registry().resolve(name))
    return {k: whole[k] for k in ("name", "model", "data", "trainer", "training")}


def zoo_step(entry: dict[str, Any], plan: Plan, arguments: Sequence[str]) -> float:
    """Return the seconds of a step of ``zoo fit``; pictures are left out."""
    clock = Clock(plan.warm, plan.steps)
    with tempfile.TemporaryDirectory() as folder, silent(), mock.patch("zoo.callbacks.pictures.Pictures.draw"):
        Run(entry, arguments, folder=str(Path(folder) / "run"), callbacks=[clock]).start()
    return clock.seconds


# -- the bare loop ----------------------------------------------------------------------------------------------------


class Recorded:
    """A function of fixed tensors whose kernels are recorded once on a GPU and replayed; called as it is elsewhere."""

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self.function, self.graph = function, None
        if device.type != "cuda":
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            function()

    def __call__(self) -> None:
        if self.graph is None:
            self.function()
        else:
            self.graph.replay()


def adam(parameters: Any, lr: float, betas: Sequence[float], device: torch.device) -> torch.optim.Optimizer:
    """Return fused AdamW, on a GPU such as can be recorded."""
    return torch.optim.AdamW(
        parameters, lr=lr, betas=tuple(betas), weight_decay=0.0, fused=True, capturable=device.type == "cuda"
    )


def steps_of(model: GenerativeModel, batch: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> list[Recorded]:
    """Return one period of a model's training on a batch whose contents change: gradients and optimizers."""
    players = {k: dataclasses.replace(p, parameters=list(p.parameters)) for k, p in model.players().items()}
    optimizers = {k: adam(p.parameters, p.lr, p.betas, device) for k, p in players.items()}

    def turn(player: str, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        own = {id(p) for p in players[player].parameters}

        def step() -> None:
            before = [(p, p.requires_grad) for p in model.parameters()]
            for p, required in before:
                p.requires_grad_(required and id(p) in own)
            optimizers[player].zero_grad(set_to_none=True)
            loss().backward()
            optimizers[player].step()
            for p, required in before:
                p.requires_grad_(required)

        return step

    if model.automatic_optimization:
        return [Recorded(turn("model", lambda: model._trusting_loss(batch)["loss"]), device)]
    critic: Any = model
    one = Recorded(turn("critic", lambda: critic.critic_loss(batch)["loss"]), device)
    other = Recorded(turn("generator", lambda: critic.generator_loss(batch)["loss"]), device)

    def both() -> None:
        one()
        other()

    last = Recorded(both, torch.device("cpu"))
    return [one] * (critic.n_critic - 1) + [last]


def bare_step(name: str, plan: Plan, batch: int) -> float:
    """Return the seconds of a step of the bare loop."""
    entry = load_registry().resolve(name)
    torch.manual_seed(0)
    model = entry.build_model().to(plan.device).train()
    data = entry.build_data(batch_size=batch)
    x, labels = (part.to(plan.device) for part in data.split("train"))
    stream = BatchStream((x, labels), batch, seed=0)
    batches = endless(stream, data)
    static = tuple(part.clone() for part in next(batches))
    with trusted():
        period = steps_of(model, static, plan.device)  # type: ignore[arg-type]
        for i in range(plan.warm + plan.steps):
            if i == plan.warm:
                start = wait(plan.device)
            for mine, new in zip(static, next(batches), strict=True):
                mine.copy_(new)
            period[i % len(period)]()
        return (wait(plan.device) - start) / plan.steps


def endless(stream: BatchStream, data: TensorData) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of all epochs in the model's range."""
    while True:
        for x, labels in stream:
            yield data.to_float(x), labels


# -- tables -----------------------------------------------------------------------------------------------------------


def training(plan: Plan, names: Sequence[str]) -> list[list[str]]:
    """Return rows: model, batch, examples a second of the zoo and of the bare loop, their ratio, and to before."""
    rows = []
    for name in names:
        entry = entry_of(name)
        own = entry["data"]["init_args"]["batch_size"]
        for batch in dict.fromkeys((own, *plan.batches)):
            found: dict[str, list[float]] = {"zoo": [], "bare": []}
            failed = ""
            for _ in range(plan.rounds):
                found["zoo"].append(zoo_step(entry, plan, options(plan, batch)))
                if not failed:
                    try:
                        found["bare"].append(bare_step(name, plan, batch))
                    except RuntimeError as error:
                        failed = " ".join(str(error).split())[:60]
            mine = batch / statistics.median(found["zoo"])
            bare = batch / statistics.median(found["bare"]) if found["bare"] and not failed else None
            before = f"{mine / BEFORE[name]:.1f}" if batch == own and name in BEFORE else ""
            rows.append([name, str(batch), f"{mine:,.0f}", f"{bare:,.0f}" if bare else f"not recorded: {failed}",
                         f"{bare / mine:.2f}" if bare else "", before])  # fmt: skip
    return rows


def timed(call: Callable[[], Any], plan: Plan) -> float:
    """Return the median seconds of a call, after one that is not counted."""
    call()
    found = []
    for _ in range(plan.calls):
        start = wait(plan.device)
        call()
        found.append(wait(plan.device) - start)
    return statistics.median(found)


def sampling(plan: Plan, names: Sequence[str]) -> list[list[str]]:
    """Return rows: model, how many at once, how many a second, and the ratio to before or to real time."""
    rows = []
    for name in names:
        n, before = SAMPLED[name]
        model = zoo.load(name, device=plan.device)
        recording = len(model.shape) == 1
        given = {"length": plan.values} if recording else {}
        seconds = timed(lambda model=model, n=n, given=given: model.sample(n, seed=0, **given), plan)
        ratio = f"{n * plan.values / RATE / seconds:.1f} x real time" if recording else ""
        ratio = f"{n / seconds / before:.1f} x before" if before else ratio
        rows.append([name, str(n), f"{n / seconds:,.1f}", ratio])
    return rows


def determinism(plan: Plan) -> list[list[str]]:
    """Return one row: what repeatable convolutions cost a generator of transposed ones."""
    model = zoo.load("dcgan-mnist", device=plan.device)

    def draw() -> None:
        model.sample(1024, seed=0)

    with_it = timed(draw, plan)
    with mock.patch("zoo.sampling.repeatable", lambda device: contextlib.nullcontext()):
        without = timed(draw, plan)
    return [["dcgan-mnist, 1,024", f"{1024 / without:,.0f}", f"{1024 / with_it:,.0f}", f"{with_it / without:.2f}"]]


def unet(plan: Plan, batch: int, peak: float | None) -> list[list[str]]:
    """Return one row: images a second of the U-Net of CIFAR-10, operations a second, their share of the peak."""
    gpu = plan.device.type == "cuda"
    images = torch.randint(256, (4 * batch, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(len(images)) % 10
    data = {
        "class_path": "zoo.data.tensors.Tensors",
        "init_args": {"path": hold((images, labels)), "batch_size": batch},
    }
    entry = {"name": "unet", "model": UNET, "data": data, "trainer": {}, "training": {"ema": 0.999}}
    more = ["--training.channels_last", "true", *(["--trainer.precision", "bf16-mixed"] if gpu else [])]
    arguments = [a if a != "reduce-overhead" else "default" for a in options(plan, batch, *more)]
    seconds = zoo_step(entry, plan, arguments)
    small = (torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    rate = flops_per_step(build(UNET), small)[0] / 2 * batch / seconds
    share = f"{100 * rate / peak:.0f} %" if peak else "peak not known"
    return [["U-Net 128-256-256", str(batch), f"{batch / seconds:,.0f}", f"{rate / 1e12:,.1f}", share,
             f"{batch / seconds / 11_000:.2f}"]]  # fmt: skip


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table under a heading."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def card(device: torch.device) -> str:
    """Return the name of the device, and the versions that matter."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, for a smoke test: no numbers of a GPU"
    return f"{name}; torch {torch.__version__}, zoo {zoo.__version__}"


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description="Training and sampling on one GPU, against bare loops.")
    parser.add_argument("--only", choices=["train", "sample", "unet"], action="append", help="a part of it")
    parser.add_argument("--models", default=",".join(MODELS), help=f"trained ones (default {','.join(MODELS)})")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--peak", type=float, help="TFLOP a second of the card in half precision, where not known")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a few models, wherever this runs")
    parser.add_argument("--out", metavar="FILE", help="write the tables there, too")
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.smoke:
        parser.error("there is no GPU here; --smoke runs a few steps on the CPU")
    plan, names, drawn, batch = Plan(device, args.rounds, steps=args.steps), args.models.split(","), list(SAMPLED), 512
    if args.smoke:
        plan = Plan(device, rounds=1, warm=1, steps=2, batches=(), calls=1, values=64)
        names, drawn, batch = [n for n in names if n in ("vae", "wgan_gp")], ["wavenet-tones"], 2
    name = card(device)
    peak = args.peak * 1e12 if args.peak else next((v for k, v in PEAKS.items() if k in name), None)
    parts = [f"# One GPU\n\n{name}\n"]
    asked = args.only or ["train", "sample", "unet"]
    if "train" in asked:
        columns = ["model", "batch", "zoo, examples/s", "bare recorded loop", "bare / zoo", "zoo / before"]
        parts.append(table("Training", columns, training(plan, names)))
    if "sample" in asked:
        parts.append(table("Sampling", ["model", "at once", "samples/s", "ratio"], sampling(plan, drawn)))
        columns = ["model", "free, samples/s", "repeatable, samples/s", "time, repeatable / free"]
        parts.append(table("What repeatable convolutions cost", columns, determinism(plan)))
    if "unet" in asked:
        columns = ["network", "batch", "images/s", "TFLOP/s", "share of peak", "images/s / 11,000"]
        parts.append(table("U-Net of CIFAR-10", columns, unet(plan, batch, peak)))
    text = "\n".join(parts)
    if args.out:
        Path(args.out).write_text(text, encoding="utf-8")
    print(text)
    return text


if __name__ == "__main__":
    main()
