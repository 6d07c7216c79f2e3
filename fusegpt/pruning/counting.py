"""The removals that a target takes, by counting.

Nobody knows yet which units will go, so amounts are upper bounds: every removal takes the smallest
unit away. Where blocks are alike, as they nearly always are, the bound is the amount itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fusegpt.errors import ConfigError
from fusegpt.pruning.definition import Recipe
from fusegpt.pruning.target import Target
from fusegpt.work import BYTES, Shape

__all__ = ["Resolved", "most_removals", "resolve_target"]


@dataclass(frozen=True)
class Resolved:
    """The removals that a target takes.

    Attributes:
        target: As ``Target.text`` has it.
        count: Units to remove.
        units: Units of the dense model.
        left: What counting says of the model without them, in words.
    """

    target: str
    count: int
    units: int
    left: str


@dataclass(frozen=True)
class _Counting:
    """A model, a recipe and a target, to be counted after some removals."""

    target: Target
    recipe: Recipe
    shape: Shape
    num_blocks: int
    where: str

    def amount(self, count: int) -> float:
        """What is left of what the target is about after ``count`` removals; a speed-up is made."""
        if self.target.blocks:
            return self.num_blocks - count
        weights = self._known("total") - count * self._least()
        if self.target.parameters:
            return weights
        if self.target.speedup:
            whole = self.num_blocks * self.shape.block + self._known("vocab") * self.shape.width
            return whole / max(1, whole - count * self._least())
        stored, size = self._stored(), self._bytes()
        # A unit that goes may be of the smaller type, where the files hold several.
        left = stored - count * self._least() * (1 << math.floor(size))
        if self.target.file_size:
            return left
        attentions = self.num_blocks - (count if self._takes_attentions else 0)
        assert self.target.context is not None
        tokens = (self.target.batch or 1) * self.target.context
        return left + attentions * tokens * self._known("cache") * (1 << round(size))

    def meets(self, count: int) -> bool:
        """Whether so many removals are enough."""
        wanted, amount = getattr(self.target, self.target.kind), self.amount(count)
        return bool(amount >= wanted if self.target.speedup else amount <= wanted)

    def words(self, count: int) -> str:
        """The amount after ``count`` removals, in words."""
        amount = self.amount(count)
        if self.target.speedup:
            return f"which decodes {amount:.3f} times as fast, counted by the bytes read"
        sized = self.target.file_size or self.target.memory
        alike = self.shape.smallest is None and not (sized and self._bytes() % 1)
        bound = "" if alike and self._is_whole else "at most "
        noun = {"parameters": "parameters", "blocks": "blocks"}.get(self.target.kind, "bytes")
        return f"which leaves {bound}{round(amount):,} {noun}"

    @property
    def _is_whole(self) -> bool:
        return self.recipe.granularity == "block"

    @property
    def _takes_attentions(self) -> bool:
        """Whether each removal takes an attention with its keys and values."""
        return self.recipe.granularity in ("block", "attention")

    def _least(self) -> int:
        """Values that any one removal takes away, at least."""
        shape = self.shape
        if self._is_whole:
            return shape.smallest or shape.block
        if shape.smallest is not None:
            raise ConfigError(
                f"{self.where}: {self.target.text} must be for whole blocks here, as the model's"
                f" differ in size, but {self.recipe.name!r} removes {self.recipe.granularity}; give"
                " a fraction"
            )
        mlp = self._known("mlp")
        sizes = {"attention": shape.values - mlp, "mlp": mlp}
        return sizes.get(self.recipe.granularity, min(sizes.values()))

    def _stored(self) -> int:
        """Bytes of all weights as they will be stored."""
        if self.recipe.checkpoint_dtype != "source":
            return BYTES[self.recipe.checkpoint_dtype] * self._known("total")
        return self._known("stored")

    def _bytes(self) -> float:
        """Bytes of one stored value, in the mean, as a power of two."""
        return max(0.0, math.log2(self._stored() / self._known("total")))

    def _known(self, name: str) -> int:
        value: int | None = getattr(self.shape, name)
        if value is None or (name in ("total", "vocab") and not value):
            raise ConfigError(
                f"{self.where}: {self.target.text} needs {name!r} in the model's shape; fusegpt"
                " info DIRECTORY prints a shape, docs/workflow.md says what else belongs there"
            )
        return value


def resolve_target(
    target: Target,
    recipe: Recipe,
    shape: Shape | None,
    num_blocks: int,
    where: str,
    *,
    model: str = "the model",
    most: int | None = None,
) -> Resolved:
    """Return the smallest number of removals that surely meets a target.

    Args:
        target: What is wanted.
        recipe: Removes units.
        shape: Size of the model before any removal; a target of blocks needs none.
        num_blocks: Number of its blocks.
        where: Names the place in messages.
        model: Names the model in messages.
        most: Number of units that may go; None: as many as of a dense model.

    Raises:
        ConfigError: The recipe cannot meet it, or the shape does not say enough.
    """
    most = most_removals(recipe, num_blocks) if most is None else most
    if target.blocks and recipe.granularity != "block":
        raise ConfigError(
            f"{where}: {target.text} must be for recipes that remove blocks, but {recipe.name!r}"
            f" removes {recipe.granularity}; give a fraction"
        )
    if target.blocks and target.blocks > num_blocks:
        raise ConfigError(f"{where}: {target.text} must be at most {num_blocks}, as {model} has")
    if shape is None and not target.blocks:
        raise ConfigError(
            f"{where}: {target.text} needs the shape of {model} in its entry; fusegpt info"
            " DIRECTORY prints it where the model is"
        )
    size = shape or Shape(values=0, sides=0, width=0)
    counting = _Counting(target, recipe, size, num_blocks, where)
    units = recipe.num_units(num_blocks)
    for count in range(most + 1):
        if counting.meets(count):
            return Resolved(target.text, count, units, counting.words(count))
    raise ConfigError(
        f"{where}: {target.text} cannot be met for {model}: recipe {recipe.name!r} can remove"
        f" {most} of {units} units, {counting.words(most)}; nearer is not possible"
    )


def most_removals(recipe: Recipe, num_blocks: int) -> int:
    """Return how many units of a dense model with so many blocks may go; one stays."""
    chosen = recipe.importance
    named = chosen.order(recipe.all_units(num_blocks))
    able = recipe.num_units(len(chosen.open_blocks(num_blocks))) if named is None else len(named)
    return min(able, recipe.num_units(num_blocks) - 1)
