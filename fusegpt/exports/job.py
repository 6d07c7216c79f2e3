"""One export, from a directory to a directory; its record is written last."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from fusegpt.artifacts import STAGE_VERSION, atomic_directory, file_record
from fusegpt.data.directories import check_listed, count_parameters, text_config, weight_files
from fusegpt.data.pictured import Pictured
from fusegpt.data.window_files import windows_for
from fusegpt.data.windows import read_meta
from fusegpt.errors import ConfigError
from fusegpt.exports.gguf import write_gguf
from fusegpt.exports.gptq_tools import check_gptq, gptq_versions
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


def export_model(
    checkpoint: Path, target: ExportTarget, output: Path, windows: Path | None = None
) -> Export:
    """Write a model as another program runs it, and load it there.

    Args:
        checkpoint: A merged checkpoint, a fetched model, or another directory that transformers
            loads.
        target: As what.
        output: The directory to write.
        windows: A file of ``fusegpt sample``, for a target that rounds by what text makes of a
            model.

    Returns:
        What its record says.

    Raises:
        ConfigError: A tool is missing or refuses the model, or the model is no plain one.
        ArtifactError: The directory is damaged, or what was written is not the same model.
        DataError: The windows are not for this model.
    """
    if target.is_calibrated != (windows is not None):
        must = "must have" if target.is_calibrated else "must not have"
        raise ConfigError(f"--to {target.text}: {must} windows to read; see --calibration")
    if windows is not None:
        check_gptq(f"--to {target.text}")
    about = _about(checkpoint)
    check_listed(checkpoint)
    ids = None if windows is None else _text_windows(checkpoint, windows)
    with atomic_directory(output, last=layout.EXPORT) as partial:
        with Timer() as timer:
            if target.is_gguf:
                checks = write_gguf(checkpoint, target, partial / f"model-{target.type}.gguf")
            else:
                checks = write_quantised(checkpoint, target, partial, ids)
        if windows is not None:
            checks["windows"] = _described(windows)
        files = {file.name: file_record(file) for file in sorted(partial.iterdir())}
        parent = Parent.of(checkpoint, output)
        record = {
            "kind": "export",
            "export": target.text,
            **about,
            "checks": checks,
            "tools": _tools(target),
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


def _text_windows(checkpoint: Path, windows: Path) -> Tensor:
    """Read windows for a model that reads no pictures beside them."""
    ids = windows_for(checkpoint, windows)
    if isinstance(ids, Pictured):
        raise ConfigError(
            f"{windows}: must be windows of text alone to round weights by, has pictures"
        )
    return ids


def _described(windows: Path) -> str:
    """Which windows a file holds, in words."""
    about = read_meta(windows)
    text = f"{about.corpus} ({about.split}), seed {about.seed}"
    return f"{about.sequences} of {about.length} tokens of {text}"


def _tools(target: ExportTarget) -> dict[str, str]:
    """The packages that write an export, with their versions."""
    if target.is_gguf:
        return versions()
    return gptq_versions() if target.is_calibrated else {PACKAGE: version(PACKAGE)}


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
