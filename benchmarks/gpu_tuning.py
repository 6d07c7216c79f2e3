"""Optimiser steps of a group and single matrices, for ``gpu.py``."""

from __future__ import annotations

import copy
import functools
import gc
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gpu_arms import Sizes, in_turn, peak_gib, ratio
from torch import Tensor, nn
from torch.nn import functional

from fusegpt.models.model import Model
from fusegpt.models.structure.replay import Recording, record, run_blocks
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.leaves import form_into
from fusegpt.nn.losses import LOSSES
from fusegpt.recovery.fit import _Training
from fusegpt.recovery.room import Memory, runner, using
from fusegpt.recovery.settings import Tuning
from fusegpt.recovery.training import BETAS, cosine_factor
from fusegpt.runtime import generator

CASES = ((1, 1), (1, 4), (8, 1))
"""Parts that the tokens of a batch come in, and donors of the matrix."""


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


def tuning(model: Model, sizes: Sizes, device: torch.device, until: float) -> dict[str, Any]:
    """Optimiser steps of a group: ours, ours with recomputation, and the published loop.

    ``plain`` is the published loop with our kernels and its states on the device, ``published``
    the same with what its code does besides in every step. Factors are drawn once, before.
    """
    middle = sizes["blocks"] // 2
    group = list(range(middle - sizes["group"], middle)) if middle >= sizes["group"] else [0, 1]
    ids = torch.randint(sizes["vocab"], (sizes["batch"], sizes["length"])).to(device)
    with torch.no_grad():
        seen = record(model, ids, group[0], group[-1] + 1)
    calls, losses, fresh = seen.calls[:-1], {}, _fused(model, sizes, group)

    def ours(memory: Memory) -> float:
        with using(memory):
            run = runner([model.block(index) for index in group], device, "benchmark")
            weights = copy.deepcopy(fresh)

            def loss_of(number: int) -> Tensor:
                return LOSSES["kl_batch"](run(calls, seen.hidden_in), seen.hidden_out)

            plan = Tuning(1, sizes["batch"], 1e-4, loss="kl_batch", coefficient_learning_rate=1e-3)
            steps = sizes["steps"]
            training = _Training(model, weights, loss_of, steps, plan, 0, None, "benchmark")
            rows = training.run(0)
            form_into(training.leaves, {name: _base(w) for name, w in weights.items()})
        return float(rows[-1]["loss"])

    arms = {
        "plain": lambda: _published(model, sizes, copy.deepcopy(fresh), seen, False),
        "published": lambda: _published(model, sizes, copy.deepcopy(fresh), seen, True),
        "ours": lambda: ours("keep"),
        "recomputed": lambda: ours("spare"),
    }
    on_gpu = device.type == "cuda"
    peaks = {name: peak_gib(device, work) for name, work in arms.items() if on_gpu}
    seconds, losses = in_turn(arms, device, sizes["rounds"], until)
    return {
        "steps": sizes["steps"],
        "seconds": seconds,
        **ratio(seconds["plain"], seconds["ours"], None),
        "published_over_ours": ratio(seconds["published"], seconds["ours"], None),
        "recomputed_over_ours": ratio(seconds["recomputed"], seconds["ours"], None),
        "last_losses": losses,
        "peak_gib": peaks,
    }


def _base(weight: FusedWeight) -> FusedWeight:
    return FusedWeight(weight.base, update_rank=0, generator=torch.Generator())


def _published(
    model: Model, sizes: Sizes, weights: Mapping[str, FusedWeight], seen: Recording, whole: bool
) -> float:
    """Autograd forms the fused weights; ``whole``: and states come from main memory each step."""
    replaced = []
    group = sorted({int(key.split(".", 2)[1]) for key in weights})
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
        blocks, device = [model.block(index) for index in group], seen.hidden_in.device
        states = (seen.hidden_in, seen.hidden_out)
        states = tuple(state.cpu() for state in states) if whole else states
        for _ in range(sizes["steps"]):
            if whole:
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            entering, target = (state.to(device) for state in states)
            hidden = run_blocks(blocks, seen.calls[:-1], entering)
            loss = LOSSES["kl_batch"](hidden, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
        return float(loss.item())
    finally:
        for owner, child, module in replaced:
            setattr(owner, child, module)


def linear(model: Model, sizes: Sizes, device: torch.device, until: float) -> dict[str, Any]:
    """One matrix, forward and back: trained plainly, fused, under LoRA; in parts, with donors."""
    rows, cols, rank = sizes["inner"], sizes["hidden"], sizes["rank"]
    dtype, draw = model.dtype, torch.Generator().manual_seed(0)
    base = nn.Parameter(torch.randn(rows, cols, dtype=dtype, device=device))
    states = torch.randn(8 * sizes["length"], cols, dtype=dtype, device=device)
    fused = {}
    for donors in (1, 4):
        fused[donors] = FusedWeight(base.detach().clone(), update_rank=rank, generator=draw)
        for number in range(donors):
            lent = base.detach().clone()
            fused[donors].add_donor(f"donor {number}", lent, rank=rank, generator=draw)
    down = nn.Parameter(torch.randn(rank, cols, dtype=dtype, device=device))
    up = nn.Parameter(torch.zeros(rows, rank, dtype=dtype, device=device))

    def trained(parts: int, weight: FusedWeight | None) -> None:
        base.requires_grad_(True)
        if weight is not None:
            base.data.copy_(weight.form())
        for part in states.chunk(parts):
            functional.linear(part, base).square().mean().backward()
        if weight is not None:
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
    for parts, donors in CASES:
        arms = {
            "fused": functools.partial(trained, parts, fused[donors]),
            "plain": functools.partial(trained, parts, None),
            "lora": functools.partial(lora, parts),
        }
        left = (until - time.monotonic()) / (len(CASES) - len(found))
        seconds, _ = in_turn(arms, device, sizes["rounds"], time.monotonic() + left)
        over = {name: ratio(seconds["fused"], seconds[name], None) for name in ("plain", "lora")}
        found[f"{parts} parts, {donors} donors"] = {"seconds": seconds, "fused_over": over}
    return found
