"""Settings of the importance metrics, one class each, with what a round of scoring costs.

A class says in ``takes`` what the run passes to its metric by keyword: ``seed``; ``run``, the
length of the runs of blocks that a contiguous selection scores; ``original``, the dense model,
when ``reference`` is ``original``; ``details``, a table for further numbers of each unit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from fusegpt.config import added_later
from fusegpt.errors import ConfigError
from fusegpt.importance.base import Listed, MetricSettings, block_of, check_numbers
from fusegpt.importance.families import LossWithoutEach, NoPass, OnePass, WithoutEach
from fusegpt.methods import RecipeLike
from fusegpt.units import KINDS, LIMIT, Unit
from fusegpt.work import Passes, Scoring

__all__ = [
    "AngularDistance",
    "BlockInfluence",
    "Given",
    "LastBlocks",
    "LlmBip",
    "MacroInfluence",
    "MetricSettings",
    "Perplexity",
    "Random",
    "RelativeL1",
    "RelativeL2",
    "Sleb",
    "Taylor",
]


class MacroInfluence(WithoutEach):
    """Macro Influence: how far the last hidden states change direction without a unit."""

    paper: ClassVar[str] = "FuseGPT, arXiv 2411.14507, Section III-B, Eq. 3"
    takes: ClassVar[frozenset[str]] = frozenset({"original", "kept_states"})

    def passes(self, scoring: Scoring) -> Passes | None:
        """Return a whole pass and one without each unit, and one of the model compared with."""
        if self.approximate:  # which units go on is not known beforehand
            return None
        dense = scoring.dense if self.reference == "original" else 0
        return Passes(scoring.without_each + dense)


class BlockInfluence(OnePass):
    """Block Influence: how far a unit, or a run of them, changes the hidden states' direction."""

    paper: ClassVar[str] = "ShortGPT, arXiv 2403.03853, Eq. 1"
    takes: ClassVar[frozenset[str]] = frozenset({"run"})


class RelativeL1(OnePass):
    """Relative L1: sum of absolute values of a unit's update, relative to its input's."""

    paper: ClassVar[str] = "A deeper look at depth pruning of LLMs, arXiv 2407.16286"


class RelativeL2(OnePass):
    """Relative L2: Euclidean length of a unit's update, relative to its input's."""

    paper: ClassVar[str] = "A deeper look at depth pruning of LLMs, arXiv 2407.16286"


class LlmBip(OnePass):
    """LLM-BIP: how far the output of its block moves without a unit, relative to that output."""

    paper: ClassVar[str] = "LLM-BIP, arXiv 2412.06419"


class AngularDistance(OnePass):
    """Angular distance across a unit, or a run of them, at the last token."""

    paper: ClassVar[str] = (
        "The Unreasonable Ineffectiveness of the Deeper Layers, arXiv 2403.17887, Eq. 7"
    )
    takes: ClassVar[frozenset[str]] = frozenset({"run"})

    pairs: Annotated[
        bool,
        added_later(
            False,
            "Measure across a block and the one before it, which a merge would make one; pairs in"
            " which a block took another in already come after all others.",
        ),
    ] = False

    @property
    def adds_up(self) -> bool:
        """Whether several jobs can share the windows; pairs are more than sums."""
        return not self.pairs

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse pairs of sublayers, and pairs in runs."""
        if self.pairs and (recipe.granularity != "block" or recipe.selection == "contiguous"):
            raise ConfigError(
                f"{where}.importance.pairs: is for whole blocks that go one by one, got granularity"
                f" {recipe.granularity!r} and selection {recipe.selection!r}"
            )


class Sleb(LossWithoutEach):
    """SLEB: the language-modelling loss without a unit."""

    paper: ClassVar[str] = "SLEB, arXiv 2402.09025, Algorithm 1"


class Perplexity(LossWithoutEach):
    """Perplexity without a unit."""

    paper: ClassVar[str] = "Shortened LLaMA, arXiv 2402.02834, Section 3.1"


class Taylor(MetricSettings):
    """Taylor: what the loss would change, to first order, if a unit's weights were zero."""

    paper: ClassVar[str] = "Shortened LLaMA, arXiv 2402.02834, Section 3.1"
    streams: ClassVar[bool] = False
    takes_gradients: ClassVar[bool] = True

    @property
    def predicts_next_token(self) -> bool:
        """Whether the score is a loss of the next token; it is, to first order."""
        return True

    def passes(self, scoring: Scoring) -> Passes:
        """Return one pass forward, and backward as far as the first unit."""
        return Passes(scoring.blocks, heads=1, backward=scoring.blocks - scoring.first)


class LastBlocks(NoPass):
    """Last blocks: the highest unit goes first; no data is looked at."""

    paper: ClassVar[str] = "Why Lift so Heavy?, arXiv 2402.11700"
    takes: ClassVar[frozenset[str]] = frozenset({"run"})


class Random(NoPass):
    """Random: a seeded order, the baseline that every metric has to beat."""

    takes: ClassVar[frozenset[str]] = frozenset({"seed"})


class Given(NoPass):
    """Given: the units that a list names go, in its order; no data is looked at."""

    takes: ClassVar[frozenset[str]] = frozenset({"run"})

    blocks: Listed = Field(
        default=[],
        description="Units that go, in this order, by their numbers in the dense model: 17,"
        " '14-16'; where sublayers go as scores name them: 'attention 3', 'mlp 5-7'.",
    )

    @property
    def spares_first(self) -> bool:
        """Whether the first block stays: nothing of it is named."""
        return 0 not in map(block_of, self.blocks)

    def place(self, unit: Unit) -> int:
        """Return a unit's place in the list; behind its end where the list does not name it."""
        name = str(unit) if str(unit) in self.blocks else unit.index
        return self.blocks.index(name) if name in self.blocks else len(self.blocks)

    def order(self, units: Sequence[Unit]) -> list[Unit]:
        """Return those of ``units`` that the list names, in its order."""
        named = [unit for unit in units if self.place(unit) < len(self.blocks)]
        return sorted(named, key=self.place)

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse an empty list, units of another kind, protected ones, and other orders."""
        here = f"{where}.importance.blocks"
        if not self.blocks:
            raise ConfigError(f"{here}: must name the units that go, such as [17, '14-16'], got []")
        kinds = KINDS[recipe.granularity]
        for unit in self.blocks:
            kind = str(unit).rpartition(" ")[0]
            if kind not in kinds and (kind or len(kinds) > 1):
                names = " or ".join(repr(f"{name} 3".removeprefix("block ")) for name in kinds)
                raise ConfigError(
                    f"{here}: must be like {names} with granularity {recipe.granularity!r}, got"
                    f" {unit!r}"
                )
        named = [unit if isinstance(unit, str) else f"{kinds[0]} {unit}" for unit in self.blocks]
        twice = [name for place, name in enumerate(named) if name in named[:place]]
        if twice:
            raise ConfigError(f"{here}: must name each unit once, got {twice[0]!r} 2 times")
        if recipe.selection == "one_shot":
            raise ConfigError(
                f"{where}.selection: must be 'iterative' or 'contiguous' with metric 'given', got"
                " 'one_shot'; nothing is scored"
            )
        if recipe.rerank is not None or recipe.keep_pattern:
            key = "keep_pattern" if recipe.keep_pattern else "rerank"
            raise ConfigError(
                f"{where}.{key}: may choose another order; metric 'given' has its own, leave one"
                " of them out"
            )
        self._check_open(self.open_blocks(LIMIT + self.protect_last), here)

    def _check_open(self, places: Collection[int], where: str) -> None:
        for unit in self.blocks:
            if block_of(unit) not in places:
                raise ConfigError(
                    f"{where}: must name units that may go, but {unit!r} is protected"
                )

    def check_numbers(self, recipe: RecipeLike, num_blocks: int) -> None:
        """Refuse numbers that the dense model does not have, and protected ones at its end."""
        super().check_numbers(recipe, num_blocks)
        where = f"recipes.{recipe.name}.importance.blocks"
        check_numbers(self.blocks, num_blocks, where)
        self._check_open(self.open_blocks(num_blocks), where)

    def check_count(self, recipe: RecipeLike, count: int, where: str) -> None:
        """Refuse more removals than the list has, and a run whose units are no neighbours."""
        if count > len(self.blocks):
            raise ConfigError(
                f"{where}: {count} units are to go, but recipe {recipe.name!r} names"
                f" {len(self.blocks)}; lower the sparsity, or name more"
            )
        run = sorted(map(block_of, self.blocks[:count]))
        if recipe.selection == "contiguous" and run[-1] - run[0] >= count:
            raise ConfigError(
                f"{where}: {count} units are to go as one run, but the first {count} of"
                f" recipes.{recipe.name}.importance.blocks are no neighbours, got"
                f" {self.blocks[:count]}"
            )
