"""One check, from a TOML file to a report. No weight is loaded and no device is needed."""

from __future__ import annotations

from pathlib import Path

from training.check.report import CheckReport
from training.config import TrainConfig
from training.configfile import read_config
from training.data import Row, read_rows
from training.errors import InvalidConfig, InvalidData


def check(path: Path) -> CheckReport:
    """What stands for and against the run in `path`. Mistakes in it are findings, never exceptions."""
    report = CheckReport()
    try:
        config = read_config(path)
    except InvalidConfig as error:
        report.add("error", "config", error.problems)
        return report
    _read(config, report)
    return report


def _read(config: TrainConfig, report: CheckReport) -> dict[str, list[Row]]:
    """The rows of each file that can be read, by `train` and `eval`."""
    found: dict[str, list[Row]] = {}
    for name, path in (("train", config.data.train), ("eval", config.data.eval)):
        try:
            found |= {name: read_rows(path)} if path else {}
        except InvalidData as error:
            report.add("error", "rows", (f"{error.path}: {problem}" for problem in error.problems))
    return found
