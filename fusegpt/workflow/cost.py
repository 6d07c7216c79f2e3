"""What a run costs before it runs: block passes, tokens, optimiser steps, FLOPs.

P values lie in a block's matrices, d is its width, S the length of a window, T tokens in all. A
block's forward pass takes T·(2P + 2·S·d), training it T·(6P + 7·S·d), and without the gradient of
frozen matrices T·(4P + 7·S·d). Scoring by leaving each of n blocks out, prefixes shared, runs
n·(n+1)/2 blocks.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fusegpt.artifacts import read_json
from fusegpt.data.directories import weight_files
from fusegpt.errors import ArtifactError
from fusegpt.pruning.recipe import Recipe

__all__ = ["Shape", "Work", "block_shape", "fuse_work", "score_work", "total"]

LEAVE_ONE_OUT = ("macro_influence", "sleb", "perplexity")
ONE_FORWARD = ("block_influence", "relative_l1", "relative_l2", "angular_distance")
NO_DATA = ("last_blocks", "random")
ADAPTERS = {"fusion": ("rank", "lora_rank"), "finetune": ("lora_rank",)}
"""Recoveries that train pairs of factors beside each matrix, with the settings of their ranks."""


@dataclass(frozen=True)
class Shape:
    """Of one block: values in its matrices, sum of their inputs and outputs, width."""

    values: int
    sides: int
    width: int


@dataclass(frozen=True)
class Work:
    """What a job does; ``None``: not counted for this method, or the model is not here yet.

    Attributes:
        passes: Blocks that the calibration windows run through.
        tokens: Calibration tokens of a pass, or tokens that are tuned on, all epochs counted.
        optimizer_steps: Of tuning.
        trainable: Numbers that are free to move.
        flops: By the formulas above.
    """

    passes: int | None = 0
    tokens: int | None = 0
    optimizer_steps: int | None = 0
    trainable: int | None = 0
    flops: float | None = 0.0


def score_work(recipe: Recipe, num_blocks: int, step: int, shape: Shape | None) -> Work:
    """Of scoring before ``step``."""
    windows, n = recipe.windows("calibration"), num_blocks - step + 1
    tokens = windows.sequences * windows.length
    if (recipe.selection != "iterative" and step > 1) or recipe.metric in NO_DATA:
        return Work()
    counts = dict.fromkeys(LEAVE_ONE_OUT, n * (n + 1) // 2) | dict.fromkeys(ONE_FORWARD, n)
    passes = counts.get(recipe.metric) if recipe.selection != "contiguous" else None
    flops = None
    if passes is not None and shape is not None:
        flops = float(passes) * tokens * (2 * shape.values + 2 * windows.length * shape.width)
    return Work(passes=passes, tokens=tokens, flops=flops)


def fuse_work(recipe: Recipe, num_blocks: int, step: int, shape: Shape | None) -> Work:
    """Of removing and recovering at ``step``."""
    if not recipe.trains or recipe.recovers_at_end:  # the latter trains on merging
        return Work()
    settings, windows = recipe.recovery, recipe.windows("finetune")
    if "epochs" not in settings or "batch_size" not in settings:
        return Work(tokens=windows.sequences * windows.length, trainable=None, flops=None)
    batches = windows.sequences // settings["batch_size"]
    steps = batches * settings["epochs"]
    tokens = steps * settings["batch_size"] * windows.length
    tuned = Work(tokens=tokens, optimizer_steps=steps, trainable=None, flops=None)
    ranks = ADAPTERS.get(recipe.method)
    if ranks is None or shape is None:
        return tuned
    group = min(settings["group_size"], num_blocks - step)
    gradients = 6 if recipe.method == "fusion" else 4
    per_token = gradients * shape.values + 7 * windows.length * shape.width
    return Work(
        tokens=tokens,
        optimizer_steps=steps,
        trainable=group * shape.sides * sum(settings[name] for name in ranks),
        flops=float(group) * tokens * per_token,
    )


def total(works: Iterable[Work]) -> Work:
    """The sum; what one of them does not count is not counted. ``trainable``: the most."""
    listed = list(works)

    def add(name: str) -> float | None:
        values = [getattr(work, name) for work in listed]
        return None if None in values else sum(values)

    trainable = [work.trainable for work in listed]
    return Work(
        passes=add("passes"),  # type: ignore[arg-type]
        tokens=add("tokens"),  # type: ignore[arg-type]
        optimizer_steps=add("optimizer_steps"),  # type: ignore[arg-type]
        trainable=None if None in trainable else max((x or 0 for x in trainable), default=0),
        flops=add("flops"),
    )


def block_shape(directory: Path, num_blocks: int) -> Shape | None:
    """Read from the headers of a model's weights; ``None`` when it is not here.

    Blocks are the numbered list with ``num_blocks`` entries that holds the most values.
    """
    try:
        files = weight_files(directory)
        width = _width(directory)
    except ArtifactError:
        return None
    lists: dict[str, dict[int, list[list[int]]]] = defaultdict(lambda: defaultdict(list))
    for name, shape in (item for file in files for item in _tensors(file)):
        match = re.match(r"(.*?)\.(\d+)\.", name)
        if match and len(shape) >= 2:
            lists[match[1]][int(match[2])].append(shape)
    found = [blocks for blocks in lists.values() if len(blocks) == num_blocks]
    if not found or width is None:
        return None
    mean = max(found, key=lambda blocks: sum(math.prod(x) for b in blocks.values() for x in b))
    shapes = [shape for block in mean.values() for shape in block]
    return Shape(
        values=sum(math.prod(shape) for shape in shapes) // num_blocks,
        sides=sum(shape[-1] + shape[-2] for shape in shapes) // num_blocks,
        width=width,
    )


def _width(directory: Path) -> int | None:
    config = read_json(directory / "config.json")
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) else config
    return config.get("hidden_size") or config.get("n_embd") or config.get("d_model")


def _tensors(file: Path) -> Iterable[tuple[str, list[int]]]:
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        for name in tensors.keys():
            yield name, list(tensors.get_slice(name).get_shape())
