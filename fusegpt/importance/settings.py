"""Settings of the importance metrics, one class each, with what a round of scoring costs.

A class says in ``takes`` what the run passes to its metric by keyword: ``seed``; ``run``, the
length of the runs of blocks that a contiguous selection scores; ``original``, the dense model,
when ``reference`` is ``original``; ``details``, a table for further numbers of each unit.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from fusegpt.config import Fraction, NonNegativeInt, PositiveInt
from fusegpt.errors import ConfigError
from fusegpt.methods import RecipeLike, Settings
from fusegpt.work import Passes, Scoring

__all__ = [
    "AngularDistance",
    "BlockInfluence",
    "LastBlocks",
    "MacroInfluence",
    "MetricSettings",
    "Perplexity",
    "Random",
    "RelativeL1",
    "RelativeL2",
    "Shapley",
    "Sleb",
    "Taylor",
]


class MetricSettings(Settings):
    """Settings that every metric has.

    Attributes:
        takes: What the run passes to the metric by keyword: ``seed``, ``run``, ``original``,
            ``details``.
        predicts_next_token: Whether the score is a loss of the next token, so that windows need
            two tokens.
    """

    takes: ClassVar[frozenset[str]] = frozenset()

    protect_first: NonNegativeInt = Field(
        default=0, description="Number of blocks at the start that stay."
    )
    protect_last: NonNegativeInt = Field(
        default=0, description="Number of blocks at the end that stay."
    )
    reference: Literal["current", "original"] = Field(
        default="current",
        description="Model whose states or logits a pruned model is compared with, where a metric"
        " compares: the model as pruned so far, or the dense one.",
    )

    @property
    def predicts_next_token(self) -> bool:
        """Whether the score is a loss of the next token."""
        return False

    def own(self) -> dict[str, Any]:
        """Return the settings that only this metric has."""
        return self.model_dump(exclude=set(MetricSettings.model_fields))

    def passes(self, scoring: Scoring) -> Passes | None:
        """Return what one window goes through; ``None``: not counted."""
        return None

    def check_units(self, recipe: RecipeLike, fewest: int, most: int, where: str) -> None:
        """Refuse a number of units among which the metric cannot tell them apart.

        Args:
            recipe: The complete recipe that these settings stand in.
            fewest: Number of units that the last round of scoring chooses from.
            most: Number of units that the first round chooses from.
            where: Name of the place in messages.

        Raises:
            ConfigError: The message says what to do.
        """


class _OnePass(MetricSettings):
    """Metrics that watch one forward pass; around a sublayer its block runs once more."""

    def passes(self, scoring: Scoring) -> Passes:
        return Passes(scoring.blocks + (scoring.units if scoring.sublayers else 0))


class _NoPass(MetricSettings):
    """Metrics that look at no data."""

    def passes(self, scoring: Scoring) -> Passes:
        return Passes(0)


class _LossWithoutEach(MetricSettings):
    """Metrics that measure the loss without each unit."""

    @property
    def predicts_next_token(self) -> bool:
        return True

    def passes(self, scoring: Scoring) -> Passes:
        return Passes(scoring.without_each, heads=scoring.units)


class MacroInfluence(MetricSettings):
    """Macro Influence: how far the last hidden states change direction without a unit."""

    paper: ClassVar[str] = "FuseGPT, arXiv 2411.14507, Section III-B, Eq. 3"
    takes: ClassVar[frozenset[str]] = frozenset({"original"})

    def passes(self, scoring: Scoring) -> Passes:
        """Return a whole pass and one without each unit, and one of the model compared with."""
        dense = scoring.dense if self.reference == "original" else 0
        return Passes(scoring.without_each + dense)


class BlockInfluence(_OnePass):
    """Block Influence: how far a unit, or a run of them, changes the hidden states' direction."""

    paper: ClassVar[str] = "ShortGPT, arXiv 2403.03853, Eq. 1"
    takes: ClassVar[frozenset[str]] = frozenset({"run"})


class RelativeL1(_OnePass):
    """Relative L1: sum of absolute values of a unit's update, relative to its input's."""

    paper: ClassVar[str] = "A deeper look at depth pruning of LLMs, arXiv 2407.16286"


class RelativeL2(_OnePass):
    """Relative L2: Euclidean length of a unit's update, relative to its input's."""

    paper: ClassVar[str] = "A deeper look at depth pruning of LLMs, arXiv 2407.16286"


class AngularDistance(_OnePass):
    """Angular distance across a unit, or a run of them, at the last token."""

    paper: ClassVar[str] = (
        "The Unreasonable Ineffectiveness of the Deeper Layers, arXiv 2403.17887, Eq. 7"
    )
    takes: ClassVar[frozenset[str]] = frozenset({"run"})


class Sleb(_LossWithoutEach):
    """SLEB: the language-modelling loss without a unit."""

    paper: ClassVar[str] = "SLEB, arXiv 2402.09025, Algorithm 1"


class Perplexity(_LossWithoutEach):
    """Perplexity without a unit."""

    paper: ClassVar[str] = "Shortened LLaMA, arXiv 2402.02834, Section 3.1"


class Taylor(MetricSettings):
    """Taylor: what the loss would change, to first order, if a unit's weights were zero."""

    paper: ClassVar[str] = "Shortened LLaMA, arXiv 2402.02834, Section 3.1"

    @property
    def predicts_next_token(self) -> bool:
        """Whether the score is a loss of the next token; it is, to first order."""
        return True

    def passes(self, scoring: Scoring) -> Passes:
        """Return one pass forward, and backward as far as the first unit."""
        return Passes(scoring.blocks, heads=1, backward=scoring.blocks - scoring.first)


class Shapley(MetricSettings):
    """Shapley: how much worse sub-networks without a unit are than those with it."""

    paper: ClassVar[str] = "A deeper look at depth pruning of LLMs, arXiv 2407.16286"
    takes: ClassVar[frozenset[str]] = frozenset({"seed", "original", "details"})

    target: Literal["loss", "logits"] = Field(
        default="loss",
        description="What is compared: the sub-network's loss of the next token, or the distance"
        " of its logits from the reference model's.",
    )
    subnetworks: Literal["leave_one_out", "sampled"] = Field(
        default="leave_one_out",
        description="Each sub-network lacks one unit, as published for blocks, or they are drawn.",
    )
    kept: Fraction = Field(
        default=0.5, description="Fraction of the units in a drawn sub-network, rounded down."
    )
    samples: PositiveInt = Field(
        default=10, description="Number of sub-networks drawn for each sequence."
    )

    @property
    def predicts_next_token(self) -> bool:
        """Whether the score is a loss of the next token; with target ``loss`` it is."""
        return self.target == "loss"

    def passes(self, scoring: Scoring) -> Passes | None:
        """Return what one window goes through.

        Drawn sub-networks start at the first block they lack: when each lacks m of u units, any m
        alike, that is (u - m)/(m + 1) units in, on average.
        """
        whole = heads = 0
        if self.target == "logits":
            whole = scoring.dense if self.reference == "original" else scoring.blocks
            heads = 1
        if self.subnetworks == "leave_one_out":
            return Passes(scoring.without_each + whole, heads=scoring.units + heads)
        if scoring.sublayers:
            return None
        lacking = scoring.units - int(self.kept * scoring.units)
        first = scoring.first + (scoring.units - lacking) / (lacking + 1)
        drawn = self.samples * (scoring.blocks - lacking - first)
        return Passes(scoring.blocks + whole + drawn, heads=self.samples + heads)

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse a reference that is not looked at, and sub-networks without a unit."""
        if self.reference == "original" and self.target == "loss":
            raise ConfigError(f"{where}.importance.reference: 'original' needs target 'logits'")
        if self.subnetworks == "sampled" and not self.kept:
            raise ConfigError(
                f"{where}.importance.kept: must be above 0 with sampled sub-networks, got 0; they"
                " would have no unit"
            )

    def check_units(self, recipe: RecipeLike, fewest: int, most: int, where: str) -> None:
        """Refuse draws in which some unit could be in all sub-networks, or in none."""
        if self.subnetworks != "sampled":
            return
        text = f"{where}: recipe {recipe.name!r} draws sub-networks with {self.kept:g} of the units"
        if int(self.kept * fewest) == 0:
            raise ConfigError(f"{text}, which is none of {fewest}; raise importance.kept")
        if recipe.calibration.rows is not None:
            return
        number = self.samples * recipe.calibration.sequences
        if number * (most - int(self.kept * most)) < most:
            raise ConfigError(
                f"{text}: {number} of them do not do without each of {most} units once; raise"
                " importance.samples"
            )


class LastBlocks(_NoPass):
    """Last blocks: the highest unit goes first; no data is looked at."""

    paper: ClassVar[str] = "Why Lift so Heavy?, arXiv 2402.11700"
    takes: ClassVar[frozenset[str]] = frozenset({"run"})


class Random(_NoPass):
    """Random: a seeded order, the baseline that every metric has to beat."""

    takes: ClassVar[frozenset[str]] = frozenset({"seed"})
