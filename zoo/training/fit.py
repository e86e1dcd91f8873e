"""One training run: from a registry entry and what the user typed to a run folder."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo.callbacks.ema import EMA
from zoo.callbacks.pictures import Pictures, plot_losses
from zoo.classes import names_for
from zoo.data.base import TensorData, derive_seed
from zoo.errors import CheckpointError, ConfigError, DivergedError, RunError, ZooError
from zoo.files import make_folders, remove_made
from zoo.model import GenerativeModel
from zoo.runs import MALFORMED, fill, last_checkpoint, read_model_checkpoint, run_metadata
from zoo.training.allocator import keep_freed_memory
from zoo.training.checkpoint_io import AtomicCheckpointIO, full_disk, write_atomic
from zoo.training.checkpoints import Checkpoints
from zoo.training.classes_of_data import check_classes
from zoo.training.cli import EntryCLI
from zoo.training.compiling import compiled
from zoo.training.compute import flops_per_step, parameter_count
from zoo.training.csv_log import CSVLog
from zoo.training.devices import (
    choose_strategy,
    environments,
    first_process,
    hide_absent_gpus,
    lost_process,
    new_folder,
    on_gpu,
    processes,
)
from zoo.training.divergence import SkipsUpdates, check_divergence, gone_back
from zoo.training.engine import Engine, MetricsLog, Stopped
from zoo.training.estimate import estimate
from zoo.training.fine_tuning import check_resumed, factors, recorded, set_rates, take_weights
from zoo.training.gan_monitor import monitors_for
from zoo.training.history import configuration, history, of_another_model
from zoo.training.hooks import Hooks, NoProfiler
from zoo.training.loggers import LogsHyperparameters, check_installed, chosen, closed, described, logged_before, taken
from zoo.training.loop import run_lean
from zoo.training.monitored import check_monitored, first_validation, monitored, tell_unseen, tell_unwritten, terms_of
from zoo.training.option_limits import (
    check_numbers,
    check_optimizers,
    check_processes,
    check_validation,
    refused_by_lightning,
)
from zoo.training.patience import check_not_over, early_stopping, why_early
from zoo.training.report import CostReport, StepBar
from zoo.training.settings import parse_budget
from zoo.training.stored_examples import can_store, encoding_flops, stand_in, store
from zoo.training.trainer_options import brought_in, check_callbacks, check_options

log = logging.getLogger("zoo.training")

__all__ = ["Run", "Stopped", "fit", "validate"]

_RESTORED = {
    "loops": dict, "optimizer_states": list, "lr_schedulers": list, "zoo_batches": int, "pytorch-lightning_version": str
}  # fmt: skip
"""What a training goes on with, beside weights and facts."""


class Run:
    """Everything that one training needs, built and checked, before the first step.

    Attributes:
        announce: called once the run folder is there, before the first step.
        taken_over: what of the weights of ``init_from`` was taken, in words; empty without.
        opened: the loggers beside the run's own, once it has started.
        stopped_because: why the training ended before its planned steps, once it has; None where it did not.
        from_step: the step that it goes on from; None for a new run.
        ranks: whose noise this process draws; setting it to (0, 1) makes one process draw what two would.

    Args:
        entry: the registry entry as plain data: name, model, data, trainer, training; registry, if there is one, says
            from which files it is (`zoo.overlays.record`), and own_data that its model is written for these data.
        args: what the user typed after the command.
        allow: class-path prefixes that the user's own overlay allows.
        folder: the run folder, or None for a new one under ``runs``.
        resume: continue in ``folder``.
        init_from: a model whose weights to start from.
        parts: trained models whose weights go into the parts of the model with these names, such as ``autoencoder``.
        earlier: TFLOP of the trainings that made them, by name, None where that is not known.
        callbacks: Lightning's, from Python, beside those of the arguments.
        logger: from Python: what `zoo.training.loggers.taken` takes.
        objects: arguments of Lightning's Trainer that are objects, from Python.
        command: what started the run, for run.json; the command line by default.
    """

    def __init__(
        self,
        entry: Mapping[str, Any],
        args: Sequence[str] = (),
        *,
        allow: Sequence[str] = (),
        folder: str | Path | None = None,
        resume: bool = False,
        init_from: GenerativeModel | None = None,
        parts: Mapping[str, GenerativeModel] | None = None,
        earlier: Mapping[str, float | None] | None = None,
        callbacks: Sequence[Any] = (),
        logger: Any = None,
        objects: Mapping[str, Any] | None = None,
        command: str | None = None,
    ) -> None:
        quiet_lightning()
        hide_absent_gpus()
        torch.manual_seed(derive_seed(0))
        self.asked, args = taken(args, logger)
        self.typed = tuple(args)
        for kind in self.asked.kinds:
            check_installed(kind)
        self.cli = EntryCLI(entry, args, allow, tuple(parts or ()))
        self.settings = self.cli.settings()
        self.given_callbacks = list(callbacks)
        self.objects = dict(objects or {})
        self.command = command or shlex.join(["zoo", *sys.argv[1:]])
        self.name = self.cli.config["name"]
        self.registry = list(entry.get("registry") or [])
        self.earlier = dict(earlier or {})
        self.taken_over = ""
        self.started: dict[str, Any] | None = None
        self.model, self.data = self._build(init_from, parts or {})
        self._set_rates(folder if resume else None)
        self.arguments = {**self.cli.trainer_arguments(), **(objects or {})}
        check_options(self.arguments)
        check_numbers(self.arguments)
        self.settings = replace(self.settings, log_every=brought_in(self.arguments, self.settings.log_every))
        self.arguments["callbacks"] += self.given_callbacks
        check_callbacks(self.arguments["callbacks"])
        self.world, self.local = processes(self.arguments)
        check_processes(self.arguments, self.local, on_gpu(self.arguments))
        check_optimizers(self.model)
        check_divergence(self.settings, self.world)
        choose_strategy(self.arguments, self.model, self.world, self.settings.timeout)
        self._manual_options()
        self._process()
        self.checkpoint = last_checkpoint(folder) if resume and folder is not None else None
        self.stores, self.upfront = False, 0.0
        self._count()
        self.resume = resume
        self.folder = Path(folder) if folder is not None else None
        self.ranks: tuple[int, ...] | None = None
        self.announce: Callable[[], None] | None = None
        self.engine: Engine | None = None
        self.from_step: int | None = None
        self.validates_again = False
        self.stopped_because: str | None = None
        self.opened: list[Any] = []
        self.entry, self.allow = entry, tuple(allow)
        self.went_back: list[dict[str, Any]] = []

    def _build(
        self, init_from: GenerativeModel | None, parts: Mapping[str, GenerativeModel]
    ) -> tuple[GenerativeModel, TensorData]:
        # the weights' initialisation is a function of the seed alone, whatever was drawn while parsing
        torch.manual_seed(derive_seed(self.settings.seed, 0))
        model, data = self.cli.parser.instantiate_classes(self.cli.config).model, self.cli.datamodule
        model.accepts(data.shape, data.levels)
        check_classes(model, data, self.cli.entry["model"], self.name)
        model.class_names = names_for(model.num_classes, data.class_names)
        if init_from is not None:
            taken = take_weights(init_from, model)
            self.started, self.taken_over = taken.facts(), str(taken)
        for name, part in parts.items():
            _copy_weights(part, getattr(model, name), f"--{name}")
        if parts:
            model.adopt()
        data.on_gpu = self.settings.data_on_gpu
        if self.settings.channels_last:
            model.to(memory_format=torch.channels_last)
        return model, data

    def _set_rates(self, resumed: str | Path | None) -> None:
        """Freeze and slow down what is to be; which weights came from elsewhere, the checkpoint of the run knows."""
        if resumed is not None and self.settings.old_rate != 1:
            self.started = read_model_checkpoint(last_checkpoint(resumed))["zoo"].get("init_from")
        set_rates(self.model, factors(self.model, self.settings, recorded(self.started)))

    def _manual_options(self) -> None:
        """Move clipping and accumulation of manually optimised families from the Trainer to the model."""
        self.accumulate = self.arguments.get("accumulate_grad_batches") or 1
        if self.model.automatic_optimization:
            return
        self.model.accumulate = self.accumulate
        self.arguments["accumulate_grad_batches"] = 1
        if self.arguments.get("gradient_clip_val") is not None:
            if self.arguments.get("gradient_clip_algorithm") not in (None, "norm"):
                raise ConfigError(f"{type(self.model).__name__} is clipped by norm only; drop gradient_clip_algorithm")
            self.model.gradient_clip = float(self.arguments["gradient_clip_val"])
            self.arguments["gradient_clip_val"] = None

    def _process(self) -> None:
        """Set what belongs to the process: compute threads and the allocator."""
        keep_freed_memory()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = max(1, cores // self.local) if self.local > 1 else None
        if self.settings.threads or share:
            torch.set_num_threads(self.settings.threads or share or 1)

    def _count(self) -> None:
        """Count operations and plan the steps; where each example is read more than once, it is encoded once."""
        flops, extra = flops_per_step(self.model, self._batch())
        self.flops, self.extra = flops * self.world * self.accumulate, extra * self.world
        self.total = self._planned_steps()
        read = self.total * self.data.batch_size * self.world * self.accumulate
        if not self.stores and can_store(self.model, self.data) and read > len(self.data.split("train")[0]):
            self.stores, self.upfront = True, encoding_flops(self.model, self.data) * self.world
            with stand_in(self.model, self.data):
                self._count()

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch as the model gets it. Raises `DataError` where its labels are not what the model is told."""
        x, labels = self.data.batch()
        self.model.accepts_condition(labels)
        return x.long() if self.data.stored else self.data.to_float(x, self.model.dtype), labels

    def _planned_steps(self) -> int:
        steps = self.arguments.get("max_steps", -1)
        epochs = self.arguments.get("max_epochs")
        limits = [steps] if steps is not None and steps >= 0 else []
        if epochs is not None and epochs >= 0:
            limits.append(epochs * math.ceil(self._batches_an_epoch() / self.accumulate))
        if self.settings.budget is not None:
            left, first = parse_budget(self.settings.budget) - self.upfront, self.model.first_steps
            whole = int((left - self.extra * first) / self.flops)
            limits.append(max(1, whole if whole >= first else int(left / (self.flops + self.extra))))
        if not limits:
            raise ConfigError(
                "how long to train is not set; give --trainer.max_steps, --trainer.max_epochs or --budget"
            )
        if min(limits) < 1 or not self._batches_an_epoch():
            raise ConfigError(
                "nothing would be trained: --trainer.max_steps, --trainer.max_epochs and --trainer.limit_train_batches "
                "must leave at least one step"
            )
        check_validation(self.arguments, self._batches_an_epoch())
        return min(limits)

    def _batches_an_epoch(self) -> int:
        """Return how many batches of a rank an epoch has, within the limits that Lightning's Trainer is given."""
        batches = self.data.batches(self.world)
        for name in ("limit_train_batches", "overfit_batches"):
            limit = self.arguments.get(name)
            if limit is None or (name == "overfit_batches" and not limit):  # 0 of those is none
                continue
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return batches

    @property
    def stopping(self) -> str | None:
        """The signal that has ended the training, or is about to; None without one."""
        return self.engine.received if self.engine is not None else None

    def spent(self, steps: int) -> float:
        """Return the operations of so many steps from the start."""
        return self.upfront + self.flops * steps + self.extra * min(steps, self.model.first_steps)

    def estimate(self) -> dict[str, Any]:
        """Return what the run will cost: TFLOP, parameters, checkpoint size, and time from a few measured steps."""
        with stand_in(self.model, self.data) if self.stores else contextlib.nullcontext():
            return estimate(self)

    def metadata(self) -> dict[str, Any]:
        """Return the plain data by which the run is known later."""
        return {
            "name": self.name,
            "spec": self.model.spec,
            "data": self.data_spec(),
            "steps": self.total,
            **({"class_names": list(self.model.class_names)} if self.model.class_names else {}),
            **({"init_from": self.started} if self.started else {}),
            **({"rate_factors": self.model.rate_factors} if self.model.rate_factors else {}),
        }

    def data_spec(self) -> dict[str, Any]:
        """Return class path and arguments of the data module."""
        config = self.cli.config["data"].as_dict()
        kept = self.data.kept_in(self.folder) if self.folder is not None else {}
        return {"class_path": config["class_path"], "init_args": {**(config.get("init_args") or {}), **kept}}

    def configuration(self) -> str:
        """Return the whole configuration as YAML, with the data as they are found again."""
        return self.cli.dump(self.data_spec()["init_args"])

    def callbacks(self) -> list[Any]:
        """Return the engine's callbacks in the order in which they must run."""
        assert self.folder is not None
        self.engine = engine = Engine(self.settings, self.total, self.ranks)
        metadata = self.metadata()
        run = {**metadata, **self._came_by(), "parameters": parameter_count(self.model), "ema": self.settings.ema,
               "planned_tflop": self.spent(self.total) / 1e12}  # fmt: skip
        if self.went_back:
            engine.past = self.went_back[-1]["past_batches"]
        skips = self.settings.on_divergence == "skip"
        validates = self.arguments.get("limit_val_batches") is None or bool(self.arguments["limit_val_batches"])
        watched = self._watched(validates)
        metrics = MetricsLog(self.settings.log_every, lenient=skips, watched=watched)
        patience = early_stopping(self.settings, self.model, metrics, validates)
        self.report = CostReport(self.folder, run, self.spent, self.earlier, self.total)
        ema = EMA(self.settings.ema, self.settings.ema_every) if self.settings.ema is not None else None
        return [
            engine,
            *([SkipsUpdates(self.settings.log_every, self.report.metadata)] if skips else []),
            *([ema] if ema is not None else []),
            metrics,
            *([StepBar(self.total, metrics)] if self._wants_bar() else []),
            *patience,
            self.report,
            # what is trained is safe before anything is drawn from it
            Checkpoints(self.folder, engine, every=self.settings.checkpoint_every, metadata=metadata),
            Pictures(self.folder, every=self.settings.sample_every, ema=ema, bar=self._wants_bar()),
            *monitors_for(self.model, self.data, self.settings.sample_every, ema, metrics),
        ]

    def _watched(self, validates: bool) -> bool:
        """Hold what early stopping and checkpoints watch against what the run logs; tell whether somebody looks at it.

        Raises:
            ConfigError: what is watched will not be logged, or there is no validation.
        """
        theirs = self.arguments["callbacks"]
        watched = monitored(self.settings, theirs)
        if watched:
            terms = terms_of(self.model, self._batch(), self.total)
            check_monitored(watched, terms, self.model, theirs, validates=validates)
            first = first_validation(self.arguments, self._batches_an_epoch(), self.accumulate)
            tell_unseen(watched, first, self.total)
        return bool(watched or theirs)

    def _wants_bar(self) -> bool:
        """Tell whether the run shows its own bar: unless it was told not to, or a callback is one."""
        others = any(isinstance(c, ProgressBar) for c in self.arguments["callbacks"])
        return self.arguments.get("enable_progress_bar") is not False and not others

    def _came_by(self) -> dict[str, Any]:
        """Return what run.json says of how the run came to where it is, and which callbacks no command can give it."""
        before = self.folder if self.resume else None
        found = history(before, self.command, self.from_step or 0, self.configuration(), self.went_back)
        if self.resume and not self.registry:
            with contextlib.suppress(RunError):
                self.registry = run_metadata(self.folder).get("registry", [])
        given = {**self.objects, **({"callbacks": self.given_callbacks} if self.given_callbacks else {})}
        if self.resume and not given:
            with contextlib.suppress(RunError):
                self._tell_left_out(run_metadata(self.folder).get("from_python"))
        return {
            **({"registry": self.registry} if self.registry else {}), **found,
            **({"from_python": {k: _kind(v) for k, v in given.items()}} if given else {}),
        }  # fmt: skip

    @staticmethod
    def _tell_left_out(before: Any) -> None:
        """Say which objects a run had that it goes on without."""
        if isinstance(before, dict) and before:
            names = ", ".join(str(n) for v in before.values() for n in (v if isinstance(v, list) else [v]))[:300]
            log.warning("the run had from Python what no command can give it, and goes on without: %s", names)

    def loggers(self) -> list[Any]:
        """Return the run's own log, first, and the loggers that were asked for. Raises `ConfigError`."""
        assert self.folder is not None
        before = logged_before(self.folder) if self.resume else {}
        own = CSVLog(self.folder, resume_step=self.from_step, validates_again=self.validates_again)
        return [own, *chosen(self.asked, self.arguments.get("logger"), self.folder, self.name, before)]

    def trainer(self, callbacks: Sequence[Any], loggers: Any) -> Trainer:
        """Return Lightning's trainer for this run."""
        arguments = {**self.arguments, "max_steps": self.total, "max_epochs": -1, "logger": loggers}
        theirs = self.arguments["callbacks"]
        for one in theirs:
            if isinstance(one, ModelCheckpoint) and one.dirpath is None and self.folder is not None:
                one.dirpath = str(self.folder / "model_checkpoint")
            unset = isinstance(one, EarlyStopping) and one._check_on_train_epoch_end is None
            if unset and one.monitor.startswith("validation/"):
                one._check_on_train_epoch_end = False  # an epoch that the run ends in has no validation to look at
        arguments["callbacks"] = [Hooks(callbacks), *theirs]
        arguments["profiler"] = self._profiler() or NoProfiler()
        arguments["enable_progress_bar"] = any(isinstance(c, ProgressBar) for c in theirs)  # the run has its own
        arguments["enable_checkpointing"] = True
        arguments["plugins"] = [AtomicCheckpointIO(), *environments(), *self.arguments["plugins"]]
        arguments["default_root_dir"] = str(self.folder) if self.folder else None
        return self.new_trainer(arguments)

    def _profiler(self) -> Any:
        """Return the profiler that was asked for; one by its name writes to the run folder."""
        asked = self.arguments.get("profiler")
        kinds: dict[str, Any] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
        return kinds[asked](dirpath=self.folder, filename="profile") if asked in kinds else asked

    @staticmethod
    def new_trainer(arguments: Mapping[str, Any]) -> Trainer:
        """Build Lightning's trainer. Raises `ConfigError` where it refuses its arguments."""
        try:
            return run_lean(Trainer(**arguments))
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise ConfigError(f"the trainer refuses its arguments: {' '.join(str(error).split())}") from error

    def start(self) -> Path:
        """Train, and return the run folder; where the run diverges and is to go back, go on from there.

        Raises:
            DivergedError: a loss, or weights, are not finite, and the run is to stop, or has gone back too often.
            Exception: what `_started` raises.
        """
        try:
            return self._started()
        except DivergedError as error:
            again = gone_back(self, error)
        vars(self).update(vars(again))
        return self.start()

    def _started(self) -> Path:
        """Train, and return the run folder.

        Raises:
            Stopped: after a signal, with the checkpoint written; before the first step with nothing written.
            RunError: the run is finished already, or another of its processes is gone.
            CheckpointError: a checkpoint could not be written.
            ConfigError: Lightning refused an option as the training began; the run folder is removed again.
        """
        if self.arguments.get("limit_test_batches") is not None:
            raise ConfigError("--trainer.limit_test_batches is for zoo test: training tests nothing; leave it out")
        self.folder = self.folder or new_folder(self.name)
        step = self.from_step = self._saved_step()
        if self.settings.old_rate != 1 and self.started is None:
            raise ConfigError("--training.old_rate is for the weights that --init_from brings; give --init_from too")
        if step is not None and step >= self.total:
            made = f"{step} of {self.total} steps" if step == self.total else f"{step} steps, of {self.total} asked for"
            raise RunError(f"{self.folder} is finished: {made}; give more --trainer.max_steps to go on")
        if self.settings.compile:
            for network in self.model.compilable():
                compiled(network, self.settings.compile_mode)
        made, loggers, trainer = self._prepared()
        try:
            with self._listening(trainer):
                self._train(trainer)
        except BaseException as error:
            for logger in loggers:
                with contextlib.suppress(OSError):  # the first error is the one to see
                    logger.save()
            self.opened = closed(self.opened, self.asked, self.folder, self.name)
            kept = self._kept(trainer)
            if not kept and not isinstance(error, DivergedError):
                remove_made(made, content=True)
            if isinstance(error, Stopped):
                error.kept = any((self.folder / "checkpoints").glob("*.ckpt"))
            if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):  # Lightning's way
                raise KeyboardInterrupt from None
            explained = self._explained(error, trainer) if isinstance(error, Exception) else None
            if explained is None:
                raise
            raise explained from error
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):  # whose processes had the loggers
            self.stopped_because = run_metadata(self.folder).get("reason")
            return self.folder
        for logger in loggers:
            logger.save()
        self.opened = closed(self.opened, self.asked, self.folder, self.name)
        tell_unwritten(self.arguments["callbacks"], trainer.callback_metrics)
        if not self._kept(trainer):
            remove_made(made, content=True)
            raise ConfigError(f"nothing was trained: {why_early(trainer, self.total)}; leave at least one step")
        self.stopped_because = self.report.stopped_because
        return self.folder

    def _listening(self, trainer: Trainer) -> contextlib.AbstractContextManager[None]:
        """Return what takes signals over while the training lasts, where it is this process that trains."""
        if self.engine is None or isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            return contextlib.nullcontext()
        return self.engine.listening(self.from_step or 0)

    def _kept(self, trainer: Trainer) -> bool:
        """Tell whether anything was trained, by this process or by those that it has started."""
        assert self.folder is not None
        if trainer.global_step or any((self.folder / "checkpoints").glob("*.ckpt")):
            return True
        try:
            return bool(run_metadata(self.folder).get("step"))
        except RunError:
            return False

    def _train(self, trainer: Trainer) -> None:
        """Write what a run is known by, and train."""
        assert self.folder is not None
        if first_process():  # nothing is left behind by what was refused before here
            self.data.write(self.folder)
            write_atomic(self.folder / "config.yaml", self.configuration().encode())
            if self.announce is not None:
                self.announce()
        if self.stores:
            store(self.model, self.data, self.folder, write=first_process())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
            trainer.fit(
                self.model,
                datamodule=self.data,
                ckpt_path=str(self.checkpoint) if self.checkpoint else None,
                weights_only=True,
            )

    def _prepared(self) -> tuple[list[Path], list[Any], Trainer]:
        """Return the folders that were made, the loggers, some of which write as they are built, and the trainer.

        Raises:
            RunError: the run folder exists already.
            ConfigError: what `loggers` and `trainer` raise; no folder is left then.
        """
        assert self.folder is not None
        if first_process() and self.folder.exists() and not self.resume:
            raise RunError(f"the folder {self.folder} exists already; name a new one, or resume the run in it")
        made = make_folders(self.folder) if first_process() else []
        try:
            loggers = self.loggers()
            self.opened = loggers[1:]
            return made, loggers, self.trainer([*self.callbacks(), *self._facts(loggers)], loggers)
        except BaseException:
            remove_made(made, content=True)
            raise

    def _facts(self, loggers: Sequence[Any]) -> list[Any]:
        """Return what tells other loggers than the run's own of its configuration and cost; nothing without any."""
        others = list(loggers[1:])
        if not others:
            return []
        self.report.metadata["loggers"] = described(others)
        hyperparameters = {**configuration(self.configuration()), "parameters": parameter_count(self.model)}
        return [LogsHyperparameters(hyperparameters, self.report, own=loggers[:1])]

    def _explained(self, error: Exception, trainer: Trainer) -> ZooError | None:
        """Return what to tell the user of an error in the training, None where it is told already, or a fault."""
        assert self.folder is not None
        if isinstance(error, DivergedError):
            return self._diverged(error)
        if isinstance(error, ZooError):
            return None
        explained = lost_process(error, self.world, self.folder) or full_disk(error, self.folder)
        if explained is not None:
            return explained
        if isinstance(error, MALFORMED) and trainer._checkpoint_connector._loaded_checkpoint:
            return CheckpointError(  # it was still being restored
                f"checkpoint {self.checkpoint} does not fit the run in {self.folder}, it was edited or is "
                f"damaged: {' '.join(str(error).split())[:200] or type(error).__name__}"
            )
        return refused_by_lightning(error)

    def _diverged(self, error: DivergedError) -> DivergedError:
        """Return the error with what is left and what to try."""
        plot_losses(self.folder / "metrics.csv", self.folder / "loss.png")
        try:
            kept = f"the last good checkpoint is {last_checkpoint(self.folder)}"
        except RunError:
            kept = "there was no checkpoint yet (--training.checkpoint_every)"
        others = " or ".join(way for way in ("skip", "back") if way != self.settings.on_divergence)
        return DivergedError(
            f"{error}; {kept}; try a lower --model.lr, --training.warmup, --trainer.gradient_clip_val 1, or "
            f"--training.on_divergence {others}"
        )

    def _saved_step(self) -> int | None:
        """Return the step of the checkpoint to go on from, which must fit the model. Raises `CheckpointError`."""
        if self.checkpoint is None:
            return None
        content = read_model_checkpoint(self.checkpoint)
        try:
            fill(self.model, content["state_dict"], self.checkpoint)
        except CheckpointError as error:
            raise of_another_model(self.typed, error) from error
        if "step" not in content["zoo"]:
            raise CheckpointError(f"checkpoint {self.checkpoint} does not say after which step it was written")
        check_resumed(content["zoo"].get("rate_factors"), self.model.rate_factors)
        check_not_over(self.folder, content, self.settings)
        self.started = content["zoo"].get("init_from")
        for part, kind in _RESTORED.items():  # what is missing would be begun anew without a word
            if not isinstance(content.get(part), kind):
                raise CheckpointError(f"checkpoint {self.checkpoint} has no {part}, so no training can go on from it")
        self.validates_again = bool(content["zoo"].get("validates"))
        return content["zoo"]["step"]


def fit(entry: Mapping[str, Any], args: Sequence[str] = (), **options: Any) -> Path:
    """Train a registry entry and return the run folder; options as in `Run`."""
    return Run(entry, args, **options).start()


def _kind(value: Any) -> Any:
    """Return what run.json says of an object: its class."""
    if isinstance(value, (list, tuple)):
        return [_kind(v) for v in value]
    return f"{type(value).__module__}.{type(value).__qualname__}"


def validate(run: Run, model: GenerativeModel, split: str) -> dict[str, float]:
    """Return the means of the model's loss terms over the validation or test split."""
    log = MetricsLog()
    arguments = {**run.arguments, "logger": False, "callbacks": [log], "enable_checkpointing": False}
    arguments.update(max_epochs=1, max_steps=-1, enable_progress_bar=False)
    trainer = Trainer(**arguments)
    model.set_noise([torch.Generator(device=model.device).manual_seed(derive_seed(run.settings.seed))])
    model.driven = True
    try:
        (trainer.validate if split == "validation" else trainer.test)(model, datamodule=run.data, verbose=False)
    finally:
        model.driven = False
    return log.last


def quiet_lightning() -> None:
    """Silence Lightning's banners and tips: what a user must know, the zoo says itself."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def _copy_weights(source: GenerativeModel, target: GenerativeModel, option: str) -> None:
    """Copy all weights; of what only training needs, and the target makes for itself, those that fit."""
    state, own = source.state_dict(), target.state_dict()
    handed_over = tuple(f"{name}." for name in type(target).trained_parts)
    made = {k for k in target.state_of_training() if not k.startswith(handed_over)}
    fits = {k for k in own if k in state and state[k].shape == own[k].shape}
    wrong = [k for k in own if k not in fits | made] + [k for k in state if k not in own]
    if wrong:
        raise ConfigError(
            f"{option}: the weights do not fit the model, first at {wrong[0]!r}; give the same architecture"
        )
    target.load_state_dict({**own, **{k: state[k] for k in fits}})
