"""One GPU, eight minutes at most, one JSON: scoring, tuning, one matrix, a pruned model's speed.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --tiny --device cpu --output tiny.json

Weights are random, in the shape of LLaMA-2-7B (read block by block: of LLaMA-2-70B), so nothing is
downloaded. Arms take turns (ABBA) in one process; a row has every second, the median ratio with its
spread, the bound that counting gives, and whether the results of the arms agree. A ratio above its
bound is marked as noise. Each section has a share of the time: no round begins after it, and where
less than the share is left the section says "not measured"; the last one has all that is left.
Seconds of a whole run are never told from these.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_arms import Sizes, random_model, ratio
from gpu_scoring import scoring, streamed, streamed_equality
from gpu_tuning import linear, tuning

from fusegpt.evaluation.inference import decode_bytes, prefill_flops, request
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit

LIMIT_S = 480.0
SHARES_S = {
    "equality": 20.0,
    "scoring": 110.0,
    "tuning": 90.0,
    "linear": 40.0,
    "inference": 40.0,
    "streamed": 140.0,
}
"""Seconds of each section of that limit; what is left is for the making of weights."""
SEVEN_B = {"hidden": 4096, "inner": 11008, "blocks": 32, "heads": 32, "shared_heads": 32}
SEVEN_B |= {
    "vocab": 32000,
    "rounds": 3,
    "length": 2048,
    "score": 2,
    "batch": 8,
    "group": 7,
    "rank": 128,
    "steps": 4,
    "new": 64,
}
TINY = {"hidden": 32, "inner": 64, "blocks": 6, "heads": 4, "shared_heads": 2}
TINY |= {
    "vocab": 128,
    "rounds": 1,
    "length": 16,
    "score": 2,
    "batch": 4,
    "group": 3,
    "rank": 2,
    "steps": 2,
    "new": 4,
    "streamed": 2,
}
SEVENTY_B = SEVEN_B | {"hidden": 8192, "inner": 28672, "blocks": 80, "heads": 64}
SEVENTY_B |= {"shared_heads": 8, "streamed": 2}


def inference(model: Model, sizes: Sizes, device: torch.device, _until: float) -> dict[str, Any]:
    """Prefill and decoding with all blocks, and without a quarter of them; it ends pruned."""
    length, new, blocks = sizes["length"] // 2, sizes["new"], sizes["blocks"]
    ids = torch.randint(sizes["vocab"], (1, length))
    gone, context = [Unit("block", index) for index in range(blocks // 4)], length + new // 2
    width = sizes["hidden"] * sizes["shared_heads"] // sizes["heads"]
    cached = 2 * blocks * width * model.dtype.itemsize
    seconds: dict[str, list[tuple[float, float]]] = {}
    costs = {}
    for name in ("dense", "pruned"):  # not in turn: both do not fit beside each other
        if name == "pruned":
            remove(model, *gone)
        request(model, ids, new)
        seconds[name] = [request(model, ids, new) for _ in range(5)]
        kept = cached * len(model.kept) / blocks
        costs[name] = (prefill_flops(model, length), decode_bytes(model, 1, context, kept))
    found: dict[str, Any] = {"seconds": seconds}
    for place, part in enumerate(("prefill", "decode")):
        arms = [[pair[place] for pair in seconds[name]] for name in ("dense", "pruned")]
        found[part] = ratio(*arms, costs["dense"][place] / costs["pruned"][place])
    return found


def equality(device: torch.device) -> dict[str, Any]:
    """Scores of a tiny model in float32: on the CPU and on the device, resident and streamed."""
    ids = torch.randint(TINY["vocab"], (4, 16), generator=torch.Generator().manual_seed(0))
    here = random_model(TINY, torch.device("cpu"), torch.float32)
    scores = [macro_influence(here, [ids], here.units())]
    here.module.to(device)
    scores.append(macro_influence(here, [ids.to(device)], here.units()))
    return {
        "largest_difference": (scores[0] - scores[1]).abs().max().item(),
        "streamed_difference": streamed_equality(TINY, device),
    }


def main() -> None:
    """Measure what there is time for, and write after each section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to try the script")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds in all")
    options = parser.parse_args()
    begun, device = time.monotonic(), torch.device(options.device)
    sizes, larger = (TINY, TINY) if options.tiny else (SEVEN_B, SEVENTY_B)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    about = {"sizes": dict(sizes), "streamed": dict(larger), "dtype": str(dtype)}
    about["torch"] = torch.__version__
    about["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found: dict[str, Any] = {"about": about}

    def measure(name: str, section: Callable[[float], dict[str, Any]]) -> None:
        began, share = time.monotonic(), SHARES_S[name] * options.limit / LIMIT_S
        end = begun + options.limit
        if end - began < share:
            found[name] = "not measured: no time left"
        else:
            try:
                found[name] = section(end if name == "streamed" else began + share)
                found[name]["section_seconds"] = round(time.monotonic() - began, 1)
            except torch.OutOfMemoryError:
                found[name] = "not measured: out of memory"
            except Exception as error:  # the other sections still run
                found[name] = f"not measured: {type(error).__name__}: {error}"
                traceback.print_exc()
        found["seconds"] = round(time.monotonic() - begun, 1)
        options.output.write_text(json.dumps(found, indent=1) + "\n")

    def measure_resident() -> None:
        model = random_model(sizes, device, dtype)
        for section in (scoring, tuning, linear, inference):
            measure(section.__name__, functools.partial(section, model, sizes, device))

    measure("equality", lambda _: equality(device))
    measure_resident()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    measure("streamed", lambda until: streamed(larger, device, dtype, until))


if __name__ == "__main__":
    main()
