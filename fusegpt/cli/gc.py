"""``fusegpt gc``: remove results that no experiment names, and what crashes left behind."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import directory_option


@click.command()
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT...")
@directory_option
@click.option("--delete", is_flag=True, help="Remove what is listed.")
def gc(experiments: tuple[str, ...], directory: Path, delete: bool) -> None:
    """List, or delete, results that none of these experiments names.

    Give every experiment whose results are to stay. What a running job holds is never touched.
    """
    from fusegpt.errors import ConfigError
    from fusegpt.results import layout
    from fusegpt.workflow.files import plan_of
    from fusegpt.workflow.garbage import find, remove

    plan = plan_of(experiments)
    if not (directory / layout.FOLDER).is_dir():
        raise ConfigError(f"{directory / layout.FOLDER}: no such directory; see --directory")
    found = find(plan, directory)
    for garbage in found:
        click.echo(f"{garbage.size / 1e6:>10.1f} MB  {garbage.reason:<9} {garbage.path}")
        if delete and not garbage.in_use:
            remove(garbage)
    gone = [garbage for garbage in found if not garbage.in_use]
    if not gone:
        click.echo("nothing to remove")
        return
    megabytes = sum(garbage.size for garbage in gone) / 1e6
    verb = "removed" if delete else "can go; remove with --delete"
    click.echo(f"{len(gone)} artifacts, {megabytes:.1f} MB {verb}")
