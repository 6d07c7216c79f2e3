"""What scoring costs before it runs: block forward passes, tokens, FLOPs; and their sums.

Leaving each of n blocks out, prefixes shared, runs n·(n+1)/2 blocks; leaving out one half of block
i of L runs L - i. FLOPs are those of
``fusegpt.recovery.flops``, and two for each value of the output matrix where logits are formed.
The one sequence that shows which blocks the data reach is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusegpt.pruning.recipe import Recipe
from fusegpt.recovery.flops import forward_rule, training_rule
from fusegpt.work import Shape, Work

__all__ = ["drawn", "score_work"]


@dataclass(frozen=True)
class _Passes:
    """Of one round of scoring: blocks run forward, logits formed, blocks run backward."""

    forward: float
    heads: float = 0
    backward: int = 0


def drawn(recipe: Recipe, role: str, sequences: int | None) -> int | None:
    """Windows of a role; ``None`` where rows are drawn and nobody has counted what they fill."""
    spec = recipe.windows(role)  # type: ignore[arg-type]
    return sequences if spec.rows is not None else spec.sequences


def score_work(
    recipe: Recipe, num_blocks: int, step: int, shape: Shape | None, sequences: int | None = None
) -> Work:
    """Of scoring before ``step``; ``sequences``: of a file that was sampled by rows."""
    if recipe.selection == "one_shot" and step > 1:
        return Work()
    number, length = drawn(recipe, "calibration", sequences), recipe.calibration.length
    counted = _passes(recipe, num_blocks, step)
    if counted is not None and not counted.forward:
        return Work()
    tokens = None if number is None else number * length
    flops = None
    if counted is not None and tokens is not None and shape is not None:
        backward, width = counted.backward, shape.width
        forward = counted.forward - backward
        flops = forward_rule(forward * shape.values, forward * width, tokens, length)
        flops += training_rule(backward * shape.values, backward * width, tokens, length)
        heads = counted.heads + 2 * min(counted.heads, backward)
        flops += 2.0 * heads * shape.vocab * width * tokens
    passes = None if counted is None else counted.forward
    return Work(passes=passes, tokens=tokens, flops=flops)


def _passes(recipe: Recipe, num_blocks: int, step: int) -> _Passes | None:
    if recipe.granularity != "block":
        return _passes_of_halves(recipe, num_blocks, step)
    contiguous = recipe.selection == "contiguous"
    alive = num_blocks if contiguous else num_blocks - step + 1
    common = recipe.importance
    places = range(common["protect_first"], alive - common["protect_last"])
    without_each = alive + sum(alive - 1 - place for place in places)
    match recipe.metric:
        case "last_blocks" | "random":
            return _Passes(0)
        case "block_influence" | "relative_l1" | "relative_l2" | "angular_distance":
            return _Passes(alive)
        case "macro_influence":
            dense = num_blocks if common["reference"] == "original" else 0
            return _Passes(without_each + dense)
        case "sleb" | "perplexity":
            return _Passes(without_each, heads=len(places))
        case "taylor":
            return _Passes(alive, heads=1, backward=alive - common["protect_first"])
        case "shapley":
            return _shapley(recipe, num_blocks, alive, places, without_each)
    return None


def _passes_of_halves(recipe: Recipe, num_blocks: int, step: int) -> _Passes | None:
    """Blocks run whole or by half, all counted alike; earlier removals lie evenly."""
    common = recipe.importance
    places = range(common["protect_first"], num_blocks - common["protect_last"])
    units = len(places) * recipe.num_units(1)
    remaining = max(0, units - step + 1)
    behind = sum(num_blocks - place for place in places) * recipe.num_units(1)
    without_each = num_blocks + behind * remaining / max(1, units)
    match recipe.metric:
        case "last_blocks" | "random":
            return _Passes(0)
        case "block_influence" | "relative_l1" | "relative_l2" | "angular_distance":
            return _Passes(num_blocks + remaining)
        case "macro_influence":
            dense = num_blocks if common["reference"] == "original" else 0
            return _Passes(without_each + dense)
        case "sleb" | "perplexity":
            return _Passes(without_each, heads=remaining)
        case "taylor":
            return _Passes(num_blocks, heads=1, backward=len(places))
        case "shapley" if common["subnetworks"] == "leave_one_out":
            logits = common["target"] == "logits"
            return _Passes(without_each + (num_blocks if logits else 0), heads=remaining + logits)
    return None


def _shapley(
    recipe: Recipe, num_blocks: int, alive: int, places: range, without_each: int
) -> _Passes:
    """Drawn sub-networks start at the first block they lack: on average (u - m)/(m + 1) in.

    u units may go and each lacks m of them, any m alike.
    """
    settings, whole, heads = recipe.importance, 0, 0
    if settings["target"] == "logits":
        whole, heads = (num_blocks if settings["reference"] == "original" else alive), 1
    if settings["subnetworks"] == "leave_one_out":
        return _Passes(without_each + whole, heads=len(places) + heads)
    units, samples = len(places), settings["samples"]
    lacking = units - int(settings["kept"] * units)
    first = places.start + (units - lacking) / (lacking + 1)
    forward = alive + whole + samples * (alive - lacking - first)
    return _Passes(forward, heads=samples + heads)
