"""What the run asks of every recovery's settings."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from fusegpt.methods import Settings
from fusegpt.work import Stage, Work

__all__ = ["RecoverySettings"]


class RecoverySettings(Settings):
    """Settings of a recovery; a method changes what is not so for it.

    Attributes:
        when: ``step``: it works after each removal. ``end``: once, after the last one.
        needs_windows: Whether it needs windows of text.
        acts: Whether it changes what remains, so that trials of candidates tell it from others.
        runs: Whether it also takes a run of neighbouring blocks that are removed at once.
        sublayers: Whether it also works for attentions and mlps.
        masks: Whether padding has no share in what it does, and predictions that do not count.
        splits: Whether several processes can share its work.
        lowers_memory: Names of the settings that a user can turn down when memory runs out.
    """

    when: ClassVar[Literal["step", "end"]] = "step"
    needs_windows: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    runs: ClassVar[bool] = False
    sublayers: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    splits: ClassVar[bool] = False
    lowers_memory: ClassVar[tuple[str, ...]] = ()

    @property
    def streams(self) -> bool:
        """Whether it also works where weights are read block by block.

        Then it reads and changes no other weights than those it asked for with ``Model.hold``.
        """
        return False

    @property
    def needs_before(self) -> bool:
        """Whether it changes the block before the removed one, so that the first cannot go."""
        return False

    @property
    def takes_gradients(self) -> bool:
        """Whether gradients go back through the model, which float16 is too narrow for."""
        return False

    @property
    def predicts_next_token(self) -> bool:
        """Whether it is tuned or judged by the loss of the next token: windows need two tokens."""
        return False

    @property
    def batch(self) -> int:
        """Number of sequences that are needed at once."""
        return 1

    @property
    def memory_dtype(self) -> str:
        """Type of the trainable parameters."""
        return "float32"

    @property
    def pace(self) -> str:
        """Text of the settings that decide how long one token takes."""
        return ""

    def trial(self, epochs: int, group_size: int) -> Self:
        """Return the settings of a short trial, where the method has anything to shorten."""
        return self

    def work(self, stage: Stage) -> Work:
        """Return what one recovery does; ``None`` where it is not counted."""
        return Work(tokens=None, optimizer_steps=None, trainable=None, flops=None)

    def held_blocks(self, stage: Stage) -> int:
        """Return how many blocks are in memory at one time where weights are streamed."""
        return 2  # one runs, the next is read

    def copies(self, stage: Stage) -> int:
        """Return how many blocks' values lie beside the model while it is tuned."""
        return 0

    def kept_states(self, stage: Stage) -> int:
        """Return how many hidden states, a sequence each, are kept in main memory meanwhile."""
        return 0
