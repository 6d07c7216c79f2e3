"""What removing and recovering costs before it runs, and the memory that tuning takes at least.

Which block goes, and so how many lie before it, is not known yet: the pass that records what it
computed is counted through all remaining blocks. So FLOPs are the step's record or a little more;
tokens, optimiser steps and trainable parameters are the record's. Where blocks differ in kind,
counts are those of a mean block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from fusegpt.pruning.recipe import Recipe
from fusegpt.work import Shape, Work, forward_rule, head_rule, total, training_rule
from fusegpt.workflow.cost import drawn

__all__ = ["Memory", "fuse_work", "least_memory", "merge_work"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 1024**3


@dataclass(frozen=True)
class _Step:
    """What the methods below count from.

    Attributes:
        recipe: Of the run.
        dense: Blocks of the dense model.
        alive: Blocks before the step.
        left: Blocks after it.
        number: Of the step.
        sequences: Windows to recover on.
        shape: Of the model.
    """

    recipe: Recipe
    dense: int
    alive: int
    left: int
    number: int
    sequences: int
    shape: Shape

    @property
    def group(self) -> int:
        """Blocks that are tuned."""
        return min(self.recipe.recovery.get("group_size", 1), self.left)

    def forward(self, blocks: int, sequences: int) -> float:
        """FLOPs of running windows through some blocks."""
        length = self.recipe.finetune.length
        size = (blocks * self.shape.values, blocks * self.shape.attended)
        return forward_rule(*size, sequences * length, length)


def fuse_work(
    recipe: Recipe, num_blocks: int, step: int, shape: Shape | None, sequences: int | None = None
) -> Work:
    """Of removing and recovering at ``step``, the trials of a re-ranking included.

    Args:
        recipe: Of the run.
        num_blocks: Of the dense model.
        step: Its number.
        shape: Of the model.
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
    if not recipe.needs_windows or recipe.recovers_at_end:  # the latter works on merging
        return Work()
    number = drawn(recipe, "finetune", sequences)
    if number is None:
        return Work(tokens=None, optimizer_steps=None, trainable=None, flops=None)
    loop = _loop(recipe, number)
    counter = COUNTERS.get(recipe.method)
    if counter is None:
        return loop
    alive = num_blocks if recipe.selection == "contiguous" else num_blocks - step + 1
    known = shape or Shape(values=0, sides=0, width=0)
    work = counter(_Step(recipe, num_blocks, alive, num_blocks - step, step, number, known), loop)
    if shape is None or recipe.granularity != "block":  # the shape is that of a mean whole block
        return Work(tokens=work.tokens, optimizer_steps=work.optimizer_steps, **UNKNOWN)
    return work


UNKNOWN = {"trainable": None, "flops": None}


def merge_work(
    recipe: Recipe, num_blocks: int, step: int, shape: Shape | None, sequences: int | None = None
) -> Work:
    """Of recovering after the last removal, ``step``; nothing for a method of each step."""
    if not recipe.recovers_at_end:
        return Work()
    number = drawn(recipe, "finetune", sequences)
    if number is None:
        return Work(tokens=None, optimizer_steps=None, **UNKNOWN)
    loop = _loop(recipe, number)
    whole = recipe.granularity == "block"
    if recipe.method != "lora" or shape is None or loop.tokens is None or not whole:
        return loop
    left, length = num_blocks - step, recipe.finetune.length
    size = (left * shape.values, left * shape.attended)
    flops = training_rule(*size, loop.tokens, length, adapters=True)
    flops += 2 * head_rule(shape.vocab, shape.width, loop.tokens)
    trainable = left * shape.sides * recipe.recovery["lora_rank"]
    return Work(0, loop.tokens, loop.optimizer_steps, trainable, flops)


def _loop(recipe: Recipe, sequences: int) -> Work:
    """Tokens and steps of the loop that all trained recoveries share."""
    settings, length = recipe.recovery, recipe.finetune.length
    if "epochs" not in settings:
        return Work(tokens=sequences * length, **UNKNOWN)
    steps = sequences // settings["batch_size"] * settings["epochs"]
    tokens = steps * settings["batch_size"] * length
    return Work(tokens=tokens, optimizer_steps=steps, **UNKNOWN)


def _tuned(step: _Step, loop: Work, trainable: int, blocks: int) -> Work:
    """Recording through all remaining blocks, then training ``blocks`` of them."""
    assert loop.tokens is not None
    shape, length = step.shape, step.recipe.finetune.length
    flops = step.forward(step.alive, step.sequences)
    flops += training_rule(blocks * shape.values, blocks * shape.attended, loop.tokens, length)
    return Work(0, loop.tokens, loop.optimizer_steps, trainable, flops)


def _adapters(step: _Step, loop: Work) -> Work:
    """Fine-tuning and fusion: pairs of factors beside each matrix, vectors beside each bias."""
    settings, shape = step.recipe.recovery, step.shape
    update, rank = settings["lora_rank"], settings.get("rank", 0)
    donors = 0 if not rank else step.number if settings["fold"] == "at_end" else 1
    each = shape.sides * (update + rank * donors) + shape.biases * (bool(update) + donors)
    if settings["train_norms"] and update:
        each += shape.rest
    return _tuned(step, loop, step.group * each, step.group)


def _streamline(step: _Step, loop: Work) -> Work:
    shape, length = step.shape, step.recipe.finetune.length
    trainable = shape.values + shape.biases + shape.rest
    if step.recipe.recovery["loss"] != "next_token":
        return _tuned(step, loop, trainable, 1)
    assert loop.tokens is not None
    others = step.left - 1  # all counted as if they lay behind the one that trains
    flops = training_rule(shape.values, shape.attended, loop.tokens, length)
    size = (others * shape.values, others * shape.attended)
    flops += training_rule(*size, loop.tokens, length, adapters=True)
    flops += 2 * head_rule(shape.vocab, shape.width, loop.tokens)
    return Work(0, loop.tokens, loop.optimizer_steps, trainable, flops)


def _least_squares(step: _Step, loop: Work) -> Work:
    settings, work = step.recipe.recovery, _closed_form(step, loop)
    if settings["fit"] != "cosine":
        return work
    assert work.flops is not None and work.tokens is not None
    length, epochs = step.recipe.finetune.length, settings["cosine_epochs"]
    sequences, tokens = work.tokens // length, work.tokens * epochs
    steps = epochs * math.ceil(sequences / settings["cosine_batch_size"])
    blocks = step.dense if settings["teacher"] == "original" else step.alive
    trainable = step.shape.width**2
    flops = work.flops - step.forward(blocks, sequences) + 4.0 * trainable * tokens
    return Work(0, tokens, steps, trainable, flops)


def _low_rank(step: _Step, loop: Work) -> Work:
    settings = step.recipe.recovery
    if settings["fit"] == "learned":
        return _tuned(step, loop, 2 * step.shape.width * settings["rank"], 1)
    return _closed_form(step, loop)


def _additive_bias(step: _Step, loop: Work) -> Work:
    if step.recipe.recovery["fit"] == "learned":
        return _tuned(step, loop, step.shape.width, 1)
    return _closed_form(step, loop)


def _closed_form(step: _Step, loop: Work) -> Work:
    """Seen twice, for clipping and to sum, and two more passes over what was held out."""
    settings = step.recipe.recovery
    held = min(max(1, round(step.sequences * settings["holdout"])), step.sequences - 1)
    fitted = step.sequences - held
    times = 1 if settings.get("scale") == "stream" else 2
    blocks = step.dense if settings.get("teacher") == "original" else step.alive
    flops = times * step.forward(blocks, fitted) + 2 * step.forward(step.left, held)
    return Work(0, fitted * step.recipe.finetune.length, 0, 0, flops)


COUNTERS: dict[str, Callable[[_Step, Work], Work]] = {
    "finetune": _adapters,
    "fusion": _adapters,
    "streamline": _streamline,
    "low_rank": _low_rank,
    "additive_bias": _additive_bias,
    "least_squares": _least_squares,
    "magnitude": _closed_form,
}


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
    number = drawn(recipe, "finetune", sequences)
    if shape is None or work.trainable is None or (recipe.needs_windows and number is None):
        return None
    size = BYTES[recipe.dtype]
    tries = recipe.rerank is not None and recipe.rerank.candidates > 1
    weights = shape.total * size * (2 if tries else 1)
    if not work.optimizer_steps:
        return Memory(weights / GIB, 0.0, 0.0)
    factors = 4 * BYTES[recipe.recovery.get("trainable_dtype", "float32")] * work.trainable
    frozen = 0
    if recipe.method in ("finetune", "fusion"):
        group = min(recipe.recovery["group_size"], num_blocks - 1)
        blocks = 2 * group + (recipe.method == "fusion")
        frozen = blocks * shape.values * size
    batch = recipe.recovery["batch_size"]
    used = 0 if recipe.recovers_at_end else (number or 0) // batch * batch
    states = 2 * used * recipe.finetune.length * shape.width * size
    return Memory(weights / GIB, (factors + frozen) / GIB, states / GIB)
