"""Settings of the importance metrics that look at sub-networks, whole or drawn."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fusegpt.config import Fraction, LearningRate, NonNegativeFloat, PositiveFloat, PositiveInt
from fusegpt.errors import ConfigError
from fusegpt.importance.base import MetricSettings
from fusegpt.methods import RecipeLike
from fusegpt.work import Passes, Scoring

__all__ = ["Gates", "PolicyGradient", "Shapley"]


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
        heads = int(self.target == "logits")
        whole = scoring.dense if self.reference == "original" else 0
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


class PolicyGradient(MetricSettings):
    """Policy gradient: probabilities of keeping units, learned by drawn sub-networks' losses."""

    paper: ClassVar[str] = "Bypass Back-propagation, arXiv 2406.10576"
    takes: ClassVar[frozenset[str]] = frozenset({"seed"})
    streams: ClassVar[bool] = False

    kept: Fraction = Field(
        default=0.75, description="Fraction of the units that a drawn sub-network has on average."
    )
    samples: PositiveInt = Field(
        default=2, description="Number of sub-networks drawn for a sequence at a time, 2 or more."
    )
    rounds: PositiveInt = Field(
        default=50,
        description="Number of times that each sequence is taken; with samples it says the budget:"
        " rounds x samples forward passes of each sequence.",
    )
    learning_rate: LearningRate = Field(
        default=0.01, description="Peak learning rate; it falls along a cosine to zero."
    )
    memory: PositiveInt = Field(
        default=5, description="Number of steps that the moving mean of the losses looks back."
    )

    @property
    def predicts_next_token(self) -> bool:
        """Whether the score comes from a loss of the next token; it does."""
        return True

    def passes(self, scoring: Scoring) -> Passes:
        """Return one whole pass and, on average, those of the sub-networks behind the first unit.

        A block of which only a sublayer is missing runs.
        """
        drawn = self.rounds * self.samples
        missing = 0 if scoring.sublayers else (1 - self.kept) * scoring.units
        return Passes(
            scoring.blocks + drawn * (scoring.blocks - scoring.first - missing), drawn + 1
        )

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse single sub-networks, which have nothing to be compared with, and empty ones."""
        if self.samples < 2:
            raise ConfigError(
                f"{where}.importance.samples: must be at least 2, got {self.samples}; sub-networks"
                " of one sequence are compared with each other"
            )
        if not self.kept:
            raise ConfigError(
                f"{where}.importance.kept: must be above 0, got 0; sub-networks would have no unit"
            )


class Gates(MetricSettings):
    """Gates: a learned factor of what a unit adds, as the model is faded to a smaller one."""

    paper: ClassVar[str] = "FoldGPT, arXiv 2407.00928, gated block removal"
    streams: ClassVar[bool] = False
    takes_gradients: ClassVar[bool] = True

    steps: PositiveInt = Field(default=10, description="Number of steps, all windows each.")
    share: Fraction = Field(
        default=0.25, description="Part of the values that the gates shut out in the end."
    )
    learning_rate: PositiveFloat = Field(
        default=0.1, description="Longest way of a gate in one step; gates start at 1."
    )
    polarise: NonNegativeFloat = Field(
        default=0.01, description="Weight of the penalty on gates between open and shut, in nats."
    )
    epsilon: PositiveFloat = Field(
        default=0.1, description="Square of the gate that lets half of its unit through."
    )

    @property
    def predicts_next_token(self) -> bool:
        """Whether the gates are learned by the loss of the next token; they are."""
        return True

    def passes(self, scoring: Scoring) -> Passes:
        """Return a pass forward for each step, and one backward as far as the first unit."""
        backward = self.steps * (scoring.blocks - scoring.first)
        return Passes(self.steps * scoring.blocks, self.steps, backward, frozen=True)
