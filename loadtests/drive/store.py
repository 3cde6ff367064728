"""Runs as files, from which everything can be measured again: JSON lines, or Parquet with pyarrow."""

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from loadtests.drive.records import MetricSample, Record, Run, Shift, UploadRecord
from loadtests.figures import LoadTestError, finite

SUFFIXES = (".jsonl", ".parquet")
_NAN_FIELDS = ("sent", "end", "load_seconds", "waited_seconds")
_HEAD = (
    "name",
    "target",
    "seed",
    "duration",
    "started_at",
    "weights",
    "cpu_seconds",
    "waited_seconds",
    "processes",
)


def save(run: Run, file: Path) -> None:
    """By the file's ending."""
    require_suffix(file)
    head = finite({name: getattr(run, name) for name in _HEAD})
    head["uploads"] = [finite(asdict(upload)) for upload in run.uploads]
    head["metrics"] = [asdict(sample) for sample in run.metrics]
    head["shifts"] = [asdict(shift) for shift in run.shifts]
    rows = map(_row, run.records)
    if file.suffix == ".parquet":
        _write_parquet(head, list(rows), file)
    else:
        file.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *rows)))


def load(file: Path) -> Run:
    """Raises LoadTestError for a file that holds no run."""
    require_suffix(file)
    try:
        head, rows = _read_parquet(file) if file.suffix == ".parquet" else _read_lines(file)
        uploads = [UploadRecord(**_with_nan(upload)) for upload in head.pop("uploads")]
        metrics = [MetricSample(m["at"], m["values"], tuple(m["resident"])) for m in head.pop("metrics")]
        shifts = [Shift(**shift) for shift in head.pop("shifts", [])]
        records = [_record(row) for row in rows]
        return Run(**_with_nan(head), records=records, uploads=uploads, metrics=metrics, shifts=shifts)
    except (ValueError, KeyError, TypeError) as error:
        raise LoadTestError(f"{file} holds no run: {error}") from error


def require_suffix(file: Path) -> None:
    if file.suffix not in SUFFIXES:
        raise LoadTestError(f"{file} must end in {' or '.join(SUFFIXES)}")


def _row(record: Record) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(Record)}
    return finite(values | {"times": list(record.times), "counts": list(record.counts)})  # type: ignore[no-any-return]


def _record(row: dict[str, Any]) -> Record:
    times, counts = array("d", row["times"]), array("I", row["counts"])
    return Record(**_with_nan(row) | {"times": times, "counts": counts})


def _with_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {k: float("nan") if v is None and k in _NAN_FIELDS else v for k, v in row.items()}


def _read_lines(file: Path) -> tuple[dict[str, Any], Iterable[dict[str, Any]]]:
    lines = iter(file.read_text().splitlines())
    return json.loads(next(lines, "null")) or {}, map(json.loads, lines)


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise LoadTestError("Parquet needs pyarrow: pip install 'lorikeet[loadtests]'") from error
    return pyarrow


def _write_parquet(head: dict[str, Any], rows: list[dict[str, Any]], file: Path) -> None:
    arrow = _arrow()
    table = arrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"lorikeet": json.dumps(head)})
    arrow.parquet.write_table(table, file)


def _read_parquet(file: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    table = _arrow().parquet.read_table(file)
    return json.loads((table.schema.metadata or {})[b"lorikeet"]), iter(table.to_pylist())
