"""What a table shows: the one description of models, recipes, sparsities and evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from fusegpt.config import NonNegativeInt, Number, PositiveInt, Strict, explain
from fusegpt.errors import ConfigError
from fusegpt.results.point import DENSE, Place, Point
from fusegpt.units import KINDS, Granularity

__all__ = [
    "Contents",
    "Curves",
    "Shown",
    "ShownExport",
    "ShownModel",
    "ShownRecipe",
    "parse_contents",
]

Curves = dict[str, dict[str, dict[Number, str]]]
"""Title of an axis to lines, a line being numbers on that axis and the recipe at each."""


class ShownModel(Strict):
    """A model of a table: how many blocks it has, and which step each sparsity is.

    Attributes:
        num_blocks: Blocks of the dense model.
        steps: Sparsity, as it is written, to the removals that reach it.
        mixed_steps: The same of recipes in which attentions and mlps compete: twice the units.
        targets: Recipe id to what was asked for in place of a sparsity, and the removals it takes.
    """

    num_blocks: PositiveInt
    steps: dict[str, NonNegativeInt]
    mixed_steps: dict[str, NonNegativeInt] | None = None
    targets: dict[str, dict[str, NonNegativeInt]] = Field(default_factory=dict)


class ShownRecipe(Strict):
    """A recipe of a table with one seed.

    Attributes:
        width: Whether it cuts the hidden size: results lie under sparsities, not steps.
        granularity: What it removes.
    """

    name: str
    seed: int
    id: str
    width: bool = False
    granularity: Granularity = "block"

    @property
    def units_per_block(self) -> int:
        """How many units of its granularity a block has."""
        return len(KINDS[self.granularity])


class ShownExport(Strict):
    """Files for other programs that a table shows of every model.

    Attributes:
        name: Their name in paths.
        text: How a configuration writes them.
        evaluations: What they are measured by.
    """

    name: str
    text: str
    evaluations: list[str]


@dataclass(frozen=True)
class Shown:
    """A model at a sparsity, in a table.

    Attributes:
        point: What was measured; at a sparsity of 0 the dense model, whatever the recipe.
        recipe: Which recipe, with which seed.
        sparsity: As it is written; of a target the fraction that it came out as.
        num_blocks: Blocks of the dense model.
        asked: Targets that it meets, ``parameters=100M``; empty where a sparsity was asked for.
    """

    point: Point
    recipe: ShownRecipe
    sparsity: str
    num_blocks: int
    asked: str = ""

    @property
    def num_units(self) -> int:
        """Units of the recipe's granularity in the dense model."""
        return self.num_blocks * self.recipe.units_per_block


class Contents(Strict):
    """Everything that a table shows."""

    name: str
    models: dict[str, ShownModel]
    recipes: list[ShownRecipe]
    evaluations: list[str]
    curves: Curves = Field(default_factory=dict)
    exports: list[ShownExport] = Field(default_factory=list)

    def shown(self) -> Iterator[Shown]:
        """Yield every model at every sparsity, in the order models, recipes, sparsities."""
        for name, model in self.models.items():
            for recipe in self.recipes:
                for sparsity, place, asked in _places(model, recipe):
                    point = Point.on(name, recipe.id, place)
                    yield Shown(point, recipe, sparsity, model.num_blocks, asked)

    def to_json(self) -> dict[str, Any]:
        """The description as plain values, without what is as it is by default."""
        return self.model_dump(exclude_defaults=True)


def _places(model: ShownModel, recipe: ShownRecipe) -> Iterator[tuple[str, Place, str]]:
    """Each sparsity with the place where the recipe reaches it; the dense model has one.

    Targets that come out at the sparsity of another entry stand in its line.
    """
    if recipe.id == DENSE:
        yield "0", Place.step(0), ""
    elif recipe.width:
        yield from ((sparsity, Place.sparsity(sparsity), "") for sparsity in model.steps)
    else:
        steps = model.steps if recipe.units_per_block == 1 else model.mixed_steps or {}
        asked: dict[tuple[float, int], list[str]] = {}
        written = {(float(sparsity), step): sparsity for sparsity, step in steps.items()}
        for target, step in model.targets.get(recipe.id, {}).items():
            fraction = step / (model.num_blocks * recipe.units_per_block)
            asked.setdefault((fraction, step), []).append(target)
            written.setdefault((fraction, step), str(fraction))
        for place, sparsity in written.items():
            yield sparsity, Place.step(place[1]), "; ".join(asked.get(place, []))


def parse_contents(value: Mapping[str, Any]) -> Contents:
    """Check the description of a table.

    Raises:
        ConfigError: A key is missing or unknown, or a recipe's name and seed stand for two ids.
    """
    try:
        contents = Contents.model_validate(dict(value))
    except ValidationError as error:
        raise ConfigError(explain(error, "experiment", Contents)) from None
    ids: dict[tuple[str, int], str] = {}
    for recipe in contents.recipes:
        other = ids.setdefault((recipe.name, recipe.seed), recipe.id)
        if other != recipe.id:
            raise ConfigError(
                f"experiment.recipes: {recipe.name!r} with seed {recipe.seed} must have one id,"
                f" got {other!r} and {recipe.id!r}; give one of them another name"
            )
    return contents
