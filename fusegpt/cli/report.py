"""``fusegpt report``: tables and what their runs left behind as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import input_file, output_path, results_option

__all__ = ["report"]


@click.command()
@click.option(
    "--table",
    "tables",
    type=input_file,
    required=True,
    multiple=True,
    help="CSVs of fusegpt table.",
)
@click.option(
    "--figure",
    "figures",
    type=input_file,
    multiple=True,
    help="Figures of the tables, in their order.",
)
@click.option(
    "--published",
    type=input_file,
    multiple=True,
    help="Published values to stand beside ours; those of the package when not given.",
)
@results_option
@click.option("--output", type=output_path, required=True, help="The HTML file to write.")
def report(
    tables: tuple[Path, ...],
    figures: tuple[Path, ...],
    published: tuple[Path, ...],
    results: Path,
    output: Path,
) -> None:
    """Write one self-contained page of what was measured.

    Tables, charts, what was removed, and how tuning went.
    """
    if figures and len(figures) != len(tables):
        raise click.UsageError(
            f"--figure must be given once per --table, got {len(figures)} and {len(tables)}"
        )
    from fusegpt.config import builtin_config_dir
    from fusegpt.reports.page import write_page

    papers = published or sorted((builtin_config_dir() / "published").glob("*.csv"))
    write_page(output, tables, figures, results, papers)
