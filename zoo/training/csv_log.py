"""metrics.csv: one row a logging step, columns as they come, and a run that is resumed goes on in the same file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from zoo.errors import RunError

__all__ = ["CSVLog"]


class CSVLog(Logger):
    """Logger that appends to ``metrics.csv`` in a folder.

    Args:
        folder: the run folder.
        resume_step: drop rows after this step, which the resumed run will write again.
        validates_again: drop the validation at that step too.

    Raises:
        RunError: the file of a resumed run cannot be read.
    """

    def __init__(self, folder: str | Path, *, resume_step: int | None = None, validates_again: bool = False) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = ["step"]
        self._pending: list[dict[str, Any]] = []
        self._rewrite = True
        self._rows: list[dict[str, Any]] = []
        if resume_step is not None and self.path.is_file():
            try:
                with self.path.open(newline="", encoding="utf-8") as stream:
                    reader = csv.DictReader(stream)
                    self._columns = list(reader.fieldnames or ["step"])
                    rows = [r for r in reader if r["step"] and int(r["step"]) <= resume_step]
                again = [validates_again and int(r["step"]) == resume_step and _of_validation(r) for r in rows]
                self._rows = [r for r, twice in zip(rows, again, strict=True) if not twice]
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise RunError(
                    f"{self.path} cannot be read, so the run would lose its log; mend it, or move it away"
                ) from error

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> int:
        return 0

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        return self.save_dir

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing: the run folder's config.yaml has it all."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step, **{k: f"{float(v):.7g}" for k, v in metrics.items() if k != "epoch"}}
        new = [c for c in row if c not in self._columns]
        if new:
            self._columns += new
            self._rewrite = True
        self._pending.append(row)

    def save(self) -> None:
        """Bring the file up to date."""
        if rank_zero_only.rank != 0:
            return
        if not self._pending and not (self._rewrite and self._rows):
            return
        self._rows += self._pending
        if self._rewrite:
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            temporary.write_text(self._text(self._rows, header=True), encoding="utf-8")
            os.replace(temporary, self.path)
        else:
            with self.path.open("a", newline="", encoding="utf-8") as stream:
                stream.write(self._text(self._pending, header=False))
        self._pending, self._rewrite = [], False

    def finalize(self, status: str) -> None:
        self.save()

    def _text(self, rows: list[dict[str, Any]], *, header: bool) -> str:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue()


def _of_validation(row: Mapping[str, Any]) -> bool:
    return any(value for name, value in row.items() if str(name).startswith("validation/"))
