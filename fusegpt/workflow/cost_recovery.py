"""What removing and recovering costs before it runs, and the memory that tuning takes at least.

Which block goes, and so how many lie before it, is not known yet: the pass that records what it
computed is counted through all remaining blocks. So FLOPs are the step's record or a little more;
tokens, optimiser steps and trainable parameters are the record's. Where blocks differ in kind,
counts are those of a mean block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fusegpt.pruning.recipe import Recipe
from fusegpt.work import Shape, Stage, Work, forward_rule, total
from fusegpt.workflow.cost import drawn

__all__ = ["Memory", "fuse_work", "least_memory", "merge_work"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 1024**3


def fuse_work(
    recipe: Recipe, num_blocks: int, step: int, shape: Shape | None, sequences: int | None = None
) -> Work:
    """Work of removing and recovering at ``step``, the trials of a re-ranking included.

    Args:
        recipe: Recipe of the run.
        num_blocks: Number of blocks of the dense model.
        step: Number of the step.
        shape: Size of the model's blocks.
        sequences: Windows of a file that was sampled by rows.
    """
    work, rerank = _step_work(recipe, num_blocks, step, shape, sequences), recipe.rerank
    if rerank is None or rerank.candidates == 1:
        return work
    trial = _step_work(recipe.trial(), num_blocks, step, shape, None)
    if shape is not None and trial.flops is not None:
        tokens, left = rerank.judged * recipe.finetune.length, num_blocks - step
        size = (left * shape.values, left * shape.attended)
        judged = forward_rule(*size, tokens, recipe.finetune.length)
        trial = replace(trial, flops=trial.flops + judged)
    stay = recipe.importance.protect_first + recipe.importance.protect_last
    return total([work, *[trial] * min(rerank.candidates, num_blocks - step + 1 - stay)])


def _step_work(
    recipe: Recipe, num_blocks: int, step: int, shape: Shape | None, sequences: int | None
) -> Work:
    if recipe.recovers_at_end:  # it works on merging
        return Work()
    return _work(recipe, _stage(recipe, num_blocks, step, shape, sequences), shape)


def merge_work(
    recipe: Recipe, num_blocks: int, step: int, shape: Shape | None, sequences: int | None = None
) -> Work:
    """Work of recovering after the last removal, ``step``; none for a method of each step."""
    if not recipe.recovers_at_end:
        return Work()
    return _work(recipe, _stage(recipe, num_blocks, step, shape, sequences), shape)


def _stage(
    recipe: Recipe, num_blocks: int, step: int, shape: Shape | None, sequences: int | None
) -> Stage | None:
    number = drawn(recipe, "finetune", sequences) if recipe.needs_windows else 0
    if number is None:
        return None
    left = num_blocks - step
    before = num_blocks if recipe.selection == "contiguous" else left + 1
    known = shape or Shape(values=0, sides=0, width=0)
    blocks = left if recipe.recovers_at_end else before
    return Stage(num_blocks, blocks, left, step, number, recipe.finetune.length, known)


def _work(recipe: Recipe, stage: Stage | None, shape: Shape | None) -> Work:
    """What the recovery counts; the shape is that of a mean whole block, and may be missing."""
    if stage is None:
        return Work(tokens=None, optimizer_steps=None, trainable=None, flops=None)
    work = recipe.recovery.work(stage)
    if work == Work() or (shape is not None and recipe.granularity == "block"):
        return work
    return replace(work, trainable=None, flops=None)


@dataclass(frozen=True)
class Memory:
    """GiB that a step takes at least; activations and what libraries hold come on top.

    Attributes:
        weights: Of the dense model, in the recipe's type; twice where trials take a copy.
        tuning: Factors with gradients and two moments each, copies of the group's and the
            removed block's weights, and the gradients of the group's.
        states: Hidden states entering and leaving the group, in main memory.
    """

    weights: float
    tuning: float
    states: float


def least_memory(
    recipe: Recipe, num_blocks: int, shape: Shape | None, sequences: int | None = None
) -> Memory | None:
    """What the first step holds; ``None`` when the model is not here or nothing was counted."""
    work_of = merge_work if recipe.recovers_at_end else fuse_work
    work = work_of(recipe, num_blocks, 1, shape, sequences)
    stage = _stage(recipe, num_blocks, 1, shape, sequences)
    if shape is None or stage is None or work.trainable is None:
        return None
    size = BYTES[recipe.dtype]
    tries = recipe.rerank is not None and recipe.rerank.candidates > 1
    weights = shape.total * size * (2 if tries else 1)
    if not work.optimizer_steps:
        return Memory(weights / GIB, 0.0, 0.0)
    factors = 4 * BYTES[recipe.recovery.memory_dtype] * work.trainable
    frozen = recipe.recovery.copies(stage) * shape.values * size
    states = recipe.recovery.kept_states(stage) * stage.length * shape.width * size
    return Memory(weights / GIB, (factors + frozen) / GIB, states / GIB)
