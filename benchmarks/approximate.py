"""How often an approximate choice of Macro Influence is the exact one, and what it saves.

    fusegpt score --model MODEL --calibration windows.parquet --metric macro_influence \\
        --shard 1-of-1 --output part.json
    python benchmarks/approximate.py part.json --share 0.125 0.25 --output approximate.json

The part has the sums of each batch. From them the choice is made again for many orders of the
batches, without running a model; block forward passes are counted as scoring runs them. All that
is said is of these windows: other windows, models and steps have other rates.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fusegpt.importance import METRICS
from fusegpt.importance.halving import halve
from fusegpt.importance.sums import Sums
from fusegpt.results.base import read
from fusegpt.results.shards import PartialScores


def tried(part: PartialScores, share: float, orders: int, seed: int) -> dict[str, Any]:
    """Choose for each order of the batches; return how often it was exact, and the passes."""
    combine, blocks = METRICS[part.metric].combine, len(part.units)
    every = range(blocks)
    exact = int(combine(_sums(part, range(len(part.batches)), every)).argmin())
    draw, right, passes = random.Random(seed), 0, 0
    for _ in range(orders):
        order = draw.sample(range(len(part.batches)), len(part.batches))

        def measure(first: int, end: int, left: Sequence[int], order: list[int] = order) -> Sums:
            nonlocal passes
            passes += (end - first) * (blocks + sum(blocks - place - 1 for place in left))
            return _sums(part, order[first:end], left)

        left, scores = halve(measure, combine, list(every), len(order), share)
        right += left[int(scores.argmin())] == exact
    whole = len(part.batches) * blocks * (blocks + 1) // 2
    return {
        "share": share,
        "orders": orders,
        "exact": right / orders,
        "passes": passes / orders,
        "passes_exact": whole,
        "saved": whole * orders / passes,
    }


def _sums(part: PartialScores, batches: Sequence[int], places: Sequence[int]) -> Sums:
    sums = Sums()
    for batch in (part.batches[number] for number in batches):
        values = torch.tensor(batch.values, dtype=torch.float64)
        sums.add(values[list(places)].unbind(), batch.weight)
    return sums


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("part", type=Path)
    parser.add_argument("--share", type=float, nargs="+", default=[0.125, 0.25, 0.5])
    parser.add_argument("--orders", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    part = read(given.part, PartialScores)
    rows = [tried(part, share, given.orders, given.seed) for share in given.share]
    given.output.write_text(json.dumps({"batches": len(part.batches), "rows": rows}, indent=1))
    for row in rows:
        print(f"share {row['share']:g}: exact {row['exact']:.1%}, {row['saved']:.2f}x fewer passes")


if __name__ == "__main__":
    main()
