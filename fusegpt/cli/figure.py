"""``fusegpt figure``: a table's values over sparsity as an SVG."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import input_file, output_path

__all__ = ["figure"]


@click.command()
@click.option("--table", type=input_file, required=True, help="A CSV written by fusegpt table.")
@click.option("--output", type=output_path, required=True, help="The SVG to write.")
def figure(table: Path, output: Path) -> None:
    """Draw the values of a table, as an SVG.

    Over sparsity, or over what the experiment varies; recipe by recipe at a single sparsity; those
    of exports over the size of their files.
    """
    from fusegpt.reports.picture import write_svg
    from fusegpt.reports.tables import read_csv
    from fusegpt.reports.written import curves_of, read_table_record

    record = read_table_record(table)
    gap = record.gap if record else ""
    write_svg(output, read_csv(table), curves_of(record, table), gap)
