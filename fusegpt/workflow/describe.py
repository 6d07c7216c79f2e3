"""What a model directory, a step or a checkpoint says about itself, without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusegpt.artifacts import read_json
from fusegpt.data.directories import count_parameters, weight_files
from fusegpt.data.shape import block_shape
from fusegpt.errors import ArtifactError
from fusegpt.reports.text import ranges
from fusegpt.results import layout
from fusegpt.results.base import Record, UnitField, check, read_object
from fusegpt.results.exports import Export, weight_bytes
from fusegpt.results.files import Provenance, RecipeText, Source
from fusegpt.results.history import read_history
from fusegpt.results.models import Checkpoint, Slice, read_record
from fusegpt.units import Unit

__all__ = ["Description", "as_text", "describe"]


class Description(Record):
    """A model, a step or a checkpoint; None where a kind does not know.

    Attributes:
        kind: ``model``, ``step``, ``checkpoint``, ``slice`` or ``export``.
        num_blocks: Blocks of the dense model.
        removed: Units in order.
        kept: Dense indices.
        fused: Dense index to the indices of what was fused into it, in order.
        hidden_size, width: Dimensions of the dense model's hidden states, and those that remain.
        shape: Size of its blocks, as a model's entry in the configuration has it.
        export: What it was exported to.
        file_bytes: Size of the exported files.
    """

    kind: str
    path: str
    base_model: str | None = None
    num_blocks: int
    removed: list[UnitField]
    kept: list[int]
    fused: dict[int | str, list[int]]
    parameters: int | None = None
    target: str | None = None
    recipe_id: str | None = None
    recipe: dict[str, Any] | None = None
    hidden_size: int | None = None
    width: int | None = None
    shape: dict[str, int] | None = None
    export: str | None = None
    file_bytes: int | None = None
    provenance: Provenance | None = None


def describe(path: Path) -> Description:
    """Read a fetched model, a step or a checkpoint.

    Args:
        path: Its directory, or its record.

    Raises:
        ArtifactError: Nothing of the kind lies there, or a file is corrupt.
    """
    names = (*layout.RECORDS, layout.CONFIG)
    files = [path] if path.name in names else [path / name for name in names]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ArtifactError(
            f"{path}: no model, step or checkpoint here; expected {', '.join(names)}"
        )
    if file.name == layout.CONFIG:
        found = _plain(file)
    else:
        record = read_record(file)
        if isinstance(record, Checkpoint):
            found = _checkpoint(record)
        elif isinstance(record, Export):
            found = _exported(record)
        else:
            found = _fetched(record) if isinstance(record, Source) else _step(file)
    if found["kind"] == "model":
        shape = block_shape(file.parent, found["num_blocks"])
        found["shape"] = shape and shape.model_dump(exclude_defaults=True)
    return Description.model_validate({"kind": found.pop("kind"), "path": str(path), **found})


def as_text(about: Description) -> str:
    """The description for people."""
    lines = {
        about.kind: about.path,
        "base model": about.base_model,
        "recipe": _recipe_line(about),
        "blocks": f"{len(about.kept)} of {about.num_blocks} left",
        "width": f"{about.width} of {about.hidden_size} left" if about.width else None,
        "parameters": f"{about.parameters:,}" if about.parameters else None,
        "exported to": about.export,
        "file size": f"{about.file_bytes / 1e6:,.1f} MB" if about.file_bytes else None,
        "asked for": about.target,
        "shape": _shape_line(about),
        "removed": ", ".join(map(_unit_name, about.removed)) or "nothing",
        "kept": ranges(about.kept),
        "fused": "; ".join(
            f"{', '.join(map(str, donors))} into {target}" for target, donors in about.fused.items()
        ),
        "made with": _provenance_line(about.provenance),
    }
    return "\n".join(f"{name:<12}{text}" for name, text in lines.items() if text)


def _checkpoint(record: Checkpoint) -> dict[str, Any]:
    sizes = {}
    if isinstance(record, Slice):
        sizes = {name: getattr(record, name) for name in ("hidden_size", "width", "sparsity")}
    return {
        "kind": record.kind,
        "base_model": record.base_model,
        "num_blocks": record.num_blocks,
        "removed": record.removed,
        "kept": record.kept,
        "parameters": record.parameters,
        **({"target": record.target} if record.target else {}),
        "recipe_id": record.recipe_id,
        "recipe": record.recipe,
        **sizes,
        "fused": {int(k) if k.isdigit() else k: v for k, v in record.fused.items()},
        "steps": [step.to_json() for step in record.steps],
        "provenance": record.provenance,
    }


def _exported(record: Export) -> dict[str, Any]:
    names = ("num_blocks", "kept", "removed", "parameters", "base_model", "provenance")
    sizes = {"file_bytes": weight_bytes(record.files), "export": record.export}
    return {"kind": "export", "fused": {}, **sizes, **{x: getattr(record, x) for x in names}}


def _step(file: Path) -> dict[str, Any]:
    history = read_history(file, whole=False)
    dense, last = history.dense, history.steps[-1] if history.steps else history.start
    recipe_file = file.parent.parent / layout.RECIPE
    return {
        "kind": "step",
        "step": last.step,
        "base_model": dense.base_model or dense.source,
        "num_blocks": dense.num_blocks,
        "removed": history.removed,
        "kept": history.kept,
        "fused": history.fused,
        "parameters": last.parameters,
        "recipe_id": last.recipe,
        "recipe": read_object(recipe_file) if recipe_file.is_file() else None,
        "provenance": last.provenance,
    }


def _fetched(record: Source) -> dict[str, Any]:
    return {
        "kind": "model",
        "base_model": record.base_model or record.source,
        "source": record.source,
        "revision": record.revision,
        "licence": record.licence,
        "model_type": record.model_type,
        **_dense(record.num_blocks, record.parameters),
        "provenance": record.provenance,
    }


def _plain(file: Path) -> dict[str, Any]:
    """A transformers directory that this project did not write."""
    config = read_json(file)
    text = config.get("text_config", config) if isinstance(config, dict) else None
    num_blocks = text.get("num_hidden_layers") if isinstance(text, dict) else None
    if not isinstance(num_blocks, int):
        raise ArtifactError(f"{file}: must say num_hidden_layers")
    parameters = sum(count_parameters(weights) for weights in weight_files(file.parent))
    return {
        "kind": "model",
        "base_model": file.parent.name,
        **_dense(num_blocks, parameters),
        "provenance": None,
    }


def _dense(num_blocks: int, parameters: int | None) -> dict[str, Any]:
    return {
        "num_blocks": num_blocks,
        "removed": [],
        "kept": list(range(num_blocks)),
        "fused": {},
        "parameters": parameters,
        "recipe_id": None,
        "recipe": None,
    }


def _recipe_line(about: Description) -> str | None:
    if about.recipe is None:
        return about.recipe_id
    recipe = check(about.recipe, RecipeText, f"{about.path}: recipe")
    return f"{about.recipe_id}: {', '.join(recipe.methods)}, {recipe.dtype}, seed {recipe.seed}"


def _shape_line(about: Description) -> str | None:
    """The shape as one copies it into a configuration."""
    parts = (about.shape or {}).items()
    return f"{{{', '.join(f'{name}: {value}' for name, value in parts)}}}" if parts else None


def _unit_name(unit: Unit) -> str:
    return str(unit.index) if unit.kind == "block" else str(unit)


def _provenance_line(made: Provenance | None) -> str:
    if made is None:
        return ""
    parts = [f"fusegpt {made.fusegpt}"]
    if made.commit:
        parts.append(f"commit {made.commit[:12]}")
    names = ("torch", "transformers")
    parts += [f"{name} {made.libraries[name]}" for name in names if name in made.libraries]
    return ", ".join([*parts, f"python {made.python}", made.device])
