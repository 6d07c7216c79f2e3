"""What scoring costs before it runs: block forward passes, tokens, FLOPs; and their sums.

Leaving each of n blocks out, prefixes shared, runs n·(n+1)/2 blocks; leaving out one sublayer of
block i of L runs L - i. FLOPs are those of
``fusegpt.work``, and two for each value of the output matrix where logits are formed.
The one sequence that shows which blocks the data reach is not counted.
"""

from __future__ import annotations

from fusegpt.pruning.recipe import Recipe
from fusegpt.work import Scoring, Shape, Work, forward_rule, head_rule, training_rule

__all__ = ["drawn", "score_work"]


def drawn(recipe: Recipe, role: str, sequences: int | None) -> int | None:
    """Windows of a role; ``None`` where rows are drawn and nobody has counted what they fill."""
    spec = recipe.windows(role)  # type: ignore[arg-type]
    return sequences if spec.rows is not None else spec.sequences


def score_work(
    recipe: Recipe, num_blocks: int, step: int, shape: Shape | None, sequences: int | None = None
) -> Work:
    """Work of scoring before ``step``; ``sequences``: windows of a file sampled by rows."""
    if recipe.selection == "one_shot" and step > 1:
        return Work()
    number, length = drawn(recipe, "calibration", sequences), recipe.calibration.length
    counted = recipe.importance.passes(_scoring(recipe, num_blocks, step))
    if counted is not None and not counted.forward:
        return Work()
    tokens = None if number is None else number * length
    flops = None
    if counted is not None and tokens is not None and shape is not None:
        backward, width = counted.backward, shape.attended
        forward = counted.forward - backward
        flops = forward_rule(forward * shape.values, forward * width, tokens, length)
        flops += training_rule(backward * shape.values, backward * width, tokens, length)
        heads = counted.heads + 2 * min(counted.heads, backward)
        flops += head_rule(shape.vocab, shape.width, heads * tokens)
    passes = None if counted is None else counted.forward
    return Work(passes=passes, tokens=tokens, flops=flops)


def _scoring(recipe: Recipe, num_blocks: int, step: int) -> Scoring:
    """What is there before a step; earlier removals of sublayers lie evenly."""
    first, last = recipe.importance.protect_first, recipe.importance.protect_last
    if recipe.granularity != "block":
        places = range(first, num_blocks - last)
        units = len(places) * recipe.num_units(1)
        remaining = max(0, units - step + 1)
        behind = sum(num_blocks - place for place in places) * recipe.num_units(1)
        without_each = num_blocks + behind * remaining / max(1, units)
        return Scoring(num_blocks, num_blocks, remaining, first, without_each, sublayers=True)
    blocks = num_blocks if recipe.selection == "contiguous" else num_blocks - step + 1
    places = range(first, blocks - last)
    without_each = blocks + sum(blocks - 1 - place for place in places)
    return Scoring(num_blocks, blocks, len(places), first, without_each, sublayers=False)
