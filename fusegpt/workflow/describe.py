"""What a model directory, a step or a checkpoint says about itself, without loading it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusegpt.artifacts import read_json
from fusegpt.data.directories import count_parameters, weight_files
from fusegpt.errors import ArtifactError

__all__ = ["as_text", "describe"]


def describe(path: Path) -> dict[str, Any]:
    """Read a fetched model, a step or a checkpoint.

    Args:
        path: Its directory, or its ``source.json``, ``manifest.json`` or ``fusegpt.json``.

    Returns:
        kind, path, base_model, num_blocks, removed (units in order), kept (dense indices), fused
        (dense index to the indices of what was fused into it, in order), parameters, recipe_id,
        recipe, provenance. ``None`` where a kind does not know.

    Raises:
        ArtifactError: Nothing of the kind lies there, or a file is corrupt.
    """
    readers = {
        "fusegpt.json": _checkpoint,
        "manifest.json": _step,
        "source.json": _fetched,
        "config.json": _plain,
    }
    for name, reader in readers.items():
        file = path if path.name == name else path / name
        if file.is_file():
            notes = read_json(file)
            if not isinstance(notes, dict):
                raise ArtifactError(f"{file}: must hold a JSON object")
            return {"kind": None, "path": str(path)} | reader(file, notes)
    raise ArtifactError(f"{path}: no model, step or checkpoint here; expected {', '.join(readers)}")


def as_text(notes: Mapping[str, Any]) -> str:
    """The description for people."""
    recipe = notes["recipe"] or {}
    lines = {
        str(notes["kind"]): notes["path"],
        "base model": notes["base_model"],
        "recipe": _recipe_line(notes["recipe_id"], recipe),
        "blocks": f"{len(notes['kept'])} of {notes['num_blocks']} left",
        "width": f"{notes['width']} of {notes['hidden_size']} left" if "width" in notes else None,
        "parameters": f"{notes['parameters']:,}" if notes["parameters"] else None,
        "removed": ", ".join(_unit_name(unit) for unit in notes["removed"]) or "nothing",
        "kept": _ranges(notes["kept"]),
        "fused": "; ".join(
            f"{', '.join(map(str, donors))} into {target}"
            for target, donors in notes["fused"].items()
        ),
        "made with": _provenance_line(notes["provenance"] or {}),
    }
    return "\n".join(f"{name:<12}{text}" for name, text in lines.items() if text)


def _checkpoint(file: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    names = ("base_model", "num_blocks", "removed", "kept", "parameters", "recipe_id", "recipe")
    described = {name: notes.get(name) for name in names}
    fused = {int(k) if k.isdigit() else k: v for k, v in notes.get("fused", {}).items()}
    return {
        "kind": notes.get("kind", "checkpoint"),
        **described,
        **{name: notes[name] for name in ("hidden_size", "width", "sparsity") if name in notes},
        "fused": fused,
        "steps": notes.get("steps", []),
        "provenance": notes.get("provenance"),
    }


def _step(file: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    steps, source_file = _history(file, notes)
    source = read_json(source_file)
    recipe_file = file.parent.parent / "recipe.json"
    return {
        "kind": "step",
        "step": notes["step"],
        "base_model": source.get("base_model") or source.get("source"),
        "num_blocks": source["num_blocks"],
        "removed": notes["removed"],
        "kept": notes["kept"],
        "fused": _fused(steps),
        "parameters": notes.get("parameters"),
        "recipe_id": notes["recipe"],
        "recipe": read_json(recipe_file) if recipe_file.is_file() else None,
        "provenance": notes.get("provenance"),
    }


def _fetched(file: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    about = ("source", "revision", "licence", "model_type")
    return {
        "kind": "model",
        "base_model": notes.get("base_model") or notes.get("source"),
        **{name: notes.get(name) for name in about},
        **_dense(notes["num_blocks"], notes.get("parameters")),
        "provenance": notes.get("provenance"),
    }


def _plain(file: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    """A transformers directory that this project did not write."""
    text_config = notes.get("text_config", notes)
    if not isinstance(text_config.get("num_hidden_layers"), int):
        raise ArtifactError(f"{file}: must say num_hidden_layers")
    parameters = sum(count_parameters(weights) for weights in weight_files(file.parent))
    dense = _dense(text_config["num_hidden_layers"], parameters)
    return {"kind": "model", "base_model": file.parent.name, **dense, "provenance": None}


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


def _history(file: Path, notes: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], Path]:
    """The steps up to this one, the first step first, and the dense model's ``source.json``."""
    steps: list[Mapping[str, Any]] = []
    while notes.get("kind") == "step":
        steps.append(notes)
        file = file.parent / notes["parent"]["path"]
        notes = read_json(file)
    if notes.get("kind") != "start":
        raise ArtifactError(f"{file}: must be the manifest of a step, got {notes.get('kind')!r}")
    return steps[::-1], file.parent / notes["parent"]["path"]


def _fused(steps: Sequence[Mapping[str, Any]]) -> dict[int | str, list[int]]:
    """Which removed units each remaining unit received, in order; a block's index is its name."""
    received: dict[tuple[str, int], list[int]] = {}
    for step in steps:
        kind, index = step["unit"]["granularity"], step["unit"]["index"]
        for target in step.get("fused_into", []):
            received.setdefault((kind, target), []).append(index)
        received.pop((kind, index), None)
    return {
        index if kind == "block" else f"{kind} {index}": donors
        for (kind, index), donors in sorted(received.items())
    }


def _recipe_line(recipe_id: str | None, recipe: Mapping[str, Any]) -> str | None:
    if not recipe:
        return recipe_id
    sections = {"width": "method", "importance": "metric", "recovery": "method"}
    methods = [recipe[name][key] for name, key in sections.items() if name in recipe]
    return f"{recipe_id}: {', '.join(methods)}, {recipe['dtype']}, seed {recipe['seed']}"


def _unit_name(unit: Mapping[str, Any]) -> str:
    block = unit["granularity"] == "block"
    return str(unit["index"]) if block else f"{unit['granularity']} {unit['index']}"


def _ranges(indices: Sequence[int]) -> str:
    """``0-3, 5``: runs of neighbours written short."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _provenance_line(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return ""
    libraries = provenance.get("libraries", {})
    parts = [f"fusegpt {provenance.get('fusegpt')}"]
    if provenance.get("commit"):
        parts.append(f"commit {provenance['commit'][:12]}")
    parts += [
        f"{name} {libraries[name]}" for name in ("torch", "transformers") if name in libraries
    ]
    return ", ".join([*parts, f"python {provenance.get('python')}", str(provenance.get("device"))])
