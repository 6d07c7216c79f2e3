"""``fusegpt verify``: whether results still are what their records say."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import input_path


@click.command()
@click.argument("results", type=input_path)
def verify(results: Path) -> None:
    """Check every record and file below RESULTS by checksum.

    So are the files that a record lists, and those that it follows from.

    Exit code 2: something is not what was written. Nothing is changed.
    """
    from fusegpt.errors import ArtifactError, printable
    from fusegpt.workflow.verify import verify as check

    found = check(results)
    for line in found.problems:
        click.echo(printable(line))
    for paths, what in (
        (found.unknown, "no digest recorded, as before version 0.2, so taken as they are"),
        (found.leftovers, "half-written by jobs that run or were killed; fusegpt gc removes them"),
    ):
        if paths:
            click.echo(printable(f"{results}: {len(paths)} files, {paths[0]} first: {what}"))
    if found.problems:
        raise ArtifactError(
            f"{results}: {len(found.problems)} problems in {found.records} records and"
            f" {found.files} files; delete what is wrong and run the workflow again"
        )
    click.echo(
        f"{results}: {found.records} records, everything as they say; {found.files} other files"
    )
