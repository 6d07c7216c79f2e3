"""One removal of FuseGPT on one model: scoring against the plain loop, then fusion.

    python benchmarks/step.py MODEL --output step.json
    python benchmarks/step.py MODEL --device cuda --calibration 32 --windows 64 --length 2048 ...

Scoring shares the work before the block that is left out; the plain loop runs the whole model once
for every block. Both are timed in turn on the same windows, and their scores must be equal to the
last bit. Fusion is timed once, whole. Beside the seconds stand the FLOPs that ``fusegpt plan``
counts and the rate that follows, the number to give to ``fusegpt plan --tflops``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fusegpt.data.windows import batches
from fusegpt.evaluation.inference import prompt_ids
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.checkpoints.load import load
from fusegpt.models.flops import forward_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import record
from fusegpt.models.surgery.removal import skip
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.settings.group import Fusion
from fusegpt.runtime import Timer, peak_memory_gib
from fusegpt.units import Unit


@torch.no_grad()
def plain(model: Model, windows: Sequence[Tensor], units: Sequence[Unit]) -> Tensor:
    """Macro Influence by a whole forward pass for every unit; the tests compare with it, too."""
    totals = torch.zeros(len(units), dtype=torch.float64)
    for batch in windows:
        reference = record(model, batch).hidden_out
        for place, unit in enumerate(units):
            with skip(model, [unit]):
                without = record(model, batch).hidden_out
            cos = functional.cosine_similarity(without.float(), reference.float(), dim=-1)
            totals[place] += cos.sum(dtype=torch.float64).cpu()
    return 1 - totals / sum(batch.numel() for batch in windows)


def scoring(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    """Both ways in turn; raises AssertionError where their scores differ."""
    windows = batches(prompt_ids(model, options.calibration, options.length), 1)
    windows = [window.to(model.device) for window in windows]
    units = model.units()
    ways = {
        "shared": lambda: macro_influence(model, windows, units),
        "plain": lambda: plain(model, windows, units),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        scores = {}
        for way, work in ways.items():
            with Timer(model.device) as timer:
                scores[way] = work()
            seconds[way].append(timer.seconds)
        assert torch.equal(scores["shared"], scores["plain"]), "the two ways disagree"
    alive, tokens = len(units), options.calibration * options.length
    blocks = [unit.index for unit in units]
    flops = forward_flops(model, blocks, tokens, options.length) * (alive + 1) / 2
    ratios = [p / s for p, s in zip(seconds["plain"], seconds["shared"], strict=True)]
    middle = statistics.median(seconds["shared"])
    return {
        "seconds_shared": [round(x, 3) for x in seconds["shared"]],
        "seconds_plain": [round(x, 3) for x in seconds["plain"]],
        "plain_over_shared": round(statistics.median(ratios), 3),
        "plain_over_shared_counted": round(2 * alive / (alive + 1), 3),
        "tflops_per_second": flops / middle / 1e12,
    }


def fusing(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    """Remove the middle block and fuse it into its neighbours."""
    unit = model.units()[model.num_blocks // 2]
    windows = prompt_ids(model, options.windows, options.length)
    ranks = {"rank": options.rank, "lora_rank": options.rank}
    with Timer(model.device) as timer:
        report = fusion(model, unit, windows, Fusion(epochs=options.epochs, **ranks), seed=0)
    return {
        "seconds": round(timer.seconds, 3),
        "trainable_parameters": report.trainable_parameters,
        "tokens": report.tokens,
        "flops": report.flops,
        "tflops_per_second": report.flops / timer.seconds / 1e12,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--calibration", type=int, default=8, help="windows to score on")
    parser.add_argument("--windows", type=int, default=16, help="windows to tune on")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = load(options.model, dtype=options.dtype, device=options.device)
    measured = {"scoring": scoring(model, options), "fusion": fusing(model, options)}
    about = {name: value for name, value in vars(options).items() if name != "output"}
    about |= {"model": options.model.name, "threads": torch.get_num_threads()}
    whole = {"settings": about, **measured, "memory_gib": round(peak_memory_gib(), 3)}
    options.output.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
