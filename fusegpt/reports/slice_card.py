"""What the card of a sliced model says instead of removed blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusegpt.reports.text import code, escaped

__all__ = ["slice_parts"]


def slice_parts(info: Mapping[str, Any]) -> list[str]:
    """Opening, what was sliced, how to load.

    Args:
        info: As for ``card``.
    """
    return [_opening(info), _sizes(info), _loading()]


def _opening(info: Mapping[str, Any]) -> str:
    base, width, hidden = info.get("base_model", "a model"), info["width"], info["hidden_size"]
    lines = [
        f"# {escaped(str(base).rstrip('/').split('/')[-1])}, width {width} of {hidden}",
        "",
        f"Width-sliced from {code(base)}: {hidden - width} of {hidden} dimensions of the hidden"
        f" states ({1 - width / hidden:.1%}) were cut, every block stays.",
    ]
    if info.get("parameters"):
        lines[-1] += f" {info['parameters']:,} parameters remain, residual adapters included."
    return "\n".join(lines)


def _sizes(info: Mapping[str, Any]) -> str:
    energies = info.get("kept_energy") or {}
    lines = [
        "## What was sliced",
        f"- hidden states: {info['width']} of {info['hidden_size']} dimensions;"
        f" before the head {info['head_width']}",
        f"- asked: a sparsity of {info['sparsity']} of the hidden size",
        f"- blocks: {len(info['kept'])} of {info['num_blocks']}",
    ]
    if energies:
        worst = min(energies, key=energies.__getitem__)
        lines.append(
            f"- energy of the calibration signal that is kept: at least {energies[worst]:.2%}"
            f" ({worst})"
        )
    return "\n".join(lines)


def _loading() -> str:
    return "\n".join(
        [
            "## How to load",
            "Residual adapters are in no architecture of transformers: the package `fusegpt` must"
            " be installed, and one import tells the auto classes of it.",
            "",
            "```python",
            "import fusegpt.slicegpt.modeling",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("PATH")',
            'tokenizer = AutoTokenizer.from_pretrained("PATH")',
            "```",
        ]
    )
