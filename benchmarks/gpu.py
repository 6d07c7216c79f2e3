"""One GPU, eight minutes at most, one JSON: scoring, tuning, one matrix, a pruned model's speed.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --tiny --device cpu --output tiny.json

Weights are random, in the shape of LLaMA-2-7B, so nothing is downloaded. Arms take turns (ABBA) in
one process; a row has every second, the median ratio, the bound that counting gives, and whether
the results of the arms agree. A ratio above its bound is marked as noise. Sections for which the
time left is too short say "not measured". Seconds of a whole run are never told from these.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from fusegpt.evaluation.inference import decode_bytes, prefill_flops, request
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import Call, record
from fusegpt.models.surgery.removal import remove, skip
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.leaves import form_into
from fusegpt.nn.losses import LOSSES
from fusegpt.recovery.fit import _Training
from fusegpt.recovery.room import Memory, runner, using
from fusegpt.recovery.settings import Tuning
from fusegpt.recovery.training import BETAS, cosine_factor
from fusegpt.runtime import Timer, generator
from fusegpt.units import Unit

LIMIT_S = 480.0
SEVEN_B = {"hidden": 4096, "inner": 11008, "blocks": 32, "heads": 32, "vocab": 32000}
SEVEN_B |= {
    "rounds": 3,
    "length": 2048,
    "score": 4,
    "batch": 8,
    "group": 7,
    "rank": 128,
    "steps": 4,
    "new": 64,
}
TINY = {"hidden": 32, "inner": 64, "blocks": 6, "heads": 4, "vocab": 128}
TINY |= {
    "rounds": 1,
    "length": 16,
    "score": 2,
    "batch": 4,
    "group": 3,
    "rank": 2,
    "steps": 2,
    "new": 4,
}
Sizes = Mapping[str, int]


def random_model(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Model:
    """A Llama with normal weights, made where it is used."""
    config = LlamaConfig(
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inner"],
        num_hidden_layers=sizes["blocks"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["heads"],
        vocab_size=sizes["vocab"],
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    with device:
        module = LlamaForCausalLM(config).to(dtype)
    return Model.dense(module.requires_grad_(False))


def in_turn(
    arms: Mapping[str, Callable[[], Any]], device: torch.device, rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each arm, there and back in each round, and what each returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for work in arms.values():  # warm-up
        work()
    found = {}
    for _ in range(rounds):
        for name in [*arms, *reversed(arms)]:
            with Timer(device) as timer:
                found[name] = arms[name]()
            seconds[name].append(timer.seconds)
    return seconds, found


def ratio(slow: Sequence[float], quick: Sequence[float], bound: float | None) -> dict[str, Any]:
    """The median of paired ratios beside what counting allows."""
    value = statistics.median(s / q for s, q in zip(slow, quick, strict=True))
    noise = bound is not None and value > bound * 1.02
    return {"ratio": value, "bound": bound, **({"note": "above the bound: noise"} if noise else {})}


@torch.no_grad()
def plain_scores(model: Model, windows: Sequence[Tensor], units: Sequence[Unit]) -> Tensor:
    """The published loop: the whole model once more for every block."""
    total = torch.zeros(len(units), dtype=torch.float64)
    for batch in windows:
        reference = record(model, batch).hidden_out
        for place, unit in enumerate(units):
            with skip(model, [unit]):
                without = record(model, batch).hidden_out
            cosine = functional.cosine_similarity(without.float(), reference.float(), dim=-1)
            total[place] += cosine.sum(dtype=torch.float64).cpu()
    return 1 - total / sum(batch.numel() for batch in windows)


def scoring(model: Model, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """All candidates by a shared prefix against the plain loop."""
    ids = torch.randint(sizes["vocab"], (sizes["score"], sizes["length"])).to(device)
    windows, units = list(ids.split(1)), model.units()
    arms = {
        "plain": lambda: plain_scores(model, windows, units),
        "shared": lambda: macro_influence(model, windows, units),
    }
    seconds, scores = in_turn(arms, device, sizes["rounds"])
    bound = 2 * len(units) / (len(units) + 1)
    gap = (scores["plain"] - scores["shared"]).abs().max().item()
    return {
        "seconds": seconds,
        **ratio(seconds["plain"], seconds["shared"], bound),
        "largest_difference": gap,
    }


def _fused(model: Model, sizes: Sizes, group: Sequence[int]) -> dict[str, FusedWeight]:
    donor, weights = model.matrices(group[-1] + 1), {}
    for index in group:
        for name, parameter in model.matrices(index).items():
            key = f"blocks.{index}.{name}"
            draw = generator(0, key)
            weight = FusedWeight(
                parameter.detach().clone(), update_rank=sizes["rank"], generator=draw
            )
            lent = donor[name].detach()
            weight.add_donor("donor", lent, rank=sizes["rank"], generator=draw)
            weights[key] = weight
    return weights


class PublishedLinear(nn.Module):
    """The published form: the fused weight is formed by autograd in every forward pass."""

    def __init__(self, weight: FusedWeight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Tensor) -> Tensor:
        weight = self.weight
        assert weight.update is not None
        total = weight.base.float() + weight.update()
        for key, coefficient in weight.coefficients.items():
            total = total + coefficient() * weight.donors[key].float()
        return functional.linear(hidden, total.to(hidden.dtype))


def tuning(model: Model, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Optimiser steps of a group: ours with and without recomputation, and the published form."""
    middle = sizes["blocks"] // 2
    group = list(range(middle - sizes["group"], middle)) if middle >= sizes["group"] else [0, 1]
    ids = torch.randint(sizes["vocab"], (sizes["batch"], sizes["length"])).to(device)
    with torch.no_grad():
        seen = record(model, ids, group[0], group[-1] + 1)
    calls, losses = seen.calls[:-1], {}

    def ours(memory: Memory) -> float:
        with using(memory):
            run = runner([model.block(index) for index in group], device, "benchmark")
            weights = _fused(model, sizes, group)

            def loss_of(number: int) -> Tensor:
                return LOSSES["kl_batch"](run(calls, seen.hidden_in), seen.hidden_out)

            plan = Tuning(1, sizes["batch"], 1e-4, loss="kl_batch", coefficient_learning_rate=1e-3)
            steps = sizes["steps"]
            training = _Training(model, weights, loss_of, steps, plan, 0, None, "benchmark")
            rows = training.run(0)
            form_into(training.leaves, {name: _base(w) for name, w in weights.items()})
        return float(rows[-1]["loss"])

    arms = {
        "published": lambda: _published(model, sizes, group, calls, seen),
        "ours": lambda: ours("keep"),
        "recomputed": lambda: ours("spare"),
    }
    peaks = {name: _peak(device, work) for name, work in arms.items()}
    seconds, losses = in_turn(arms, device, sizes["rounds"])
    return {
        "steps": sizes["steps"],
        "seconds": seconds,
        **ratio(seconds["published"], seconds["ours"], None),
        "recomputed_over_ours": ratio(seconds["recomputed"], seconds["ours"], None)["ratio"],
        "last_losses": losses,
        "peak_gib": peaks,
    }


def _base(weight: FusedWeight) -> FusedWeight:
    return FusedWeight(weight.base, update_rank=0, generator=torch.Generator())


def _published(
    model: Model, sizes: Sizes, group: Sequence[int], calls: Sequence[Call], seen: Any
) -> float:
    weights, replaced = _fused(model, sizes, group), []
    for key, weight in weights.items():
        _, index, name = key.split(".", 2)
        parent, _, child = name.removesuffix(".weight").rpartition(".")
        owner = model.block(int(index)).get_submodule(parent)
        replaced.append((owner, child, getattr(owner, child)))
        setattr(owner, child, PublishedLinear(weight))
    try:
        updates = [p for weight in weights.values() for p in weight.update_parameters()]
        others = [p for weight in weights.values() for p in weight.coefficient_parameters()]
        groups = [{"params": updates, "lr": 1e-4}, {"params": others, "lr": 1e-3}]
        optimizer = torch.optim.Adam(groups, betas=BETAS)
        falling = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine_factor(step, sizes["steps"])
        )
        for _ in range(sizes["steps"]):
            hidden = seen.hidden_in
            for index, call in zip(group, calls, strict=True):
                hidden = call.run(model.block(index), hidden)
            loss = LOSSES["kl_batch"](hidden, seen.hidden_out)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
        return float(loss.item())
    finally:
        for owner, child, module in replaced:
            setattr(owner, child, module)


def _peak(device: torch.device, work: Callable[[], Any]) -> float | None:
    """Peak GiB of some work beside what was there; None: not told on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30


def linear(model: Model, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """One matrix, forward and back: trained plainly, fused, and under LoRA, in 1 and 8 parts."""
    rows, cols, rank = sizes["inner"], sizes["hidden"], sizes["rank"]
    dtype, draw = model.dtype, torch.Generator().manual_seed(0)
    base = nn.Parameter(torch.randn(rows, cols, dtype=dtype, device=device))
    states = torch.randn(8 * sizes["length"], cols, dtype=dtype, device=device)
    weight = FusedWeight(base.detach().clone(), update_rank=rank, generator=draw)
    weight.add_donor("donor", base.detach().clone(), rank=rank, generator=draw)
    down = nn.Parameter(torch.randn(rank, cols, dtype=dtype, device=device))
    up = nn.Parameter(torch.zeros(rows, rank, dtype=dtype, device=device))

    def trained(parts: int, fused: bool) -> None:
        base.requires_grad_(True)
        if fused:
            base.data.copy_(weight.form())
        for part in states.chunk(parts):
            functional.linear(part, base).square().mean().backward()
        if fused:
            assert base.grad is not None
            weight.pull(base.grad)
        base.grad = None

    def lora(parts: int) -> None:
        base.requires_grad_(False)
        for part in states.chunk(parts):
            out = functional.linear(part, base) + functional.linear(
                functional.linear(part, down), up
            )
            out.square().mean().backward()
        down.grad = up.grad = None

    found = {}
    for parts in (1, 8):
        arms = {
            "fused": lambda parts=parts: trained(parts, True),
            "plain": lambda parts=parts: trained(parts, False),
            "lora": lambda parts=parts: lora(parts),
        }
        seconds, _ = in_turn(arms, device, sizes["rounds"])  # type: ignore[arg-type]
        over = {name: ratio(seconds["fused"], seconds[name], None) for name in ("plain", "lora")}
        found[f"{parts} parts"] = {"seconds": seconds, "fused_over": over}
    return found


def inference(model: Model, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Prefill and decoding with all blocks, and without a quarter of them; it ends pruned."""
    length, new, blocks = sizes["length"] // 2, sizes["new"], sizes["blocks"]
    ids = torch.randint(sizes["vocab"], (1, length))
    gone, context = [Unit("block", index) for index in range(blocks // 4)], length + new // 2
    cached = 2 * blocks * sizes["hidden"] * model.dtype.itemsize
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
    """Scores of a tiny model in float32 on the CPU and on the device."""
    ids = torch.randint(TINY["vocab"], (4, 16), generator=torch.Generator().manual_seed(0))
    here = random_model(TINY, torch.device("cpu"), torch.float32)
    scores = [macro_influence(here, [ids], here.units())]
    here.module.to(device)
    scores.append(macro_influence(here, [ids.to(device)], here.units()))
    return {"largest_difference": (scores[0] - scores[1]).abs().max().item()}


def main() -> None:
    """Measure what there is time for, and write after each section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to try the script")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds in all")
    options = parser.parse_args()
    begun, sizes = time.monotonic(), TINY if options.tiny else SEVEN_B
    device = torch.device(options.device)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    about = {"sizes": dict(sizes), "dtype": str(dtype), "torch": torch.__version__}
    about["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found: dict[str, Any] = {"about": about, "equality": equality(device)}
    model = random_model(sizes, device, dtype)
    sections = {"scoring": scoring, "tuning": tuning, "linear": linear, "inference": inference}
    longest = 0.0
    for name, section in sections.items():
        spent = time.monotonic() - begun
        if spent + max(longest, 30.0) > options.limit and math.isfinite(options.limit):
            found[name] = "not measured: no time left"
            continue
        found[name] = section(model, sizes, device)
        longest = max(longest, time.monotonic() - begun - spent)
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    found["seconds"] = round(time.monotonic() - begun, 1)
    options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
