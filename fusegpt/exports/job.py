"""One export, from a directory to a directory; its record is written last."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from fusegpt.artifacts import STAGE_VERSION, atomic_directory, file_record
from fusegpt.data.directories import check_listed, count_parameters, text_config, weight_files
from fusegpt.errors import ConfigError
from fusegpt.exports.gguf import write_gguf
from fusegpt.exports.quantised import PACKAGE, write_quantised
from fusegpt.exports.targets import ExportTarget
from fusegpt.exports.tools import versions
from fusegpt.provenance import provenance
from fusegpt.results import layout
from fusegpt.results.base import check, write
from fusegpt.results.exports import Export
from fusegpt.results.files import Parent, Source
from fusegpt.results.models import Checkpoint, read_record
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["export_model"]


def export_model(checkpoint: Path, target: ExportTarget, output: Path) -> Export:
    """Write a model as another program runs it, and load it there.

    Args:
        checkpoint: A merged checkpoint, a fetched model, or another directory that transformers
            loads.
        target: As what.
        output: The directory to write.

    Returns:
        What its record says.

    Raises:
        ConfigError: A tool is missing or refuses the model, or the model is no plain one.
        ArtifactError: The directory is damaged, or what was written is not the same model.
    """
    about = _about(checkpoint)
    check_listed(checkpoint)
    with atomic_directory(output, last=layout.EXPORT) as partial:
        with Timer() as timer:
            if target.is_gguf:
                checks = write_gguf(checkpoint, target, partial / f"model-{target.type}.gguf")
            else:
                checks = write_quantised(checkpoint, target, partial)
        files = {file.name: file_record(file) for file in sorted(partial.iterdir())}
        parent = Parent.of(checkpoint, output)
        record = {
            "kind": "export",
            "export": target.text,
            **about,
            "checks": checks,
            "tools": versions() if target.is_gguf else {PACKAGE: version(PACKAGE)},
            "seconds": round(timer.seconds, 3),
            "memory_gib": round(peak_memory_gib(), 3),
            "stage_version": STAGE_VERSION["export"],
            **({} if parent is None else {"parent": parent.to_json()}),
            "files": files,
            "provenance": provenance(),
        }
        made = check(record, Export, output)
        write(partial / layout.EXPORT, made)
    return made


def _about(checkpoint: Path) -> dict[str, Any]:
    """What the checkpoint is, by its record or by its files.

    Raises:
        ConfigError: It is a step or an export, or only code of this project loads it.
    """
    record = None if layout.record_in(checkpoint) is None else read_record(checkpoint)
    if record is None or isinstance(record, Source):
        blocks = text_config(checkpoint).num_hidden_layers
        counted = sum(count_parameters(file) for file in weight_files(checkpoint))
        kept, parameters = list(range(blocks)), record and record.parameters
        found = {"num_blocks": blocks, "kept": kept, "parameters": parameters or counted}
        base = record and (record.base_model or record.source)
        return found | {"base_model": base or checkpoint.name}
    if not isinstance(record, Checkpoint):
        raise ConfigError(
            f"{checkpoint}: must be a checkpoint or a fetched model to be exported, is"
            f" {record.noun}; merge the step first, and export the checkpoint"
        )
    if record.needs is not None:
        raise ConfigError(
            f"{checkpoint}: must be a model that transformers knows by itself to be exported, got"
            f" one that needs {record.needs!r}; remove whole blocks, or merge it --zeroed"
        )
    names = ("num_blocks", "kept", "parameters", "base_model")
    removed = [unit.to_json() for unit in record.removed]
    return {**{name: getattr(record, name) for name in names}, "removed": removed}
