"""The handle on a training, as ``zoo.fit`` returns it: its folder, model, metrics, and what can be done next."""

from __future__ import annotations

import csv
import html
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import RunError, close_matches
from zoo.overlays import in_force

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.hub.upload import PushResult
    from zoo.model import GenerativeModel
    from zoo.results import Result

__all__ = ["MetricsTable", "Training"]

log = logging.getLogger("zoo")

_PICTURES = ("samples.png", "samples.gif", "features.png", "loss.png")
_SHOWN_ROWS = 20


class MetricsTable(Sequence[Mapping[str, float]]):
    """What a run logged: a row for each step at which something was, with only the columns that were.

    ``table["train/loss"]`` is a list of (step, value), ``table[0]`` a row, ``table.columns`` the names; in a notebook
    it shows itself as a table, and ``table.to_pandas()`` is a DataFrame where pandas is installed.
    """

    def __init__(self, rows: Sequence[Mapping[str, float]]) -> None:
        self.rows = [dict(row) for row in rows]
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))

    @classmethod
    def read(cls, path: Path) -> MetricsTable:
        """Read a metrics.csv. Raises `RunError` where it is none."""
        if not path.is_file():
            return cls([])
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                return cls(
                    [{k: float(v) for k, v in row.items() if v not in (None, "")} for row in csv.DictReader(stream)]
                )
        except (ValueError, TypeError, csv.Error) as error:
            raise RunError(f"{path} cannot be read: {error}") from error

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """Return the row of a number, or the (step, value) pairs of a column. Raises `KeyError`."""
        if not isinstance(key, str):
            return self.rows[key]
        if key not in self.columns:
            raise KeyError(f"no column {key!r}.{close_matches(key, self.columns)} There are: {', '.join(self.columns)}")
        return [(int(row["step"]), row[key]) for row in self.rows if key in row]

    def __iter__(self) -> Iterator[Mapping[str, float]]:
        return iter(self.rows)

    def last(self, column: str) -> float:
        """Return the last value of a column. Raises `KeyError`."""
        return float(self[column][-1][1])

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame, NaN where nothing was logged. Raises `RunError` without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise RunError("a DataFrame needs pandas, which is not installed; table.rows has the same") from error
        return pandas.DataFrame(self.rows, columns=self.columns)

    def _cells(self) -> list[list[str]]:
        return [[f"{row[c]:.5g}" if c in row else "" for c in self.columns] for row in self.rows[-_SHOWN_ROWS:]]

    def __repr__(self) -> str:
        cells = [self.columns, *self._cells()]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = ["  ".join(v.rjust(w) for v, w in zip(row, widths, strict=True)) for row in cells]
        return "\n".join([*lines, f"[{len(self.rows)} rows]"])

    def _repr_html_(self) -> str:
        head, *body = [
            "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in row)
            for tag, row in [("th", self.columns), *(("td", row) for row in self._cells())]
        ]
        rows = "".join(f"<tr>{row}</tr>" for row in body)
        return f"<table><tr>{head}</tr>{rows}</table><p>{len(self.rows)} rows</p>"


class Training:
    """A training that was run, or the run folder of one: ``zoo.Training("runs/vae-mnist/monday")``.

    Attributes:
        folder: the run folder, the same that ``zoo fit`` makes: every command takes it.

    Args:
        folder: of the run.
        allow: class paths of the user's own that its model may name.
        data: the data module, where its data are not on the disk.
        loggers: Lightning's, which get what `evaluate` measures.
        registry: further registry files, in force for what is done with the run.

    Raises:
        RunError: there is no run in the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        allow: Sequence[str] = (),
        data: Any = None,
        loggers: Sequence[Any] = (),
        registry: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.yaml").is_file():
            raise RunError(f"{folder} is not a run folder: it has no config.yaml; zoo.fit makes one")
        self._allow, self._data, self._loggers = tuple(allow), data, tuple(loggers)
        self._registry = tuple(os.path.abspath(file) for file in registry)
        self._model: GenerativeModel | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says now: name, status, step, cost, commands."""
        from zoo.runs import run_metadata

        return run_metadata(self.folder)

    @property
    def status(self) -> str:
        """``finished``, ``stopped early``, ``stopped``, ``diverged`` or ``running``."""
        return str(self.facts.get("status"))

    @property
    def model(self) -> GenerativeModel:
        """The model in eval mode, with its averaged weights, from the newest checkpoint; loaded once."""
        if self._model is None:
            from zoo.runs import load_run

            with in_force(*self._registry):
                self._model = load_run(self.folder, allow=self._allow)
        return self._model

    @property
    def metrics(self) -> MetricsTable:
        """All that was logged so far, from metrics.csv."""
        return MetricsTable.read(self.folder / "metrics.csv")

    def sample(self, n: int, **options: Any) -> Tensor:
        """Draw n examples, (n, *shape) in data range: `zoo.model.GenerativeModel.sample` of the model."""
        return self.model.sample(n, **options)

    def evaluate(self, data: Any = None, **options: Any) -> Result:
        """Measure the model on the test split of its data, and write eval.json to the folder; see `zoo.evaluate`.

        The loggers that the run was given from Python get the numbers too, as ``evaluation/fid`` and so on.
        """
        from zoo.api import evaluate

        options = {"out": self.folder, **options}
        data = self._data if data is None else data
        facts = self.facts
        with in_force(*self._registry):
            if self._allow:
                known = {"cost": facts.get("cost"), "ema": bool(facts.get("ema"))}
                result = evaluate(self.model, data or self._own_data(), **{**known, **options})
            else:
                result = evaluate(self._path(), data, **options)
        numbers = {f"evaluation/{name}": float(metric.value) for name, metric in result.metrics.items()}
        for logger in self._loggers:
            logger.log_metrics(numbers, step=facts.get("step"))
            logger.save()
        return result

    def push(self, repo_id: str, **options: Any) -> PushResult:
        """Publish the model on the Hub; see `zoo.push`."""
        from zoo.hub import push

        with in_force(*self._registry):
            return push(self.model if self._allow else self._path(), repo_id, **options)

    def show(self) -> None:
        """Show the samples and the loss curves: in a notebook below the cell, else in the system's viewer."""
        found = [self.folder / name for name in _PICTURES if (self.folder / name).is_file()]
        if not found:
            raise RunError(f"{self.folder} has no pictures yet; they come every --training.sample_every steps")
        if _in_notebook():
            import IPython.display

            shown: Any = IPython.display
            for path in found:
                shown.display(shown.Image(filename=str(path)))
            return
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.name == "nt"):
            log.warning("there is no screen to show pictures on; they are %s", ", ".join(map(str, found)))
            return
        from PIL import Image as Picture

        for path in found:
            with Picture.open(path) as picture:
                picture.show(title=path.name)

    def _own_data(self) -> Any:
        from zoo.spec import build

        return build(self.facts["data"])

    def _path(self) -> str:
        """Return the folder as a name that can mean nothing else."""
        path = str(self.folder)
        return path if os.path.isabs(path) else os.path.join(".", path)

    def __repr__(self) -> str:
        facts = self.facts
        return f"Training({str(self.folder)!r}: {facts.get('name')}, {facts.get('status')} at step {facts.get('step')})"


def _in_notebook() -> bool:
    """Tell whether a kernel runs this process."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
