"""SmolLM2-135M's shape on one thread of this CPU, in the seconds that this process computes.

    python benchmarks/cpu.py --output cpu.json

Random weights, no download. Scoring by the shared prefix against FuseGPT's loop with our kernels,
SLEB's, and with oneDNN's products in place of PyTorch's (a private call, for inference alone); one
matrix fused, trained plainly and under LoRA, whole and in eight parts; the rates of the products.
The arms take turns, and their scores must agree.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import platform
import time
from pathlib import Path
from typing import Any
from unittest import mock

import gpu_arms
import torch
from gpu_arms import Sizes, in_turn, random_model, ratio
from gpu_scoring import sleb_scores
from gpu_tuning import linear
from step import plain
from torch import Tensor, nn
from torch.nn import functional

from fusegpt.importance.macro_influence import macro_influence
from fusegpt.importance.sleb import sleb
from fusegpt.models.flops import forward_flops, head_flops
from fusegpt.runtime import Timer

SIZES = {
    "hidden": 576,
    "inner": 1536,
    "heads": 9,
    "shared_heads": 3,
    "vocab": 49152,
    "blocks": 30,
    "length": 256,
    "rank": 128,
    "rounds": 1,
}
TINY = SIZES | {"hidden": 72, "inner": 96, "vocab": 128, "blocks": 4, "length": 16, "rank": 4}
CPU = torch.device("cpu")
ROWS, TIMES = 1024, 15


class CpuTimer(Timer):
    """Seconds that this process computed, once the block is left."""

    def _now(self) -> float:
        return time.process_time()


def one_dnn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A product by oneDNN."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


@torch.no_grad()
def scoring(sizes: Sizes, until: float) -> dict[str, Any]:
    """All candidates on one window, by every arm."""
    model = random_model(sizes, CPU, torch.float32)
    windows, units = [torch.randint(sizes["vocab"], (1, sizes["length"]))], model.units()

    def by_one_dnn() -> Tensor:
        with mock.patch.object(nn.Linear, "forward", lambda m, x: one_dnn(x, m.weight, m.bias)):
            return macro_influence(model, windows, units)

    arms = {
        "sleb_style": lambda: sleb_scores(model, windows, units),
        "plain": lambda: plain(model, windows, units),
        "shared": lambda: macro_influence(model, windows, units),
        "one_dnn": by_one_dnn,
    }
    seconds, scores = in_turn(arms, CPU, sizes["rounds"], until)
    assert torch.equal(scores["plain"], scores["shared"]), "the two ways disagree"
    assert torch.equal(scores["sleb_style"], sleb(model, windows, units)), "losses disagree"
    count, tokens = len(units), windows[0].numel()
    block = forward_flops(model, [0], tokens, sizes["length"])
    ours = count * (count + 1) / 2 * block
    with_head = count * ((count - 1) * block + head_flops(model, tokens))
    over = {name: ratio(seconds[name], seconds["shared"], None) for name in arms}
    return {
        "seconds": seconds,
        "plain_over_shared": ratio(seconds["plain"], seconds["shared"], 2 * count / (count + 1)),
        "sleb_style_over_shared": over["sleb_style"] | {"bound": with_head / ours},
        "sleb_style_over_one_dnn": ratio(seconds["sleb_style"], seconds["one_dnn"], None),
        "one_dnn_difference": (scores["one_dnn"] - scores["shared"]).abs().max().item(),
        "same_choice": bool(scores["one_dnn"].argmin() == scores["shared"].argmin()),
    }


@torch.no_grad()
def products(sizes: Sizes) -> dict[str, float]:
    """GFLOP/s of one matrix of a block by each kind of product, the best of some."""
    shape = (sizes["inner"], sizes["hidden"])
    weight, states = torch.randn(shape), torch.randn(ROWS, sizes["hidden"])
    half = (states.bfloat16(), weight.bfloat16())
    ways = {
        "float32": functools.partial(functional.linear, states, weight),
        "float32, oneDNN": functools.partial(one_dnn, states, weight),
        "bfloat16": functools.partial(functional.linear, *half),
    }
    best = dict.fromkeys(ways, math.inf)
    for _ in range(TIMES):
        for name, way in ways.items():
            with CpuTimer() as timer:
                way()
            best[name] = min(best[name], timer.seconds)
    work = 2.0 * ROWS * math.prod(shape) / 1e9
    return {name: work / max(seconds, 1e-9) for name, seconds in best.items()}


def _machine() -> str:
    """The processor's name, where the system tells it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="to see whether it runs")
    parser.add_argument(
        "--length", type=int, help="tokens of the window to score on; 256 if not set"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="no round begins after that")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes, until = TINY if options.tiny else SIZES, time.monotonic() + 60 * options.minutes
    sizes = sizes | ({"length": options.length} if options.length else {})
    with mock.patch.object(gpu_arms, "Timer", CpuTimer):
        found: dict[str, Any] = {"products_gflops_per_second": products(sizes)}
        found["scoring"] = scoring(sizes, until)
        model = random_model(sizes | {"blocks": 1}, CPU, torch.float32)
        rounds = sizes | {"length": 16 if options.tiny else 512, "rounds": 3}
        found["linear"] = linear(model, rounds, CPU, until)
    about: dict[str, Any] = {"machine": _machine(), "sizes": sizes}
    about["instructions"] = torch.backends.cpu.get_cpu_capability()
    options.output.write_text(json.dumps({**about, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
