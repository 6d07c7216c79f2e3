"""``fusegpt verify``: whether results still are what their records say."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import input_path


@click.command()
@click.argument("results", type=input_path)
def verify(results: Path) -> None:
    """Check every manifest below RESULTS: files, parents and inputs, by checksum."""
    from fusegpt.errors import ArtifactError, printable
    from fusegpt.workflow.verify import verify as check

    count, problems = check(results)
    for line in problems:
        click.echo(printable(line))
    if problems:
        raise ArtifactError(
            f"{results}: {len(problems)} problems in {count} records; delete what is wrong and"
            " run the workflow again"
        )
    click.echo(f"{results}: {count} records, everything as they say")
