"""What families of recoveries share.

They share behaviour, not fields: each class of settings lists its own fields in its own order, with
its own defaults, and a family names those it needs where only a type checker reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from fusegpt.errors import ConfigError
from fusegpt.methods import RecipeLike
from fusegpt.recovery.settings.base import RecoverySettings
from fusegpt.work import Stage, Work

__all__ = ["ClosedForm", "ClosedOrLearned", "GroupTuned", "TunedByLoop", "Tuning"]


@dataclass(frozen=True)
class Tuning:
    """How the blocks around a removed unit are tuned by the loop that all trained recoveries share.

    Attributes:
        epochs: Passes over the windows.
        batch_size: Sequences of one optimiser step; the batch-axis loss depends on it.
        learning_rate: Peak learning rate of everything but coefficients.
        loss: Key of ``fusegpt.nn.losses.LOSSES``.
        teacher: Model whose hidden states are the target: ``current`` or ``original``.
        group_size: Number of neighbours around the removed unit.
        coefficient_learning_rate: Peak learning rate of coefficients; None: as of everything else.
        shuffle: Draw a new order of the batches for each epoch.
        fold: ``each_step`` leaves plain weights; ``at_end`` keeps the factors training.
        warmup: Share of the steps in which the learning rates rise.
        clip_norm: Largest norm of all gradients together; 0: no limit.
        keep: ``last`` or ``best``: the weights of which epoch.
        retries: Further attempts, each with half the learning rates.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    loss: str = "mse"
    teacher: str = "current"
    group_size: int = 1
    coefficient_learning_rate: float | None = None
    shuffle: bool = False
    fold: str = "each_step"
    warmup: float = 0.0
    clip_norm: float = 0.0
    keep: str = "last"
    retries: int = 0


class TunedByLoop(RecoverySettings):
    """Family of the recoveries that are trained by the common loop."""

    if TYPE_CHECKING:
        epochs: int
        batch_size: int

    @property
    def takes_gradients(self) -> bool:
        """Whether gradients go back through the model; they do."""
        return True

    @property
    def batch(self) -> int:
        """Sequences of one batch, which the windows have to fill."""
        return self.batch_size

    def trial(self, epochs: int, group_size: int) -> Self:
        """Return the settings with fewer epochs."""
        return self.model_copy(update={"epochs": epochs})

    def work(self, stage: Stage) -> Work:
        """Return tokens and steps of the loop; a ragged last batch is dropped."""
        steps = stage.sequences // self.batch_size * self.epochs
        tokens = steps * self.batch_size * stage.length
        return Work(tokens=tokens, optimizer_steps=steps, trainable=None, flops=None)

    def kept_states(self, stage: Stage) -> int:
        """Return the states that enter and leave the tuned blocks, of all full batches."""
        return 2 * (stage.sequences // self.batch_size) * self.batch_size

    def tuned(self, stage: Stage, trainable: int, blocks: int) -> Work:
        """Return the work of recording through all remaining blocks and training some of them."""
        loop = TunedByLoop.work(self, stage)
        assert loop.tokens is not None
        flops = stage.forward(stage.blocks, stage.sequences) + stage.training(blocks, loop.tokens)
        return Work(0, loop.tokens, loop.optimizer_steps, trainable, flops)

    def check_batch_loss(self, loss: str, where: str) -> None:
        """Refuse the batch-axis loss on single sequences."""
        if loss == "kl_batch" and self.batch_size < 2:
            raise ConfigError(
                f"{where}.recovery.batch_size: must be at least 2, got {self.batch_size};"
                " Eq. 7 normalises over the batch"
            )


class GroupTuned(TunedByLoop):
    """Family of the recoveries that tune the group around a removed unit with factors."""

    masks: ClassVar[bool] = True
    sublayers: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    lowers_memory: ClassVar[tuple[str, ...]] = ("group_size", "lora_rank", "batch_size")

    if TYPE_CHECKING:
        group_size: int
        lora_rank: int
        loss: str
        teacher: str
        learning_rate: float
        shuffle: bool
        train_norms: bool
        trainable_dtype: str
        fold: str
        warmup: float
        clip_norm: float
        keep: str
        retries: int

    @property
    def streams(self) -> bool:
        """Yes, unless weights of earlier steps are still to be formed from their factors."""
        return self.fold == "each_step"

    @property
    def memory_dtype(self) -> str:
        """Type of the factors."""
        return self.trainable_dtype

    @property
    def pace(self) -> str:
        """Size of the group."""
        return str(self.group_size)

    def trial(self, epochs: int, group_size: int) -> Self:
        """Return the settings with fewer epochs and neighbours."""
        return self.model_copy(update={"epochs": epochs, "group_size": group_size})

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse the batch-axis loss on single sequences."""
        self.check_batch_loss(self.loss, where)

    def tuning(self) -> Tuning:
        """Return how the group is tuned."""
        return Tuning(
            group_size=self.group_size,
            loss=self.loss,
            teacher=self.teacher,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            shuffle=self.shuffle,
            fold=self.fold,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
            keep=self.keep,
            retries=self.retries,
        )

    def group(self, stage: Stage) -> int:
        """Return how many blocks are tuned."""
        return min(self.group_size, stage.left)

    def adapters(self, stage: Stage, rank: int, donors: int) -> Work:
        """Return the work of factors beside each matrix and vectors beside each bias.

        Args:
            stage: The stage that is counted.
            rank: Rank of the coefficients of one donor.
            donors: Number of donors of each weight.
        """
        shape = stage.shape
        each = shape.sides * (self.lora_rank + rank * donors)
        each += shape.biases * (bool(self.lora_rank) + donors)
        if self.train_norms and self.lora_rank:
            each += shape.rest
        group = self.group(stage)
        return self.tuned(stage, group * each, group)

    def held_blocks(self, stage: Stage) -> int:
        """Return the group and the removed block."""
        return max(2, self.group(stage) + 1)

    def copies(self, stage: Stage) -> int:
        """Return the frozen weights and the gradients of the group."""
        return 2 * self.group(stage)


class ClosedForm(RecoverySettings):
    """Family of the recoveries that fit at once and keep the result where it helps."""

    masks: ClassVar[bool] = True
    runs: ClassVar[bool] = True

    if TYPE_CHECKING:
        holdout: float

    @property
    def sees(self) -> int:
        """How often the fitted windows run through the model: to sum, and before, for clipping."""
        return 2 if getattr(self, "clip", 0) else 1

    @property
    def predicts_next_token(self) -> bool:
        """Whether it is judged by the loss of the next token; on the held-out windows it is."""
        return True

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse a single window, of which none could be held out."""
        spec = recipe.finetune
        if spec.rows is None and spec.sequences < 2:
            raise ConfigError(
                f"{where}.finetune.sequences: must be at least 2, got {spec.sequences};"
                f" {recipe.method} compares on windows that it did not fit"
            )

    def fitted(self, stage: Stage) -> int:
        """Return how many windows are fitted on; the others are held out."""
        held = min(max(1, round(stage.sequences * self.holdout)), stage.sequences - 1)
        return stage.sequences - held

    def seen_blocks(self, stage: Stage) -> int:
        """Return how many blocks the fitted windows run through."""
        return stage.blocks

    def work(self, stage: Stage) -> Work:
        """Return the work of the fit, and of two passes over what was held out, logits included."""
        fitted = self.fitted(stage)
        held = stage.sequences - fitted
        flops = self.sees * stage.forward(self.seen_blocks(stage), fitted)
        flops += 2 * stage.forward(stage.left, held) + stage.heads(held * stage.length)
        return Work(0, fitted * stage.length, 0, 0, flops)


class ClosedOrLearned(ClosedForm, TunedByLoop):
    """Family of the recoveries that either fit at once or are trained by the common loop."""

    sublayers: ClassVar[bool] = True

    if TYPE_CHECKING:
        fit: str
        learning_rate: float

    @property
    def learned(self) -> bool:
        """Whether the loop trains it."""
        return self.fit == "learned"

    @property
    def takes_gradients(self) -> bool:
        """Whether gradients go back through the model; those of the loop do."""
        return self.learned

    @property
    def needs_before(self) -> bool:
        """Whether it changes the block before the removed one; it does."""
        return True

    @property
    def predicts_next_token(self) -> bool:
        """Whether it is judged by the loss of the next token; the closed form is."""
        return not self.learned

    @property
    def batch(self) -> int:
        """Sequences of one batch; a closed form has none."""
        return self.batch_size if self.learned else 1

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse a single window for the closed form."""
        if not self.learned:
            super().check(recipe, where)

    def kept_states(self, stage: Stage) -> int:
        """Return the states that are kept while the loop trains."""
        return TunedByLoop.kept_states(self, stage) if self.learned else 0

    def work_of(self, stage: Stage, trainable: int) -> Work:
        """Return the work of the closed form, or of training so many parameters of one block."""
        return self.tuned(stage, trainable, 1) if self.learned else ClosedForm.work(self, stage)
