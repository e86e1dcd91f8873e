"""``zoo.fit`` and its handle, all kinds of data, loggers; and the zoo's models under a plain Trainer."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import warm
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import zoo
from zoo._cli import from_python, main
from zoo.data import tensors
from zoo.data.toys import EightGaussians
from zoo.errors import CheckpointError, ConfigError, DataError, NotAGenerativeModelError, UnknownModelError
from zoo.families.vae import VAE
from zoo.model import LikelihoodModel
from zoo.registry import load_registry
from zoo.runs import last_checkpoint, load_run, read_checkpoint
from zoo.spec import build

Capture = pytest.CaptureFixture[str]
QUIET: dict[str, Any] = {
    "enable_progress_bar": False, "limit_val_batches": 0,
    "training": {"log_every": 1, "sample_every": 0, "threads": 1},
}  # fmt: skip
X = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
Y = torch.arange(200) % 3


class Points(Dataset):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return X[i] + 0.1 * torch.randn(2), int(Y[i])


class Module(LightningDataModule):
    def setup(self, stage: str) -> None:
        self.x = X

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(self.x), 20, shuffle=True)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] / 2]


def _vae() -> Any:
    return build(tiny.VAE["model"])


def _weights(folder: str | Path) -> dict[str, Tensor]:
    return read_checkpoint(last_checkpoint(folder))["state_dict"]


def _same(a: str | Path, b: str | Path) -> bool:
    A, B = _weights(a), _weights(b)
    return all(torch.equal(A[k], B[k]) for k in A)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = {"family": "vae", **{k: tiny.VAE[k] for k in ("model", "data", "training")}}
    game = {"family": "gan", **{k: tiny.GAN[k] for k in ("model", "data", "training")}}
    (tmp_path / "tiny.yaml").write_text(json.dumps({"models": {"tiny-points": entry, "game-points": game}}))
    monkeypatch.setenv("ZOO_REGISTRY", str(tmp_path / "tiny.yaml"))


def _other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_held", {})


# -- the handle --------------------------------------------------------------------------------------------------------


def test_a_run_from_python_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as from the command, which goes on with it; tensors are in the folder."""
    done = zoo.fit("tiny-points", max_steps=4, model={"lr": 0.02}, run="python", data={"batch_size": 16}, **QUIET)
    options = ["--model.lr", "0.02", "--data.batch_size", "16", *tiny.QUIET, "--training.log_every", "1"]
    assert main(["fit", "tiny", "--run", "command", "--trainer.max_steps", "4", *options]) == 0
    assert _same("python", "command")
    assert done.status == "finished" and str(done.folder) == "python" and "finished at step 4" in repr(done)
    assert [step for step, _ in done.metrics["train/loss"]] == [1, 2, 3, 4] and len(done.metrics) == 4
    assert done.metrics.last("lr") == 0.02 and "train/loss" in repr(done.metrics)
    assert "<th>train/loss</th>" in done.metrics._repr_html_()
    assert done.sample(3, seed=0).shape == (3, 2) and not done.model.training
    with pytest.raises(KeyError, match="Did you mean 'train/loss'"):
        done.metrics["train/los"]
    assert done.facts["commands"] == [
        "zoo.fit('tiny-points', data={'batch_size': 16}, model={'lr': 0.02}, training={'log_every': 1, "
        "'sample_every': 0, 'threads': 1}, run='python', max_steps=4, enable_progress_bar=False, limit_val_batches=0)"
    ]


def test_tensors_are_gone_on_with_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.fit("tiny-points", data=X, max_steps=30, run="whole", **QUIET)
    zoo.fit("tiny-points", data=X, max_steps=9, run="parts", **QUIET)
    _other_process(monkeypatch)
    assert main(["fit", "--resume", "./parts", "--trainer.max_steps", "30"]) == 0
    assert _same("whole", "parts") and zoo.Training("parts").facts["step"] == 30
    assert main(["evaluate", "./parts", "--limit", "8", "--json"]) == 0


@pytest.mark.slow
def test_loaders_are_gone_on_with_from_python(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Shuffled, with noise of the dataset's own, across epochs."""

    def loaders() -> dict[str, Any]:
        return {"train": DataLoader(Points(), 10, shuffle=True), "validation": DataLoader(TensorDataset(X), 50)}

    quiet = {**QUIET, "limit_val_batches": 1.0}
    zoo.fit("tiny-points", data=loaders(), max_steps=25, run="whole", **quiet)
    zoo.fit("tiny-points", data=loaders(), max_steps=13, run="parts", **quiet)
    _other_process(monkeypatch)
    assert main(["fit", "--resume", "./parts", "--trainer.max_steps", "25"]) == 2
    assert "go on from Python, with the same loaders" in capsys.readouterr().err
    done = zoo.fit(resume="parts", data=loaders(), max_steps=25, **quiet)
    assert _same("whole", "parts")
    assert done.metrics["validation/loss"] == zoo.Training("whole").metrics["validation/loss"]
    with pytest.raises(ConfigError, match="whose batches was 10, and it is 5 now"):
        zoo.fit(resume="parts", data=DataLoader(Points(), 20), max_steps=30, **quiet)


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        (X, 0), ((X, Y), 3), (X.numpy(), 0), ({"train": X, "validation": X[:20]}, 0), (TensorDataset(X, Y), 3),
        (Points(), 3), (DataLoader(TensorDataset(X, Y), 10), 3), (Module(), 0),
        (EightGaussians(batch_size=9, points=100), 8),
        ("moons", 2), ({"name": "moons", "points": 80}, 2),
    ],
)  # fmt: skip
def test_all_kinds_of_data(data: Any, classes: int) -> None:
    done = zoo.fit("tiny-points", data=data, max_steps=2, **QUIET)
    assert done.facts["step"] == 2 and done.folder.parts[:2] == ("runs", "tiny-points")
    assert done._data.num_classes == classes and done._data.shape == (2,)


PICTURES = torch.rand(10, 1, 8, 8)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (torch.rand(10, 8, 8), r"add the channel with x\[:, None\]"),
        (torch.rand(10, 8, 8, 3), "the channel comes first"),
        (PICTURES * 255, "divide by 255"), (PICTURES * 2 - 1, r"\(x \+ 1\) / 2"),
        (PICTURES / 0, "NaN or infinity"), ((X, Y[:5]), "give 200 integers"), ((X, Y.float()), "give 200 integers"),
        (7, "none of what is taken"), ("moon", "Did you mean 'moons'"), ({"train": X, "tst": X}, "by name are train"),
        (X[:2], "hold out|held out"),
        ([X, X, X], "none of what is taken"), (DataLoader(TensorDataset(X), 300, drop_last=True), "has no batch"),
    ],
)  # fmt: skip
def test_data_that_could_mean_something_else_are_refused(data: Any, sentence: str) -> None:
    with pytest.raises((DataError, ConfigError), match=sentence):
        zoo.fit("tiny-points", data=data, max_steps=2, run="run", **QUIET)
    assert not Path("run").exists()


def test_pictures_are_brought_to_their_levels(caplog: pytest.LogCaptureFixture) -> None:
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    for given in (levels.to(torch.uint8), levels / 255, (levels / 255).double()):
        kept, found = tensors.stored(given, None, "x")
        assert found == 256 and torch.equal(kept, levels.to(torch.uint8))
    assert tensors.stored(levels > 9, None, "x")[1] == tensors.stored((levels > 9).float(), None, "x")[1] == 2
    assert not caplog.records
    assert tensors.stored(PICTURES, None, "x")[1] == 256 and "rounded to 256 levels" in caplog.text
    assert tensors.stored(PICTURES, 0, "x")[1] is None and tensors.stored(Y[:, None], None, "x")[1] == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_stepz": 3}, "no option 'max_stepz'. Did you mean 'max_steps'"),
        ({"model": {"lrr": 1}}, r"unknown option --model.lrr\. Did you mean '--model.lr'"),
        ({"model": {"encoder": torch.nn.Linear(2, 2)}}, "is a Linear, which cannot be written"),
        ({"lr": 0.1}, r"Did you mean model=\{'lr': ...\}\?"), ({"datamodule": Module()}, r"Did you mean data=...\?"),
        ({"patience": 3}, r"Did you mean training=\{'patience'"), ({"val_dataloaders": X}, "this one as 'validation'"),
        ({"epochs": 3}, r"Did you mean max_epochs=...\?"), ({"trainer": 3}, "give the model to Trainer.fit"),
        ({"ckpt_path": "x"}, "Did you mean '--resume'"),
        ({"teacher": "vae-mnist"}, "takes no --teacher"), ({"logger": "wandbb"}, "Did you mean 'wandb'"),
        ({"logger": "mlflow"}, "needs the package mlflow, which is not installed"), ({"logger": 3}, "give a Lightning"),
        ({"data": DataLoader(TensorDataset(X)), "batch_size": 3}, "has a batch size of its own"),
    ],
)  # fmt: skip
def test_options_that_are_wrong_end_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(zoo.ZooError, match=sentence):
        zoo.fit("tiny-points", **{"max_steps": 2, "run": "run", **QUIET, **options})
    assert not Path("run").exists()
    with pytest.raises(UnknownModelError):
        zoo.fit("tinny")


class Mine(LikelihoodModel):
    """A Gaussian of learnt mean: a class of a user's own."""

    shape, levels = (2,), None

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.mean = torch.nn.Parameter(torch.zeros(2))

    def loss(self, batch: Any) -> dict[str, Tensor]:
        return {"loss": ((batch[0] - self.mean) ** 2).sum(1).mean()}

    def draw(self, n: int, generator: torch.Generator, labels: Any, **options: Any) -> Tensor:
        return self.mean + torch.randn(n, 2, generator=generator)


def test_a_model_of_ones_own_needs_no_registry() -> None:
    model = Mine()
    with pytest.raises(ConfigError, match="give data="):
        zoo.fit(model)
    with torch.no_grad():
        model.mean.fill_(5.0)
    entry, *_ = from_python._own(model, {"name": "moons", "limit": 8})
    assert entry is not None and entry.data["class_path"].startswith("zoo.data.toys.")
    with pytest.raises(ConfigError, match="options and no name"):
        zoo.fit(model, {"limit": 8})
    done = zoo.fit(model, X, max_steps=1, **QUIET)
    assert type(done.model) is Mine and 4 < float(done.model.mean.detach()[0]) < 5
    with pytest.raises(ConfigError, match="not on the allow-list"):  # which the folder does not widen
        load_run(done.folder)


class Plain(LightningModule):
    """No model of the zoo."""


def test_a_plain_module_is_refused_with_what_to_write(capsys: Capture) -> None:
    with pytest.raises(NotAGenerativeModelError, match=r"subclass zoo\.GenerativeModel.*\n\nclass Mine") as told:
        zoo.fit(Plain(), X)
    assert len(told.value.example.splitlines()) <= 12
    with pytest.raises(ConfigError, match=r"Mine is a class; give a model of it, Mine\(...\)"):
        zoo.fit(Mine, X)  # type: ignore[arg-type]
    entry = {"family": "vae", "model": {"class_path": f"{__name__}.Plain", "init_args": {}}, "data": tiny.VAE["data"]}
    Path("mine.yaml").write_text(json.dumps({"allow": [__name__], "models": {"plain-points": entry}}))
    assert main(["fit", "--registry", "mine.yaml", "--model", "plain", "--trainer.max_steps", "1"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "is no generative model of the zoo" in said[0] and "    def loss(self, batch):" in "\n".join(said)


def _stopped(folder: str) -> tuple[str, int]:
    class Send(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    try:
        zoo.fit("vae", data={"limit": 300, "batch_size": 4}, max_steps=50, run=folder, callbacks=Send(), **QUIET)
    except KeyboardInterrupt as stop:
        return str(stop), zoo.Training(folder).facts["step"]
    return "", 0


def test_an_interrupt_keeps_the_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, run_forked: Callable[..., Any]
) -> None:
    said, step = run_forked(_stopped, str(tmp_path / "run"))
    assert step == 4 and f"zoo.fit(resume='{tmp_path / 'run'}') goes on" in said


def _two(folder: str, rank: int, port: int) -> list[str]:
    """Two runs in one script, as one of two processes that torchrun started."""
    os.chdir(folder)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    options = {"accelerator": "cpu", "max_steps": 3, **QUIET}
    loader = DataLoader(TensorDataset(X), 10, shuffle=True)
    first = zoo.fit(Mine(), data=loader, run="first", **options)
    second = zoo.fit(Mine(), data=X, batch_size=10, **options)
    return [str(first.folder), str(second.folder), str(float(second.model.mean.detach()[0]))]


def test_several_processes_make_the_same_runs(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    from conftest import collect

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [run_forked(_two, str(tmp_path), rank, port, start=True) for rank in (0, 1)]
    first, second = (collect(*one) for one in started)
    assert first == second and first[0] == "first" and first[1].startswith("runs/mine")


# -- loggers -----------------------------------------------------------------------------------------------------------


class Board(Logger):
    """A logger that takes pictures, as that of Weights & Biases does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Any] = {"metrics": [], "images": [], "facts": {}}

    @property
    def name(self) -> str:
        return "board"

    @property
    def version(self) -> str:
        return "1"

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.seen["facts"].update(params)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.seen["metrics"].append((step, dict(metrics)))

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.seen["images"].append((key, Path(images[0]).is_file(), step))


def test_a_logger_gets_terms_pictures_configuration_and_cost() -> None:
    pictures = (torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    quiet = {**QUIET, "training": {**QUIET["training"], "sample_every": 2}}
    done = zoo.fit("vae", pictures, max_steps=3, batch_size=8, logger=(board := Board()), run="run", **quiet)
    rows = dict(board.seen["metrics"][:3])
    assert all("train/loss" in rows[step] for step in (1, 2, 3))
    assert board.seen["images"] == [("samples", True, 2), ("samples", True, 3)]
    assert board.seen["facts"]["trainer"]["max_steps"] == 3 and board.seen["facts"]["parameters"] > 0
    assert board.seen["metrics"][-1][1]["cost/training_tflop"] > 0
    done.evaluate(limit=4, samples=4, extractor="none", progress=False)
    assert board.seen["metrics"][-1][0] == 3 and "evaluation/bits_per_dim" in board.seen["metrics"][-1][1]
    assert (Path("run") / "metrics.csv").is_file()
    assert zoo.Training("run").facts["loggers"][0]["logger"].endswith("Board")


def test_pictures_go_to_the_loggers_that_take_some(tmp_path: Path) -> None:
    from zoo.callbacks.logged_pictures import send_picture
    from zoo.images import png_bytes

    (path := tmp_path / "samples.png").write_bytes(png_bytes(torch.rand(4, 1, 8, 8)))
    seen: list[Any] = []

    class Experiment:
        def add_image(self, name: str, pixels: Any, step: int, dataformats: str) -> None:
            seen.append((name, pixels.shape[2], step, dataformats))

        def log_image(self, *args: Any, **options: Any) -> None:
            seen.append(options)

    for kind, there in (("TensorBoardLogger", True), ("MLFlowLogger", True), ("CometLogger", True), ("CSV", False)):
        logger = type(kind, (), {"experiment": Experiment(), "run_id": "7"})()
        assert send_picture(logger, "samples", path, 5) == there
    assert seen == [
        ("samples", 3, 5, "HWC"), {"artifact_file": "samples/step-00000005.png"}, {"name": "samples", "step": 5}
    ]  # fmt: skip


def test_a_configuration_chooses_no_logger_that_speaks_to_servers(capsys: Capture) -> None:
    remote = {"class_path": "lightning.pytorch.loggers.MLFlowLogger"}
    Path("config.yaml").write_text(json.dumps({"name": "tiny-points", "trainer": {"logger": remote}}))
    assert main(["fit", "--config", "config.yaml", "--run", "run"]) == 2
    assert "not on the allow-list" in capsys.readouterr().err and not Path("run").exists()
    assert main(["fit", "tiny", "--logger.project", "x", "--run", "run"]) == 2
    assert "is for one logger" in capsys.readouterr().err
    assert main(["fit", "tiny", "--logger", "csv", "--logger.prefix", "p", "--trainer.max_steps", "2", "--run", "run",
                 *tiny.QUIET, "--training.log_every", "1"]) == 0  # fmt: skip
    assert "p-train/loss" in Path("run/csv/metrics.csv").read_text()


# -- a plain Trainer ---------------------------------------------------------------------------------------------------


def _plain(steps: int, **more: Any) -> Trainer:
    return Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1, **more,
    )  # fmt: skip


IGNORED = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore:.*isinstance.treespec.*")


@IGNORED
@pytest.mark.parametrize("name", ["tiny-points", "game-points"])
def test_models_train_and_go_on_under_a_plain_trainer(name: str) -> None:
    best = ModelCheckpoint("kept", every_n_train_steps=2, save_top_k=-1, filename="{step}")
    model, loader = zoo.create(name), DataLoader(TensorDataset(X, Y), 20)
    trainer = _plain(6, callbacks=[best])
    trainer.fit(model, loader, DataLoader(TensorDataset(X), 50))
    assert trainer.global_step == 6
    shown = trainer.callback_metrics
    assert torch.isfinite(shown["train/loss" if name == "tiny-points" else "train/critic_loss"])
    again = zoo.create(name)
    other = _plain(8)
    other.fit(again, loader, ckpt_path="kept/step=4.ckpt", weights_only=True)
    assert other.global_step == 8
    loaded = type(model).load_from_checkpoint(best.best_model_path)  # which says what it is built of
    assert loaded.spec == model.spec and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    trainer.validate(model, DataLoader(TensorDataset(X), 50), verbose=False)
    assert torch.isfinite(trainer.callback_metrics["validation/loss"])


@IGNORED
def test_a_plain_trainer_takes_the_zoos_data_and_any_batches(recwarn: pytest.WarningsRecorder) -> None:
    for data in (EightGaussians(batch_size=8, points=50), Module()):
        trainer = _plain(3, enable_checkpointing=False)
        trainer.fit(_vae(), datamodule=data)
        assert "train/loss" in trainer.callback_metrics
    assert not [w for w in recwarn if "in both" in str(w.message)]
    for batch, sentence in ((torch.rand(4, 3), "takes examples of shape"), ({"a": X}, "has the keys a")):
        with pytest.raises(DataError, match=sentence):
            _plain(1, enable_checkpointing=False).fit(_vae(), DataLoader([batch], None))
    mapping = {"image": np.asarray(X[:8]), "label": Y[:8]}
    _plain(1, enable_checkpointing=False).fit(_vae(), DataLoader([mapping], None))


def test_calling_a_model_says_what_to_call() -> None:
    for name in ("vae-mnist", "wgan_gp-mnist", "ddpm-mnist", "flow_matching-mnist", "vq_vae-mnist"):
        with pytest.raises(ConfigError, match=r"\(x\) has no meaning of its own; call one of its methods: loss"):
            zoo.create(name)(torch.rand(1, 1, 28, 28))


@pytest.mark.parametrize("name", ["gated_pixelcnn_cond-mnist", "image_gpt-mnist", "transformer-shakespeare"])
def test_calling_an_autoregressive_model_gives_its_logits(name: str) -> None:
    """Of examples in data range, and of their levels, the same."""
    model = zoo.create(name)
    levels = torch.arange(2 * model.length).reshape(2, *model.shape) % model.levels
    labels = torch.tensor([3, 1]) if model.num_classes else None
    with torch.no_grad():
        logits = model(levels / (model.levels - 1), labels)
        assert torch.equal(logits, model(levels, labels)) and logits.shape[-1] == model.levels
        form = model.shape if "pixelcnn" in name else (model.length,)
        assert logits.shape == (2, *form, model.levels)
    with pytest.raises(DataError, match=r"\(x\) takes examples of shape"):
        model(torch.rand(2, 3, 5))
    if model.num_classes:
        with pytest.raises(ConfigError, match="pass labels"):
            model(levels / (model.levels - 1))


def test_a_checkpoint_says_what_its_model_is_built_of_and_what_it_is_not() -> None:
    done = zoo.fit("tiny-points", max_steps=3, run="run", **QUIET)
    path = last_checkpoint(done.folder)
    loaded = VAE.load_from_checkpoint(path)  # the averaged weights, as of the folder
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), done.model.parameters(), strict=True))
    arguments = {name: loaded.__dict__["_arguments"][name] for name in ("encoder", "decoder", "likelihood")}
    again = VAE.load_from_checkpoint(str(path), shape=[2], latent_dim=2, **arguments)  # as Lightning has it
    assert torch.equal(next(again.parameters()), _weights(done.folder)[next(iter(again.state_dict()))])
    for options, error, sentence in (
        ({"weights_only": False}, ConfigError, "tensors and plain data only"),
        ({"strict": False}, ConfigError, "strict=False is for other arguments"),
        ({"checkpoint_path": "run/run.json"}, CheckpointError, "cannot be read as plain tensors"),
    ):  # fmt: skip
        with pytest.raises(error, match=sentence):
            VAE.load_from_checkpoint(**{"checkpoint_path": path, **options})
    with pytest.raises(ConfigError, match=r"is of a VAE, not of a Mine; load it by VAE\.load"):
        Mine.load_from_checkpoint(path)
    with pytest.raises(zoo.ZooError, match="is a checkpoint: a run is named by its folder"):
        zoo.load(str(path))


@IGNORED
@pytest.mark.slow
@pytest.mark.parametrize("name", warm.one_a_class(()))
def test_every_class_trains_under_a_plain_trainer(name: str) -> None:
    entry = load_registry().resolve(name)
    model, data = entry.build_model(), entry.build_data(batch_size=4)
    trainer = _plain(max(2, model.steps_to_move), limit_val_batches=1, enable_checkpointing=False)
    trainer.fit(model, datamodule=data)
    assert any(k.startswith("train/") and torch.isfinite(v) for k, v in trainer.callback_metrics.items())
