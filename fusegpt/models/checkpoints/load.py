"""Loading a model from a directory, a pruned checkpoint, or a chain of steps."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Literal

import torch

from fusegpt.config import Weights
from fusegpt.errors import ArchitectureError, ConfigError
from fusegpt.free_memory import free_bytes
from fusegpt.models.checkpoints.adapters import restore_adapters
from fusegpt.models.checkpoints.chain import look_ahead, replay_chain
from fusegpt.models.checkpoints.directory import load_directory
from fusegpt.models.checkpoints.storage import SOURCE, settle
from fusegpt.models.model import Model
from fusegpt.models.streamed import StreamedBlocks
from fusegpt.models.weights import Places, fill, move_buffers, size_in_memory
from fusegpt.results import layout
from fusegpt.results.history import read_history
from fusegpt.runtime import device as named_device
from fusegpt.runtime import (
    dtype_name,
    remote_code_is_allowed,
    slow_here,
)

__all__ = ["load", "load_original", "streamed_where"]

logger = logging.getLogger(__name__)

FITS = 0.8
"""Share of the free memory that the weights may take to be resident by themselves."""


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "bfloat16",
    device: str | torch.device = "cpu",
    trust_remote_code: bool | None = None,
    unfolded: bool = False,
    weights: Weights = "resident",
    packed: bool = False,
) -> Model:
    """Load a model in eval mode, without gradients.

    Every weight gets memory of its own, aligned alike, so that equal weights give equal bits. It is
    read once, into its place; those of removed blocks are not read.

    Args:
        path: A transformers directory; a checkpoint directory of ours (``fusegpt.json``); or a
            step's ``manifest.json`` or its directory, whose chain of deltas is followed.
        dtype: The dtype of all weights.
        device: Where to put the model; a name is checked, and says how float32 is multiplied.
        trust_remote_code: Run code that lies in the directory. None: only if the command line says
            ``--trust-remote-code``, as the workflow does for an entry with that key.
        unfolded: Keep the fusions that a step has not folded (``fold: at_end``) in
            ``model.fused``, for the steps that train them further. The weights are the same.
        weights: ``resident``: all in memory. ``streamed``: those of a block only while it runs.
            ``auto``: resident where they take at most 80% of the memory that is free.
        packed: Take weights of few bits as well, which become plain ones: to be measured, not to
            be pruned.

    Raises:
        ArtifactError: Something is missing, corrupt, or not what a manifest says.
        ConfigError: There is no such device.
        ArchitectureError: transformers has no such model, no list of blocks is found, or the
            weights cannot be streamed.
    """
    if trust_remote_code is None:
        trust_remote_code = remote_code_is_allowed()
    path = Path(path)
    device = named_device(device) if isinstance(device, str) else device
    _tell_slow(dtype_name(dtype), str(device))
    manifest = path if path.suffix == ".json" else path / layout.MANIFEST
    history = read_history(manifest) if manifest.is_file() else None
    source = path if history is None else history.source.parent
    model, places = load_directory(source, dtype, trust_remote_code, packed)
    following: Places = {} if places is None else places
    rounding = None if history is None else look_ahead(model, history)
    # which part of a block is its attention shows when it runs, so weights come before the removal
    probed = history is not None and any(unit.kind != "block" for unit in history.removed)
    if probed:
        weights = _place(model, places, following, device, rounding, weights)
    if history is not None:
        replay_chain(model, history, following)
    if not probed:
        weights = _place(model, places, following, device, rounding, weights)
    elif weights == "resident":
        _fill(model, following, device)  # what the steps changed
    if weights == "resident":
        restore_adapters(model)
        if rounding is not None:
            settle(model, rounding, model.fused)
    if not unfolded:
        model.fused.clear()
        model.adapter_state.clear()
    return model


@functools.cache
def _tell_slow(dtype: str, device: str) -> None:
    """Say once what would be quicker on this CPU."""
    if (said := slow_here(dtype, device)) is not None:
        logger.warning("%s", said)


def _place(
    model: Model,
    places: Places | None,
    following: Places,
    device: torch.device,
    rounding: str | None,
    weights: Weights,
) -> Literal["resident", "streamed"]:
    """Read all weights, or let blocks read theirs when they run; return which of both."""
    if weights == "streamed" or (weights == "auto" and not _fits(model, places, device, rounding)):
        _stream(model, places, device, rounding)
        return "streamed"
    _fill(model, following, device)
    return "resident"


def _fill(model: Model, places: Places, device: torch.device) -> None:
    """Read all weights that have places, for good."""
    fill(model.module.modules(), places, device)
    model.module.to(device)
    places.clear()


def _fits(model: Model, places: Places | None, device: torch.device, rounding: str | None) -> bool:
    """Whether a model is to be resident by itself; one that cannot be streamed is, in any case."""
    free = free_bytes(device)
    if places is None or model.adapter_state or rounding not in (None, SOURCE):
        return True
    size = size_in_memory(model.module, places)
    if size > FITS * free:
        logger.info(
            "%s: weights of %.1f GiB with %.1f GiB of memory free: read block by block",
            *(model.source, size / 2**30, free / 2**30),
        )
    return size <= FITS * free


def _stream(
    model: Model, places: Places | None, device: torch.device, rounding: str | None
) -> None:
    """Fill what is in no block; blocks read their own weights when they run.

    Raises:
        ArchitectureError: Tensors on disk are not those that the model computes with, or some
            weights have to be formed of others.
    """
    where, advice = str(model.source), "give --weights resident"
    if places is None:
        raise ArchitectureError(
            f"{where}: must hold each weight as the model computes with it, to be streamed, but"
            f" transformers converts them while it loads them; {advice}"
        )
    if model.adapter_state:
        raise ArchitectureError(
            f"{where}: fusions must be folded to be streamed, got fold: at_end; {advice}"
        )
    if rounding not in (None, SOURCE):
        raise ArchitectureError(
            f"{where}: weights must be stored as they are in the model to be streamed, got"
            f" checkpoint_dtype: {rounding}; {advice}"
        )
    inside = {owner for block in model.blocks for owner in block.modules()}
    outside = [owner for owner in model.module.modules() if owner not in inside]
    read = fill(outside, places, device)
    move_buffers(model.module, device)
    largest = max(size_in_memory(block, places) for block in model.blocks)
    free = free_bytes(device)  # half of it, after two blocks, for hidden states
    streamed = StreamedBlocks(places, device, max(0, free - 2 * largest) // 2)
    streamed.bytes_read += read
    streamed.attach(model.blocks)
    model.streamed = streamed


def streamed_where(weights: Weights, able: bool, what: str) -> Weights:
    """Return how to load a model for what cannot always do with weights that are streamed.

    Raises:
        ConfigError: Streamed weights were asked for, and it cannot.
    """
    if weights == "streamed" and not able:
        raise ConfigError(
            f"--weights: must be resident for {what}, which needs all weights in memory, got"
            " 'streamed'"
        )
    return weights if able else "resident"


def load_original(model: Model) -> Model:
    """Load the model that ``model`` was before anything was removed, in its dtype, beside it.

    Raises:
        ConfigError: It came from no directory.
    """
    if model.source is None:
        raise ConfigError("'original' needs a model that came from a directory")
    dtype = dtype_name(model.dtype)
    weights: Weights = "resident" if model.streamed is None else "streamed"
    return load(model.source, dtype=dtype, device=model.device, weights=weights)
