"""Curves as a table that any program reads."""

from __future__ import annotations

import csv
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from simclr.system import distributed
from simclr.system.files import replacing


class CSVCurves(CSVLogger):
    """metrics.csv in `save_dir`, which Lightning's own logger empties at every start; this one goes on with it.

    purge_step: rows from this step on are dropped, for they are taken again.
    """

    def __init__(self, save_dir: str, purge_step: int = 0) -> None:
        super().__init__(save_dir, name="", version="")
        if distributed.rank() == 0:
            self._experiment = _GoingOn(self.log_dir, purge_step)


class _GoingOn(ExperimentWriter):
    def __init__(self, log_dir: str, purge_step: int) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if int(row["step"]) < purge_step]
            self.metrics_keys = list(reader.fieldnames or [])
        with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the table that is there."""
