"""The model card of a checkpoint: what it is, how it was made, what was measured, its limits."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fusegpt.reports.front_matter import front_matter
from fusegpt.reports.slice_card import slice_parts
from fusegpt.reports.text import code, escaped

__all__ = ["card"]


def card(info: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """Write the README.md of a checkpoint, with the hub's front matter.

    Args:
        info: base_model, licence, num_blocks (of the dense model), kept (dense indices), removed
            (units in order, each ``{"granularity", "index"}`` or an index), fused (index of a
            block to the indices of what was fused into it), recipe (its settings, with name),
            parameters; of a sliced model also kind ("slice"), hidden_size, width, head_width,
            sparsity. What is missing is left out.
        rows: Measured results: task, metric, value, unit, num_samples, protocol.

    Returns:
        The whole file as text.
    """
    about = slice_parts if info.get("kind") == "slice" else _depth_parts
    parts = [front_matter(info, rows), *about(info), _licence(info)]
    parts += [_results(rows), _recipe(info), _limits(info)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _depth_parts(info: Mapping[str, Any]) -> list[str]:
    return [_opening(info), _removal(info), _loading(info)]


def _opening(info: Mapping[str, Any]) -> str:
    base = info.get("base_model", "a language model")
    name, total = str(base).rstrip("/").split("/")[-1], info["num_blocks"]
    counts = Counter(_kind(unit) for unit in info["removed"])
    removed = counts["block"]
    title = f"{total - removed} of {total} blocks"
    what = f"{removed} of {total} decoder blocks ({removed / total:.1%})"
    if set(counts) - {"block"}:
        sublayers = [f"{counts[kind]} of {total} {kind}s" for kind in sorted(counts)]
        title = f"without {' and '.join(sublayers)}"
        what = " and ".join(
            f"{counts[k]} of {total} {k}s ({counts[k] / total:.1%})" for k in sorted(counts)
        )
    lines = [
        f"# {escaped(name)}, {title}",
        "",
        f"Depth-pruned from {code(base)}: {what} were removed one after another.",
    ]
    if info.get("parameters"):
        lines[-1] += f" {info['parameters']:,} parameters remain."
    return "\n".join(lines)


def _licence(info: Mapping[str, Any]) -> str:
    base = code(info.get("base_model", "a language model"))
    if not info.get("licence"):
        return (
            f"## Licence\nThat of {base}, on which this checkpoint is based, is not on record; find"
            " it before you use this checkpoint or pass it on."
        )
    return (
        f"## Licence\n{escaped(info['licence'])}, that of {base}. This checkpoint is derived from"
        " it, so its terms apply here too."
    )


def _kind(unit: Any) -> str:
    return unit["granularity"] if isinstance(unit, Mapping) else "block"


def _removal(info: Mapping[str, Any]) -> str:
    lines = [
        "## What was removed",
        "Indices are positions in the dense model, counted from 0.",
        "",
        f"- removed, in order: {_numbers([_unit(unit) for unit in info['removed']])}",
        f"- kept: {_ranges(info['kept'])}",
    ]
    fused = info.get("fused") or {}
    lines += [
        f"- {target if ' ' in str(target) else f'block {target}'} had fused into it:"
        f" {_numbers(donors)}"
        for target, donors in fused.items()
        if donors
    ]
    return "\n".join(lines)


def _unit(unit: Any) -> str:
    return f"{unit['granularity']} {unit['index']}" if isinstance(unit, Mapping) else str(unit)


def _numbers(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values) or "none"


def _ranges(values: Sequence[int]) -> str:
    """``[1, 2, 3, 5]`` as ``1-3, 5``."""
    runs: list[list[int]] = []
    for value in sorted(int(value) for value in values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return _numbers([f"{low}-{high}" if high > low else str(low) for low, high in runs])


def _loading(info: Mapping[str, Any]) -> str:
    auto = info.get("auto_class", "AutoModelForCausalLM")
    sublayers = any(_kind(unit) != "block" for unit in info["removed"])
    needs = "An ordinary checkpoint; no code besides transformers is needed."
    if sublayers and info.get("zeroed"):
        needs += (
            " Removed attentions and mlps are there, full of zeros: it computes the same as without"
            " them, and saves neither time nor memory."
        )
    elif sublayers:
        needs = (
            "Some blocks have no attention or no mlp, which no class of transformers knows:"
            " `pip install fusegpt`, and import its one module for that first. For programs that"
            " know only the base architecture, `fusegpt merge --zeroed` writes an equal checkpoint"
            " with zeros in these places."
        )
    first = ["import fusegpt.models.sublayers  # makes the Auto classes know it"]
    return "\n".join(
        [
            "## How to load",
            needs,
            "",
            "```python",
            *(first if sublayers and not info.get("zeroed") else []),
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f'model = {auto}.from_pretrained("PATH")',
            'tokenizer = AutoTokenizer.from_pretrained("PATH")',
            "```",
        ]
    )


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "## Results\nNothing was measured when this checkpoint was written."
    lines = [
        "## Results",
        "| task | metric | value | samples | protocol |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        protocol = row.get("protocol") or {}
        text = ", ".join(
            f"{key} {_plain(value)}" for key, value in protocol.items() if value is not None
        )
        count = row.get("num_samples", "")
        cells = [row["task"], row["metric"], f"{row['value']:.4g}", count, text]
        lines.append("| " + " | ".join(map(escaped, cells)) + " |")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """A value as one line; text that is more than words is quoted."""
    words = isinstance(value, str) and re.fullmatch(r"[\w./:@ -]*\S", value)
    return str(value) if words else json.dumps(value, ensure_ascii=False, default=str)


def _recipe(info: Mapping[str, Any]) -> str:
    recipe = info.get("recipe")
    if not recipe:
        return ""
    text = json.dumps(recipe, indent=1, default=str).replace("`", r"\u0060")
    return (
        "## How it was made\n"
        f"The settings, complete with defaults; the method is that of {_method(info)}.\n"
        f"\n```json\n{text}\n```"
    )


def _method(info: Mapping[str, Any]) -> str:
    sliced = info.get("kind") == "slice"
    return "SliceGPT (arXiv 2401.15024)" if sliced else "FuseGPT (arXiv 2411.14507)"


def _limits(info: Mapping[str, Any]) -> str:
    what = "Slicing widths" if info.get("kind") == "slice" else "Removing blocks"
    return "\n".join(
        [
            "## Limits",
            f"- {what} costs quality, and perplexity hides part of it: reasoning, long"
            " contexts and rare knowledge suffer more. Measure the task you need.",
            "- Whatever limits, biases and conditions of use the base model has, this one has too.",
            "- Recovery saw only the text named above; other languages and domains may have lost"
            " more.",
        ]
    )
