"""``fusegpt check``: whether a model can be pruned, or why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusegpt.cli.options import device_option, dtype_of
from fusegpt.results import layout

if TYPE_CHECKING:
    from fusegpt.models.suitability import Finding

__all__ = ["check"]

FETCHED = Path(layout.model_directory).parent


@click.command()
@click.argument("model")
@click.option("--config-only", is_flag=True, help="Check without weights, from config.json alone.")
@dtype_of("float32")
@device_option
def check(model: str, config_only: bool, dtype: str, device: str) -> None:
    """Say whether a model can be pruned faithfully, or why not.

    MODEL is a directory, a fetched model's name, or a hub id.

    Checked are: blocks found, config alone rebuilds the model, each block can be removed, which
    weights fusion pairs; and with weights, on random tokens: blocks run alone, removal against
    bypass, generation with and without a cache, and whether attentions and mlps can go as well.
    Ends with exit code 2 when the answer is no.
    """
    from fusegpt.errors import ArchitectureError, printable_lines

    directory = _directory(model, config_only)
    whole = not config_only and any(directory.glob("*.safetensors"))
    failed = []
    for finding in _findings(directory, whole, dtype, device):
        said = f"{'yes' if finding.passed else 'no ':<4}{finding.name + ':':<12}{finding.text}"
        click.echo(printable_lines(said))
        if not finding.passed:
            failed.append(finding.name)
    if failed:
        raise ArchitectureError(f"{model}: cannot be pruned faithfully ({', '.join(failed)})")
    click.echo(f"{model}: yes" + ("" if whole else ", by its config; what it computes was not run"))


def _findings(directory: Path, whole: bool, dtype: str, device: str) -> Iterator[Finding]:
    from fusegpt.models.checkpoints.directory import load_structure
    from fusegpt.models.checkpoints.load import load
    from fusegpt.models.structure.branches import plain_ids
    from fusegpt.models.suitability import check_structure, check_whole

    if not whole:
        yield from check_structure(load_structure(directory))
        return
    model = load(directory, dtype=dtype, device=device)
    findings = list(check_structure(model))
    yield from findings
    if all(finding.passed for finding in findings):
        yield from check_whole(model, plain_ids(model, 2, 16))


def _directory(model: str, config_only: bool) -> Path:
    """Where the model lies; a hub id is downloaded into the hub's cache."""
    from fusegpt.data.hub import model_snapshot
    from fusegpt.data.plain import check_plain
    from fusegpt.data.sources import HUB, KEPT
    from fusegpt.errors import ArtifactError

    for place in (Path(model), FETCHED / model):
        if place.is_dir():
            return place
    match = HUB.fullmatch(model.removeprefix("hub:"))
    if match is None:
        raise ArtifactError(
            f"{model}: no such directory, no model in {FETCHED}, and no hub id like ORG/NAME"
        )
    repository, revision = match["repository"], match["revision"]
    small = model_snapshot(repository, revision, ["config.json"] if config_only else ["*.json"])
    if config_only:
        return small
    check_plain(small)  # before many gigabytes
    return model_snapshot(repository, revision, KEPT)
