"""What the jobs of a recipe cost before they run: the methods' own counts, at each place.

A metric counts block forward passes from the units that are there, a recovery and a width method
their whole work; what a method does not count is None here and "not counted" in words. Leaving each
of n blocks out, prefixes shared, runs n·(n+1)/2 blocks; leaving out one sublayer of block i of L
runs L - i. FLOPs are those of ``fusegpt.work``, and two for each value of the output matrix where
logits are formed. The one sequence that shows which blocks the data reach is not counted.

Which block goes, and so how many lie before it, is not known yet: the pass that records what it
computed is counted through all remaining blocks. So FLOPs are the step's record or a little more;
tokens, optimiser steps and trainable parameters are the record's. Where blocks differ in kind,
counts are those of a mean block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fusegpt.pruning.definition import Role
from fusegpt.pruning.recipe import Recipe
from fusegpt.work import (
    BYTES,
    Passes,
    Scoring,
    Shape,
    Stage,
    Work,
    forward_rule,
    head_rule,
    total,
    training_rule,
)

__all__ = ["COUNTED", "Cost", "Memory"]

COUNTED = ("score", "fuse", "merge", "finish", "slice")
"""Rules whose work is counted."""

GIB = 1024**3


@dataclass(frozen=True)
class Memory:
    """GiB that a job takes at least; activations and what libraries hold come on top.

    Attributes:
        weights: Weights of the dense model, in the recipe's type; twice where trials take a copy.
        tuning: Trainable parameters with gradients and two moments each, and what the recovery
            says that it copies of blocks.
        states: Hidden states that the recovery keeps in main memory.
        streamed: What takes the place of ``weights`` where they are read block by block; None: the
            method needs them all.
    """

    weights: float
    tuning: float
    states: float
    streamed: float | None = None


@dataclass(frozen=True)
class Cost:
    """A recipe on a model, whose jobs are counted.

    Attributes:
        recipe: Recipe of depth or of width.
        num_blocks: Number of blocks of the dense model.
        shape: Size of the model's blocks; None: the model is not here.
        drawn: Number of windows in the files that were sampled by rows; none of a role until
            its file is there.
    """

    recipe: Recipe
    num_blocks: int
    shape: Shape | None = None
    drawn: Mapping[Role, int | None] = field(default_factory=dict)

    def work(self, rule: str, step: int = 0) -> Work:
        """Return the work of one job.

        Args:
            rule: One of ``COUNTED``.
            step: Number of the removal, or of removals before a merge; 0 for a slicing.
        """
        if self.recipe.finish is not None and rule != "finish":  # the work of its steps' recipe
            return Work()
        counts = {"score": self._score, "fuse": self._fuse, "merge": self._merge}
        counts["finish"] = self._finish
        return counts[rule](step) if rule in counts else self._slice()

    def memory(self) -> Memory | None:
        """Return what the first job holds; None: the model is not here, or it is not counted."""
        shape, size = self.shape, BYTES[self.recipe.dtype]
        if shape is None:
            return None
        if self.recipe.finish is not None:
            return self._finish_memory(shape.total * size / GIB)
        rerank, recovery = self.recipe.rerank, self.recipe.recovery
        tries = rerank is not None and rerank.candidates > 1
        weights = shape.total * size * (2 if tries else 1) / GIB
        work, stage = total([self._fuse(1), self._merge(1)]), self._stage(1)
        if work.trainable is None or stage is None or recovery.memory_dtype not in BYTES:
            return None
        streamed = None if tries else self._streamed(shape, stage)
        if not work.optimizer_steps:
            return Memory(weights, 0.0, 0.0, streamed)
        factors = 4 * BYTES[recovery.memory_dtype] * work.trainable
        copies = recovery.copies(stage) * shape.values * size
        states = recovery.kept_states(stage) * stage.length * shape.width * size
        return Memory(weights, (factors + copies) / GIB, states / GIB, streamed)

    def _streamed(self, shape: Shape, stage: Stage) -> float | None:
        """GiB of what is in no block, and of the blocks that are in memory at one time."""
        recipe = self.recipe
        able = recipe.importance.streams and recipe.recovery.streams
        if not able or recipe.checkpoint_dtype != "source":
            return None
        outside = shape.total - self.num_blocks * shape.block
        held = recipe.recovery.held_blocks(stage)
        return (outside + held * shape.block) * BYTES[recipe.dtype] / GIB

    def _windows(self, role: Role) -> int | None:
        """Number of windows that are read."""
        spec = self.recipe.windows(role)
        return spec.sequences if spec.rows is None else self.drawn.get(role)

    def _score(self, step: int) -> Work:
        if self.recipe.slices or (self.recipe.selection == "one_shot" and step > 1):
            return Work()
        passes, length = self.recipe.importance.passes(self._scoring(step)), self._length
        if passes is not None and not passes.forward:
            return Work()
        windows = self._windows("calibration")
        tokens = None if windows is None else windows * length
        flops = None
        if passes is not None and tokens is not None and self.shape is not None:
            flops = _scoring_flops(passes, self.shape, tokens, length)
        return Work(passes=None if passes is None else passes.forward, tokens=tokens, flops=flops)

    @property
    def _length(self) -> int:
        return self.recipe.calibration.length

    def _scoring(self, step: int) -> Scoring:
        """What is there before a step; earlier removals of sublayers lie evenly."""
        recipe, dense = self.recipe, self.num_blocks
        places = recipe.importance.open_blocks(dense)
        first = min(places, default=0)
        if recipe.granularity != "block":
            units = len(places) * recipe.num_units(1)
            remaining = max(0, units - step + 1)
            behind = sum(dense - place for place in places) * recipe.num_units(1)
            without_each = dense + behind * remaining / max(1, units)
            return Scoring(dense, dense, remaining, first, without_each, sublayers=True)
        gone = 0 if recipe.selection == "contiguous" else step - 1
        units = len(places) - gone
        # Of those behind a unit, the protected ones are there at every step.
        protected = sum(dense - 1 - place for place in places) - sum(range(len(places)))
        without_each = dense - gone + sum(range(units)) + units * protected / max(1, len(places))
        return Scoring(dense, dense - gone, units, first, without_each, sublayers=False)

    def _fuse(self, step: int) -> Work:
        """Removing and recovering, the trials of a re-ranking included."""
        if self.recipe.slices or self.recipe.recovers_at_end:  # the latter works on merging
            return Work()
        work, rerank = self._recovery(step), self.recipe.rerank
        if rerank is None or rerank.candidates == 1:
            return work
        trial = replace(self, recipe=self.recipe.trial())._recovery(step)
        if self.shape is not None and trial.flops is not None:
            length, left = self.recipe.finetune.length, self.num_blocks - step
            size = (left * self.shape.values, left * self.shape.attended)
            judged = forward_rule(*size, rerank.judged * length, length)
            if rerank.by == "loss":
                judged += head_rule(self.shape.vocab, self.shape.width, rerank.judged * length)
            trial = replace(trial, flops=trial.flops + judged)
        units = len(self.recipe.importance.open_blocks(self.num_blocks))
        candidates = min(rerank.candidates, units - step + 1)
        return total([work, *[trial] * candidates])

    def _merge(self, step: int) -> Work:
        """Recovering after the last removal; none for a method of each step."""
        at_end = self.recipe.recovers_at_end and not self.recipe.slices
        return self._recovery(step) if at_end else Work()

    def _finish(self, step: int) -> Work:
        """Training the whole model; a teacher's answers are counted as if nobody shared them."""
        finish, stage = self.recipe.finish, self._stage(step, "finish")
        if finish is None:
            return Work()
        return NOT_COUNTED if stage is None else self._sized(finish.work(stage))

    def _finish_memory(self, weights: float) -> Memory | None:
        """Weights of the pruned model at most, and float32 masters, gradients and moments."""
        trainable = self._finish(1).trainable
        return None if trainable is None else Memory(weights, 16 * trainable / GIB, 0.0)

    def _recovery(self, step: int) -> Work:
        """What the recovery counts; its shape is that of a mean whole block."""
        stage = self._stage(step)
        return NOT_COUNTED if stage is None else self._sized(self.recipe.recovery.work(stage))

    def _sized(self, work: Work) -> Work:
        known = self.shape is not None and self.recipe.granularity == "block"
        return work if known else _without_size(work)

    def _stage(self, step: int, role: Role = "finetune") -> Stage | None:
        """None: nobody has counted the windows yet."""
        needed = self.recipe.needs_windows or role == "finish"
        windows = self._windows(role) if needed else 0
        if windows is None:
            return None
        left = self.num_blocks - step
        before = self.num_blocks if self.recipe.selection == "contiguous" else left + 1
        blocks = left if self.recipe.recovers_at_end else before
        length, shape = self.recipe.windows(role).length, self.shape or ANY_SHAPE
        return Stage(self.num_blocks, blocks, left, step, windows, length, shape)

    def _slice(self) -> Work:
        if self.recipe.width is None:
            return Work()
        windows = self._windows("calibration")
        if windows is None:
            return NOT_COUNTED
        blocks = (self.num_blocks, self.num_blocks, self.num_blocks, 0)
        stage = Stage(*blocks, windows, self._length, self.shape or ANY_SHAPE)
        work = self.recipe.width.work(stage)
        return work if self.shape is not None else _without_size(work)


ANY_SHAPE = Shape(values=1, sides=1, width=1, biases=1, rest=1, vocab=1, total=1)
"""Stands for the shape that nobody knows: what comes out as zero is zero for every shape."""

NOT_COUNTED = Work(passes=None, tokens=None, optimizer_steps=None, trainable=None, flops=None)


def _without_size(work: Work) -> Work:
    """Leave out what depends on the size of what is tuned."""
    return replace(work, trainable=work.trainable and None, flops=work.flops and None)


def _scoring_flops(passes: Passes, shape: Shape, tokens: int, length: int) -> float:
    """FLOPs of one round of scoring, logits included."""
    backward, width = passes.backward, shape.attended
    forward = passes.forward - backward
    flops = forward_rule(forward * shape.values, forward * width, tokens, length)
    size = (backward * shape.values, backward * width)
    flops += training_rule(*size, tokens, length, adapters=passes.frozen)
    heads = passes.heads + (1 if passes.frozen else 2) * min(passes.heads, backward)
    return flops + head_rule(shape.vocab, shape.width, heads * tokens)
