"""Why a tuning diverges: the share of the error that the longest tokens have, step by step.

    python benchmarks/steady.py MODEL windows.parquet --removed 17 --block 14 \\
        --arm '{"loss": "mse"}' --arm '{"loss": "mse_token"}' --output steady.json

Blocks are removed plainly, then one more is fused into its neighbours by each arm: settings laid
over those of `baselines` with four epochs. An ordinary token is one whose target is at most five
times as long as the median one; the others are those with massive activations.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from fusegpt.data.window_files import windows_for
from fusegpt.models.checkpoints.load import load
from fusegpt.models.surgery.removal import remove
from fusegpt.nn.losses import LOSSES
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.settings.group import Fusion
from fusegpt.units import Unit

BASE = {"rank": 32, "lora_rank": 32, "epochs": 4, "batch_size": 8, "learning_rate": 3e-3}
BASE |= {"coefficient_learning_rate": 1e-2, "loss": "mse"}


def watched(loss: Callable[[Tensor, Tensor], Tensor], rows: list[dict[str, float]]) -> Any:
    """Return the loss; each call also adds a row on where the squared error is."""

    def measure(student: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            gap = (student - teacher).float().square().sum(-1)
            length = teacher.float().norm(dim=-1)
            ordinary, width = length <= 5 * length.median(), student.shape[-1]
            rows.append(
                {
                    "mse": gap.mean().item() / width,
                    "ordinary_mse": gap[ordinary].mean().item() / width,
                    "massive_share": (gap[~ordinary].sum() / gap.sum()).item(),
                    "massive_tokens": (~ordinary).sum().item(),
                }
            )
        return loss(student, teacher)

    return measure


def run(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Tune once; mean errors before and after, and a row for each optimiser step."""
    model = load(options.model, dtype="float32")
    windows = windows_for(options.model, options.windows)
    for index in options.removed:
        remove(model, Unit("block", index))
    chosen = Fusion(**{**BASE, **settings})
    rows: list[dict[str, float]] = []
    with mock.patch.dict(LOSSES, {chosen.loss: watched(LOSSES[chosen.loss], rows)}):
        report = fusion(model, Unit("block", options.block), windows, chosen, seed=options.seed)
    batches = len(windows) // chosen.batch_size

    def mean(part: list[dict[str, float]], name: str) -> float:
        return sum(row[name] for row in part) / len(part)

    return {
        "settings": settings,
        "undone": report.undone,
        "attempts": report.attempts,
        "before": {name: mean(rows[:batches], name) for name in ("mse", "ordinary_mse")},
        "after": {name: mean(rows[-batches:], name) for name in ("mse", "ordinary_mse")},
        "steps": rows[batches:-batches],
    }


def main() -> None:
    """Run every arm and write after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("windows", type=Path, help="windows that fusegpt sample wrote")
    parser.add_argument("--removed", type=int, nargs="*", default=[], help="blocks gone before")
    parser.add_argument("--block", type=int, required=True, help="the block that is fused")
    parser.add_argument("--arm", type=json.loads, action="append", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    found = []
    for arm in options.arm:
        found.append(run(options, arm))
        options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
