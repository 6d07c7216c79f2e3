"""A whole slicing: load, slice, and write a checkpoint that says how it was made."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from fusegpt.artifacts import STAGE_VERSION, check_free, read_json, sha256
from fusegpt.config import Weights
from fusegpt.data.directories import OWN_TYPES
from fusegpt.data.masked import unpadded
from fusegpt.data.window_files import windows_for
from fusegpt.data.windows import read_meta
from fusegpt.models.checkpoints.load import load, streamed_where
from fusegpt.models.checkpoints.save import differences, save
from fusegpt.models.checkpoints.storage import settle
from fusegpt.models.model import Model
from fusegpt.provenance import provenance
from fusegpt.pruning.papers import papers_of
from fusegpt.pruning.publish import about_base
from fusegpt.pruning.recipe import Recipe
from fusegpt.registry import Entry
from fusegpt.reports.card import card
from fusegpt.results import layout
from fusegpt.results.files import Parent
from fusegpt.results.models import Slice
from fusegpt.runtime import Timer, peak_memory_gib
from fusegpt.slicegpt import WIDTHS

__all__ = ["publish_slice", "slice_model"]


def slice_model(
    path: Path,
    recipe: Recipe,
    sparsity: Decimal,
    calibration: Path,
    output: Path,
    *,
    device: str = "cpu",
    weights: Weights = "auto",
) -> Slice:
    """Slice a model and write the checkpoint.

    Args:
        path: Directory of the model, or a checkpoint of ours.
        recipe: Names the method and its settings.
        sparsity: Fraction of the hidden size, in [0, 1).
        calibration: Windows file of ``fusegpt sample``.
        output: Directory of the checkpoint; must not exist or be empty.
        device: Where to work.
        weights: ``auto`` or ``resident``: every width is cut at once, so all are in memory.

    Returns:
        The record of the checkpoint, without the checksums of its files.

    Raises:
        ArchitectureError: The model's family cannot be sliced; said before weights are loaded.
        ArtifactError: A file is missing or corrupt, or the output is taken.
        ConfigError: Nothing would be left, or weights were to be streamed.
    """
    streamed_where(weights, False, f"slicing with recipe {recipe.name!r}")
    check_free(output)
    method = WIDTHS[recipe.that_slices().width_method or ""]
    if method.suits and (path / layout.CONFIG).is_file():
        Entry(method.suits).load()(read_json(path / layout.CONFIG), str(path))
    windows, about = windows_for(path, calibration), read_meta(calibration)
    model = load(path, dtype=recipe.dtype, device=device)
    with Timer() as timer:
        pieces = unpadded(windows, recipe.calibration.batch_size)
        sliced, record = method.load()(model, pieces, sparsity, recipe.width, seed=recipe.seed)
    made = {
        "inputs": {"calibration": sha256(calibration)},
        "parent": Parent.of(path, output),
        "data": {"calibration": about},
        "seconds": round(timer.seconds, 3),
        "memory_gib": round(peak_memory_gib(), 3),
    }
    return publish_slice(sliced, recipe, sparsity, record, output, made=made)


def publish_slice(
    model: Model,
    recipe: Recipe,
    sparsity: Decimal | float,
    record: dict[str, Any],
    output: Path,
    *,
    made: dict[str, Any] | None = None,
) -> Slice:
    """Write weights, tokenizer, ``fusegpt.json`` and the card of a sliced model.

    Args:
        model: The sliced model; its weights are rounded to what is stored.
        recipe: The recipe of the slicing.
        sparsity: Fraction of the hidden size that was asked for.
        record: What the method returned: hidden_size, width, head_width, kept_energy, or whatever
            it has to say.
        output: Must not exist or be empty.
        made: How: parent, inputs, data, seconds, memory_gib.

    Returns:
        The record of the checkpoint, without the checksums of its files.

    Raises:
        ArtifactError: The directory is taken, or the disk is full.
    """
    settle(model, recipe.checkpoint_dtype)
    found = Slice.model_validate(
        {
            "kind": "slice",
            "num_blocks": model.num_blocks,
            "kept": list(model.kept),
            "removed": list(model.removed),
            "sparsity": float(sparsity),
            **record,
            **({} if model.module.config.model_type in OWN_TYPES else {"needs": None}),
            "parameters": model.module.num_parameters(),
            **({"differs": differs} if (differs := differences(model)) else {}),
            "dtype": recipe.dtype,
            "recipe_id": recipe.id,
            "recipe": recipe.to_json(),
            "seed": recipe.seed,
            **(made or {}),
            "stage_version": STAGE_VERSION["slice"],
            "provenance": provenance(model.device),
            **about_base(model),
        }
    )
    papers = papers_of(found.recipe, "recipe")
    written = save(
        model,
        output,
        extra=found.to_json(),
        card=lambda record: card(record, papers=papers),
        to=recipe.checkpoint_dtype,
    )
    assert isinstance(written, Slice)
    return written
