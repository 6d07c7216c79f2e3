"""What a job does, before it runs: the size of a model's blocks, and the work that follows.

One rule counts FLOPs everywhere. A block's forward pass over T tokens in windows of S takes
T·(2P + 2·S·d): P values in its matrices, two operations each, and two products of attention, each
d wide, over half of S on average, since attention is causal. d is the number of heads times the
size of a head, which need not be the size of the hidden states. Training every matrix takes
T·(6P + 7·S·d): forward, both gradients, and 2.5 forwards of attention back. Adapters leave out the
gradient of the frozen matrices: T·(4P + 7·S·d). Logits take two operations for each value of the
output matrix. A finish with ``checkpointing`` takes another forward pass. Left out are what other
trainings compute again where memory is short; norms, softmax, recurrences and the optimiser; the
passes that only compare a training's loss before, after and, with ``keep: best``, between its
epochs; and the one in which a group's tuning records the dense model as its teacher. All experts
count, though a token visits few, and so does the whole window, though attention may look back less
far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fusegpt.config import NonNegativeInt, Strict

__all__ = [
    "BYTES",
    "Passes",
    "Scoring",
    "Shape",
    "Stage",
    "Work",
    "attention_width",
    "cached_values",
    "forward_rule",
    "head_rule",
    "total",
    "training_rule",
]


BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one value."""


class Shape(Strict):
    """Size of one block, as the mean of all, and of the model.

    Attributes:
        values: Number of values in the block's matrices.
        sides: Sum of the inputs and outputs of these matrices.
        width: Size of the hidden states.
        biases: Number of values in the biases of these matrices.
        rest: Number of values in its norms and whatever else it has.
        vocab: Number of entries of the vocabulary.
        total: Number of values in the whole model.
        attention: Width of the attention, heads times the size of a head; None: as ``width``.
        smallest: Number of values in the smallest block, all that it has; None: blocks are alike.
        mlp: Number of values in the matrices of the block's mlp.
        cache: Number of values that the block's attention keeps of each token: keys and values.
        stored: Number of bytes of the model's weights in its files.
    """

    values: NonNegativeInt
    sides: NonNegativeInt
    width: NonNegativeInt
    biases: NonNegativeInt = 0
    rest: NonNegativeInt = 0
    vocab: NonNegativeInt = 0
    total: NonNegativeInt = 0
    attention: NonNegativeInt | None = None
    smallest: NonNegativeInt | None = None
    mlp: NonNegativeInt | None = None
    cache: NonNegativeInt | None = None
    stored: NonNegativeInt | None = None

    @property
    def block(self) -> int:
        """Number of values of one block, all that it has."""
        return self.values + self.biases + self.rest

    @property
    def attended(self) -> int:
        """Width of the products of one block's attention."""
        return self.width if self.attention is None else self.attention


@dataclass(frozen=True)
class Work:
    """What a job does; ``None``: not counted for this method, or the model is not here yet.

    Attributes:
        passes: Number of block forward passes of the calibration windows.
        tokens: Calibration tokens of a pass, or tokens that are tuned on, all epochs counted.
        optimizer_steps: Number of steps of the optimiser.
        trainable: Number of trainable parameters, at most.
        flops: Floating-point operations by the rules of this module, at most.
    """

    passes: float | None = 0
    tokens: int | None = 0
    optimizer_steps: int | None = 0
    trainable: int | None = 0
    flops: float | None = 0.0


@dataclass(frozen=True)
class Scoring:
    """One round of scoring, as a metric counts its passes from it.

    Attributes:
        dense: Number of blocks of the dense model.
        blocks: Number of blocks that are there before the step.
        units: Number of units that are scored.
        first: Number of blocks before the first one that may go.
        without_each: Number of block forward passes that run the model whole and then without
            each unit, where the work before the missing unit is shared.
        sublayers: Whether the units are attentions and mlps.
    """

    dense: int
    blocks: int
    units: int
    first: int
    without_each: float
    sublayers: bool


@dataclass(frozen=True)
class Passes:
    """What one window goes through while a metric scores.

    Attributes:
        forward: Number of blocks run forward; one run for one of its sublayers counts whole.
        heads: Number of times that logits are formed.
        backward: Number of blocks run backward.
        frozen: Whether weights get no gradient on the way back.
    """

    forward: float
    heads: float = 0
    backward: int = 0
    frozen: bool = False


@dataclass(frozen=True)
class Stage:
    """One recovery or one slicing, as a method counts its work from it.

    Attributes:
        dense: Number of blocks of the dense model.
        blocks: Number of blocks before the stage.
        left: Number of blocks after it.
        number: Number of removals up to it, its own included.
        sequences: Number of windows that it reads.
        length: Tokens of a window.
        shape: Size of the model's blocks.
    """

    dense: int
    blocks: int
    left: int
    number: int
    sequences: int
    length: int
    shape: Shape

    def forward(self, blocks: int, sequences: int) -> float:
        """FLOPs of running windows through some blocks."""
        size = (blocks * self.shape.values, blocks * self.shape.attended)
        return forward_rule(*size, sequences * self.length, self.length)

    def training(self, blocks: int, tokens: int, *, adapters: bool = False) -> float:
        """FLOPs of training some blocks; ``adapters``: their matrices are frozen."""
        size = (blocks * self.shape.values, blocks * self.shape.attended)
        return training_rule(*size, tokens, self.length, adapters=adapters)

    def heads(self, tokens: int) -> float:
        """FLOPs of the logits of some tokens, forward and back."""
        return 2 * head_rule(self.shape.vocab, self.shape.width, tokens)


def total(works: Iterable[Work]) -> Work:
    """Add up; what one of them does not count is not counted. ``trainable`` is the largest."""
    listed = list(works)

    def add(name: str) -> float | None:
        values = [getattr(work, name) for work in listed]
        if None in values:
            return None
        return max(values, default=0) if name == "trainable" else sum(values)

    return Work(**{field.name: add(field.name) for field in fields(Work)})  # type: ignore[arg-type]


def forward_rule(values: float, width: float, tokens: float, length: int) -> float:
    """FLOPs of forward passes.

    Args:
        values: Values in the matrices of all blocks together.
        width: Widths of their attentions together.
        tokens: Tokens of all windows together.
        length: Tokens of a window.
    """
    return float(tokens) * (2 * values + 2 * length * width)


def training_rule(
    values: float, width: float, tokens: float, length: int, *, adapters: bool = False
) -> float:
    """FLOPs of forward and backward passes.

    Args:
        values: Values in the matrices of all blocks together.
        width: Widths of their attentions together.
        tokens: Tokens of all windows and epochs together.
        length: Tokens of a window.
        adapters: The matrices are frozen and need no gradient.
    """
    return float(tokens) * ((4 if adapters else 6) * values + 7 * length * width)


def head_rule(vocab: float, width: float, tokens: float) -> float:
    """FLOPs of the logits of ``tokens`` tokens, forward."""
    return 2.0 * vocab * width * tokens


def cached_values(config: Mapping[str, Any]) -> int | None:
    """Keys and values of one token in one attention, at most; None: the heads are not named.

    Args:
        config: A decoder's configuration as read from its file.
    """
    names = ("num_attention_heads", "n_head", "num_heads", "n_heads")
    heads = next((config[name] for name in names if config.get(name)), None)
    if not heads:
        return None
    shared = config.get("num_key_value_heads") or config.get("num_kv_heads") or heads
    return int(2 * attention_width(config) * shared) // int(heads)


def attention_width(config: Any) -> float:
    """Heads times the size of a head: how wide the products of one attention are.

    Args:
        config: A decoder's configuration, as an object of transformers or as read from its file.
    """

    def get(*names: str) -> Any:
        if isinstance(config, Mapping):
            return next((config[name] for name in names if config.get(name)), None)
        return next((getattr(config, name) for name in names if getattr(config, name, None)), None)

    heads = get("num_attention_heads", "n_head", "num_heads", "n_heads")
    if heads and (
        nope := get("qk_nope_head_dim")
    ):  # latent attention: values have a size of theirs
        return float(heads * (nope + get("qk_rope_head_dim") + get("v_head_dim")) / 2)
    size = get("head_dim")
    return heads * size if heads and size else get("hidden_size", "n_embd", "d_model") or 0
