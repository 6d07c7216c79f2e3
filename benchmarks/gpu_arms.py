"""Arms that take turns, their ratios, and random models, for ``gpu.py``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fusegpt.models.model import Model
from fusegpt.runtime import Timer

Sizes = Mapping[str, int]


def config_of(sizes: Sizes, blocks: int) -> LlamaConfig:
    """A Llama's config with so many blocks."""
    return LlamaConfig(
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inner"],
        num_hidden_layers=blocks,
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["shared_heads"],
        vocab_size=sizes["vocab"],
        max_position_embeddings=4096,
        architectures=["LlamaForCausalLM"],
    )


def random_model(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Model:
    """A Llama with normal weights, made where it is used."""
    torch.manual_seed(0)
    with device:
        module = LlamaForCausalLM(config_of(sizes, sizes["blocks"])).to(dtype)
    return Model.dense(module.requires_grad_(False))


def in_turn(
    arms: Mapping[str, Callable[[], Any]], device: torch.device, rounds: int, until: float
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each arm, there and back in each round, and what each returned last.

    No round begins after ``until``, but the first does.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for work in arms.values():  # warm-up
        work()
    found = {}
    for number in range(rounds):
        if number and time.monotonic() > until:
            break
        for name in [*arms, *reversed(arms)]:
            with Timer(device) as timer:
                found[name] = arms[name]()
            seconds[name].append(timer.seconds)
    return seconds, found


def ratio(slow: Sequence[float], quick: Sequence[float], bound: float | None) -> dict[str, Any]:
    """The median of paired ratios, the lowest and the highest, beside what counting allows."""
    pairs = [s / q for s, q in zip(slow, quick, strict=True)]
    value = statistics.median(pairs)
    found = {"ratio": value, "spread": [min(pairs), max(pairs)], "bound": bound}
    noise = bound is not None and value > bound * 1.02
    return found | ({"note": "above the bound: noise"} if noise else {})


def peak_gib(device: torch.device, work: Callable[[], Any]) -> float | None:
    """Peak GiB of some work beside what was there; None: not told on a CPU."""
    if device.type != "cuda":
        work()
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30
