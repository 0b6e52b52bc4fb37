"""Where a training writes what happened: CSV always, TensorBoard if asked."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masklet.structures.errors import UserError
from masklet.structures.files import replacing


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A table of `records`, a column per key in order of first appearance; the old file stays until it is complete."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    with replacing(path) as unfinished:
        unfinished.write_text(text.getvalue())


class StepLog:
    """One CSV row per optimizer step, flushed at once; rows after `step` are dropped, for a resumed run writes them."""

    def __init__(self, path: Path, step: int = 0):
        self.columns: list[str] = []
        kept: list[dict[str, str]] = []
        if step and path.exists():
            with open(path, newline="") as f:
                kept = [row for row in csv.DictReader(f) if (row["step"] or "x").isdigit() and int(row["step"]) <= step]
        if kept:
            write_csv(path, kept)
            self.columns = list(kept[0])
        self.file = open(path, "a" if kept else "w", newline="")  # noqa: SIM115  closed by close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a row; the first one fixes the columns."""
        if not self.columns:
            self.columns = list(record)
            self.file.write(",".join(self.columns) + "\n")
        self.file.write(",".join(str(record.get(c, "")) for c in self.columns) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


class TensorBoard:
    """The same numbers for TensorBoard, which is imported only here."""

    def __init__(self, folder: Path, step: int = 0):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as e:
            raise UserError("TensorBoard is not installed", hint="pip install masklet[train]") from e
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, record: Mapping[str, Any], step: int, prefix: str) -> None:
        """One point per number."""
        for name, value in record.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"{prefix}/{name}", value, step)

    def close(self) -> None:
        """Writes what is pending."""
        self.writer.close()
