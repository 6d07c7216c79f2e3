"""SliceGPT: rotate the residual stream to its principal components, block by block, and cut."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.errors import NumericsError
from fusegpt.models.model import Model
from fusegpt.models.structure.calls import Call
from fusegpt.models.structure.replay import record
from fusegpt.models.wrapped import dense_config, wrapped
from fusegpt.pace import Pace
from fusegpt.runtime import generator
from fusegpt.slicegpt.families import Family, family_of
from fusegpt.slicegpt.fusing import fuse_norms, has_means
from fusegpt.slicegpt.modeling import (
    PlainNorm,
    SlicedConfig,
    SlicedForCausalLM,
    set_shortcut,
    set_weight,
)
from fusegpt.slicegpt.settings import SliceGpt
from fusegpt.slicegpt.width import sliced_width

__all__ = ["basis", "slicegpt"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def slicegpt(
    model: Model,
    batches: Sequence[Tensor],
    sparsity: Decimal | float | str,
    settings: SliceGpt = SliceGpt(),
    *,
    seed: int,
) -> tuple[Model, dict[str, Any]]:
    """Slice every hidden size of a model to ``(1 - sparsity)`` of it.

    Block after block, the stream that enters attention and mlp is rotated to the eigenvectors of
    its covariance over the calibration tokens (X^T X in float64), and the smallest components are
    cut off. Each signal is that of the model as sliced so far. Residual paths change from one
    basis to the next by an adapter Q_l^T Q_l+1. With side-by-side blocks there is one signal and
    one adapter per block. SliceGPT, Sections 3.2 to 3.4, Eq. 8 and 9, and the released code
    (decision D40).

    Args:
        model: Dense, or without some blocks. Its module is used up: do not touch it afterwards.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        sparsity: Fraction of the hidden size, in [0, 1); 0 rotates and cuts nothing.
        settings: Which signal is looked at, how components lie, and what is sliced.
        seed: Seed of the random orientation.

    Returns:
        The sliced model, and a record: hidden_size, width, head_width, and of each signal the
        share of its energy that is kept.

    Raises:
        ArchitectureError: The model's family is not in the table.
        ConfigError: Nothing would be left.
        NumericsError: A signal is NaN or infinite; the message names the block.
    """
    inner = model.module
    family = family_of(inner.config.to_dict(), type(inner).__name__)
    hidden = int(inner.config.hidden_size)
    width = sliced_width(hidden, sparsity, settings.round_interval)
    head_width = width if settings.slice_head else hidden
    stream = _Stream.begin(model, family, batches)
    fuse_norms(inner)
    wanted = _Bases(seed, settings, PlainNorm(hidden, _eps(inner, family)))
    blocks = inner.get_submodule(family.decoder).layers
    into = wanted.find(stream.states, width, "embeddings")
    for name in family.embeddings:
        embedding = inner.get_submodule(family.decoder).get_submodule(name)
        set_weight(embedding, _times(embedding.weight, into))
    with Pace("slicegpt", len(blocks), "block") as pace:
        for place, block in enumerate(blocks):
            out = head_width if place == len(blocks) - 1 else width
            slice_block = _slice_parallel if family.mlp_norm is None else _slice_sequential
            into = slice_block(block, place, stream, wanted, into, (width, out))
            pace.advance()
    head = inner.get_output_embeddings()
    set_weight(head, _times(head.weight, into))
    _log(wanted, hidden, width)
    sizes = {"hidden_size": hidden, "width": width, "head_width": head_width}
    config = SlicedConfig(dense_config(model), width, head_width, dtype=model.dtype)
    return wrapped(model, config, SlicedForCausalLM), {**sizes, "kept_energy": wanted.kept}


@dataclass
class _Stream:
    """The calibration tokens on their way through the blocks.

    Attributes:
        states: A tensor ``[batch, seq, hidden]`` per batch, in the dense basis between blocks.
        calls: By batch size and length, how each block is called.
    """

    states: list[Tensor]
    calls: dict[tuple[int, ...], list[Call]]

    @classmethod
    def begin(cls, model: Model, family: Family, batches: Sequence[Tensor]) -> _Stream:
        """What enters the first block; a LayerNorm's mean is subtracted from it already."""
        calls: dict[tuple[int, ...], list[Call]] = {}
        states = []
        for batch in batches:
            shape = tuple(batch.shape)
            whole = shape not in calls
            recording = record(model, batch, 0, None if whole else 0)
            if whole:
                calls[shape] = recording.calls
            states.append(recording.hidden_in)
        if has_means(model.module, family):
            states = [state - state.mean(-1, keepdim=True) for state in states]
        return cls(states, calls)

    def project(self, onto: Tensor) -> None:
        """Change to a basis ``[hidden, width]``."""
        self.states = [state @ onto.to(state.dtype) for state in self.states]

    def step(self, method: Any, block: nn.Module, place: int | None = None) -> None:
        """Run a part of a block on every batch."""
        for number, state in enumerate(self.states):
            call = None if place is None else self.calls[tuple(state.shape[:2])][place]
            kwargs = {} if call is None else {k: v for k, v in call.kwargs.items()}
            kwargs.pop("hidden_states", None)
            self.states[number] = method(block, state, **kwargs)


@dataclass
class _Bases:
    """Principal components of signals.

    Attributes:
        kept: Share of each signal's energy that the kept components hold.
    """

    seed: int
    settings: SliceGpt
    norm: nn.Module
    kept: dict[str, float] = field(default_factory=dict)

    def find(self, states: Sequence[Tensor], width: int, name: str) -> Tensor:
        """The basis ``[hidden, width]`` of a signal, float64."""
        signals = states if self.settings.signal == "residual" else [self.norm(x) for x in states]
        found, self.kept[name] = basis(signals, width, name)
        if self.settings.orientation == "random":
            found = found @ _random_rotation(width, self.seed, name).to(found.device)
        return found


def basis(signals: Sequence[Tensor], width: int, name: str = "signal") -> tuple[Tensor, float]:
    """The ``width`` eigenvectors of ``X^T X`` with the largest eigenvalues.

    Args:
        signals: Tensors ``[..., hidden]``.
        width: At most hidden.
        name: For the message.

    Returns:
        ``[hidden, width]`` float64, orthonormal, and the share of the sum of squares it holds.

    Raises:
        NumericsError: A signal is NaN or infinite.
    """
    hidden = signals[0].shape[-1]
    covariance = torch.zeros(hidden, hidden, dtype=torch.float64, device=signals[0].device)
    for signal in signals:
        flat = signal.reshape(-1, hidden).double()  # [tokens, hidden]
        covariance += flat.T @ flat
    if not covariance.isfinite().all():
        raise NumericsError(f"slicegpt: the signal of {name} is NaN or infinite")
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    total = values.sum().item()
    share = values[hidden - width :].sum().item() / total if total > 0 else 1.0
    return vectors.flip(-1)[:, :width].contiguous(), share


def _slice_sequential(
    block: Any, place: int, stream: _Stream, wanted: _Bases, into: Tensor, widths: tuple[int, int]
) -> Tensor:
    """Attention, then mlp: two signals, two adapters. Returns the basis of the block's output."""
    family = block.family
    stream.project(into)
    _rotate_readers(block, family.attention_readers, into)
    set_shortcut(block, "attention_shortcut", _back(block, family, into))
    stream.step(type(block).after_attention, block, place)
    middle = wanted.find(stream.states, widths[0], f"block {place} mlp")
    _rotate_writer(block, family.attention_writer, middle)
    _set_adapter(block, "attention_shortcut", into, middle)
    stream.project(middle)
    _rotate_readers(block, family.mlp_readers, middle)
    set_shortcut(block, "mlp_shortcut", _back(block, family, middle))
    stream.step(type(block).after_mlp, block)
    out = wanted.find(stream.states, widths[1], f"block {place} output")
    _rotate_writer(block, family.mlp_writer, out)
    _set_adapter(block, "mlp_shortcut", middle, out)
    return out


def _slice_parallel(
    block: Any, place: int, stream: _Stream, wanted: _Bases, into: Tensor, widths: tuple[int, int]
) -> Tensor:
    """Attention beside mlp: one signal, one adapter."""
    family = block.family
    stream.project(into)
    _rotate_readers(block, (*family.attention_readers, *family.mlp_readers), into)
    set_shortcut(block, "attention_shortcut", _back(block, family, into))
    stream.step(type(block).side_by_side, block, place)
    out = wanted.find(stream.states, widths[1], f"block {place} output")
    _rotate_writer(block, family.attention_writer, out)
    _rotate_writer(block, family.mlp_writer, out)
    _set_adapter(block, "attention_shortcut", into, out)
    return out


def _rotate_readers(block: Any, names: Sequence[str], into: Tensor) -> None:
    for name in names:
        linear = block.get_submodule(name)
        set_weight(linear, _times(linear.weight, into))  # [out, width]


def _rotate_writer(block: Any, name: str, onto: Tensor) -> None:
    linear = block.get_submodule(name)
    bias = None if linear.bias is None else (onto.T @ linear.bias.double()).to(linear.bias.dtype)
    weight = (onto.T @ linear.weight.double()).to(linear.weight.dtype)  # [width, in]
    set_weight(linear, weight, bias)


def _back(block: Any, family: Family, into: Tensor) -> Tensor:
    """A shortcut from a basis to the dense one, while nobody knows the next."""
    return into.to(block.get_submodule(family.mlp_writer).weight.dtype)  # [hidden, width]


def _set_adapter(block: nn.Module, name: str, before: Tensor, after: Tensor) -> None:
    dtype = getattr(block, name).weight.dtype
    set_shortcut(block, name, (after.T @ before).to(dtype))  # [width after, width before]


def _times(weight: Tensor, into: Tensor) -> Tensor:
    return (weight.double() @ into).to(weight.dtype)


def _random_rotation(width: int, seed: int, name: str) -> Tensor:
    """Uniform over the orthogonal matrices ``[width, width]``, float64 on the CPU."""
    draw = torch.randn(
        width, width, dtype=torch.float64, generator=generator(seed, "orientation", name)
    )
    rotation, upper = torch.linalg.qr(draw)
    turned: Tensor = rotation * upper.diagonal().sign()
    return turned


def _eps(inner: nn.Module, family: Family) -> float:
    norm: PlainNorm = getattr(inner.get_submodule(family.decoder), family.final_norm)
    return norm.eps


def _log(wanted: _Bases, hidden: int, width: int) -> None:
    worst = min(wanted.kept, key=wanted.kept.__getitem__)
    logger.info(
        "slicegpt: hidden size %d -> %d, at least %.4f of each signal's energy is kept (%s)",
        *(hidden, width, wanted.kept[worst], worst),
    )
