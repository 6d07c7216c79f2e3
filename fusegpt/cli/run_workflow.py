"""``fusegpt run``: experiments from their models to tables, figures and the page, by Snakemake."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from fusegpt.cli.options import directory_option

OPTIONS = "fusegpt.snakemake_options"


class ThenSnakemake(click.Command):
    """A command that keeps what follows ``--`` for Snakemake."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments before ``--`` only."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[OPTIONS] = args[end + 1 :]
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The line of usage, with what may follow."""
        return [*super().collect_usage_pieces(ctx), "[-- SNAKEMAKE OPTIONS]"]


@click.command(cls=ThenSnakemake)
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT|FILE...")
@click.option("--cores", metavar="N", help="Jobs side by side, or all; else the profile's number.")
@click.option(
    "--profile", default="default", show_default=True, help="Name or directory of a profile."
)
@directory_option
@click.option("-n", "--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.pass_context
def run(
    ctx: click.Context,
    experiments: tuple[str, ...],
    cores: str | None,
    profile: str,
    directory: Path,
    dry_run: bool,
) -> NoReturn:
    """Run experiments, by name or file, with Snakemake.

    Its output and its exit code are those of Snakemake.

    What follows -- goes to Snakemake as it is: targets such as tables, or options such as
    --unlock and --resources gpu=2.
    """
    from fusegpt.workflow.files import (
        experiment_files,
        profile_directory,
        read_config,
        snakefile,
    )

    files = experiment_files(experiments)
    for file in files:
        read_config(file)  # Snakemake names neither the file nor the line
    command = [
        *(sys.executable, "-m", "snakemake"),
        *("--configfile", *(str(file.absolute()) for file in files)),
        *("--profile", str(profile_directory(profile).absolute())),
        *("--directory", str(directory)),
        *(("--cores", cores) if cores else ()),
        *(("--dry-run",) if dry_run else ()),
        *("--snakefile", str(snakefile())),
        *ctx.meta[OPTIONS],
    ]
    os.execve(sys.executable, command, _environment())


def _environment() -> dict[str, str]:
    """The environment with this very ``fusegpt`` first in PATH, since the rules call it by name."""
    started = Path(sys.argv[0])
    if started.name != "fusegpt":
        return dict(os.environ)
    path = os.pathsep.join([str(started.absolute().parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path}
