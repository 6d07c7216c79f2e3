"""The table of an experiment as it is written: a CSV, and a record of what went in beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusegpt.artifacts import file_record
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.provenance import provenance
from fusegpt.reports.collect import collect, evaluation_files
from fusegpt.reports.tables import write_csv
from fusegpt.results.base import check, write
from fusegpt.results.contents import Curves, parse_contents
from fusegpt.results.digests import read_whole
from fusegpt.results.files import Parent
from fusegpt.results.tables import Table
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["curves_of", "read_table_record", "write_table"]


def write_table(
    experiment: Mapping[str, Any],
    output: Path,
    *,
    results: str | Path = "results",
    missing: Mapping[Path, str] | None = None,
) -> Table:
    """Collect the results of an experiment into a CSV, with a record of what went in beside it.

    Args:
        experiment: What to collect, as the workflow describes it.
        output: The CSV to write; its record has the same name and ends in ``.json``.
        results: The folder of results.
        missing: Results that are left out, each with the reason.

    Returns:
        What the record says.

    Raises:
        ArtifactError: A result is missing or damaged, rows of one column do not compare, or
            nothing is left.
    """
    contents, gone = parse_contents(experiment), missing or {}
    files = [file for file in evaluation_files(contents, results) if file not in gone]
    if not files:
        raise ArtifactError(
            f"{contents.name}: must have one result at least, got none; measure something first"
        )
    with Timer() as timer:
        write_csv(output, collect(contents, results, gone))
    record = {
        "kind": "table",
        "experiment": experiment,
        **({"missing": {file.as_posix(): why for file, why in gone.items()}} if gone else {}),
        "files": {output.name: file_record(output)},
        "parents": [Parent.of(file, output.parent) for file in files],
        "seconds": round(timer.seconds, 3),
        "memory_gib": round(peak_memory_gib(), 3),
        "provenance": provenance(),
    }
    written = check(record, Table, output)
    write(output.with_suffix(".json"), written)
    return written


def read_table_record(csv: Path) -> Table | None:
    """Return the record beside a table; None without one, or where another file has its name.

    Raises:
        ArtifactError: It is damaged.
    """
    record = csv.with_suffix(".json")
    if not record.is_file():
        return None
    value = read_whole(record)
    foreign = isinstance(value, dict) and not {"experiment", "kind"} & value.keys()
    return None if foreign else check(value, Table, record)


def curves_of(record: Table | None, csv: Path) -> Curves:
    """Return the curves of a table, as the record beside it has them; none without a record.

    Raises:
        ArtifactError: The record does not say what the table shows.
    """
    try:
        return record.contents.curves if record else {}
    except ConfigError as error:
        raise ArtifactError(f"{csv.with_suffix('.json')}: {error}") from None
