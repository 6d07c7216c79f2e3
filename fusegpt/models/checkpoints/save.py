"""Plain transformers checkpoints, and deltas between steps."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, modeling_utils

from fusegpt.artifacts import atomic_directory, atomic_path, file_record
from fusegpt.models.blocks import decoder_of
from fusegpt.models.checkpoints.dtypes import store
from fusegpt.models.checkpoints.read_back import check_tokenizer, check_written, refused
from fusegpt.models.checkpoints.storage import SOURCE, exactly, stored_as
from fusegpt.models.model import Model
from fusegpt.models.stored import metadata_of, write_tensors
from fusegpt.models.structure.configs import IMAGE_PLACES, unbuilt, without_unbuilt
from fusegpt.models.structure.kinds import off_formula, off_scale
from fusegpt.models.surgery.zeroed import zeroed
from fusegpt.results import layout
from fusegpt.results.base import write
from fusegpt.results.digests import append_digest
from fusegpt.results.models import Checkpoint, as_checkpoint
from fusegpt.runtime import quiet

__all__ = ["ADAPTERS", "delta_dtype", "differences", "save", "write_delta"]

COPIED = (
    "*token*",
    "vocab*",
    "merges.txt",
    "spiece*",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "*/*.jinja",
    "chat_template*",
    "*processor*.json",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Files of the dense model's directory that are copied into a checkpoint."""

ADAPTERS = ("fused/", "donor/")
"""How the names of tensors that are not weights begin in a delta."""

CHECKPOINT_DTYPE = "checkpoint_dtype"
"""The key in a delta's metadata; deltas written before version 0.2 have none and no rounding."""


def save(
    model: Model,
    directory: str | Path,
    *,
    extra: Mapping[str, Any],
    card: Callable[[Checkpoint], str] = lambda record: "",
    to: str = SOURCE,
    zeros: bool = False,
) -> Checkpoint:
    """Write a checkpoint that transformers loads, whole or not at all.

    Tensors that equal the source's are the source's, bit for bit; of the others no value changes.
    One without attentions or mlps needs ``import fusegpt.models.sublayers`` before.

    Args:
        model: A model with nothing left to fold.
        directory: The place, which must not exist or must be empty.
        extra: More entries for ``fusegpt.json``, which is written last.
        card: Returns the text of ``README.md``.
        to: The dtype to store weights in; ``source``: each tensor's own in the source.
        zeros: Write removed attentions and mlps as zeros, so that no import is needed.

    Returns:
        The record, without the checksums of its files.

    Raises:
        ArtifactError: The directory is taken, the disk is full, or what was written is not what is
            in memory.
    """
    assert not model.fused, f"fold first: {sorted(model.fused)}"
    notes = {
        "num_blocks": model.num_blocks,
        "kept": model.kept,
        "removed": list(model.removed),
    }
    with atomic_directory(directory, last=layout.CHECKPOINT) as partial:
        dtypes = _save_module(model, zeroed(model) if zeros else model.module, partial, to)
        for file in _copied(model.source):
            place = partial / file.relative_to(model.source or "")
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)
        if model.source is not None:
            check_tokenizer(model.source, partial)
        files = {
            file.relative_to(partial).as_posix(): file_record(file)
            for file in sorted(partial.rglob("*"))
            if file.is_file()
        }
        file = partial / layout.CHECKPOINT
        record = as_checkpoint({**notes, **extra, "stored_dtypes": dtypes}, file)
        text = card(record)
        (partial / layout.CARD).write_text(text, encoding="utf-8")  # written anew by evaluations
        append_digest(partial / layout.CARD)
        write(file, record.plus(files=files))
    return record


def differences(model: Model) -> list[str]:
    """Sentences on what a checkpoint lacks on purpose, and on what other programs make of it."""
    pruned = len(model.kept) < model.num_blocks
    lists = off_formula(model.text_config) if pruned else []
    scale = off_scale(model.text_config) if pruned else None
    return [
        *(
            f"{name} is not what the family's formula gives by block number: programs that compute"
            " a block's kind from its number (llama.cpp: SmolLM3, Gemma 3) run another model; those"
            " that read the list, as transformers does, run this one"
            for name in lists
        ),
        *([] if scale is None else [scale]),
        *(_images(model) if pruned else []),
        *_drafting(model),
    ]


def _images(model: Model) -> list[str]:
    """Say where images may add to other blocks' hidden states than in the dense model."""
    takes = inspect.signature(decoder_of(model.module).forward).parameters
    said = any(name in vars(model.module.config) for name in IMAGE_PLACES)
    if said or not any("deepstack" in name for name in takes):
        return []
    vision = getattr(model.module.config, "vision_config", None)
    levels = getattr(vision, "deepstack_visual_indexes", None)
    if levels is not None and model.kept[: len(levels)] == list(range(len(levels))):
        return []
    return [
        "images also add to the hidden states between blocks, at places counted from the first"
        " block: where an earlier block is gone, a place is behind a later block of the dense"
        " model; text alone is not concerned"
    ]


def _drafting(model: Model) -> list[str]:
    return [
        f"{name} is 0, not {count}: the blocks that it counts (for drafting) are no part of the"
        " model that transformers builds, and their weights are not in this checkpoint"
        for name, count in unbuilt(model.module).items()
    ]


def write_delta(
    model: Model,
    path: str | Path,
    names: Iterable[str],
    extra: Mapping[str, Tensor] | None = None,
    to: str | None = None,
) -> None:
    """Write the parameters ``names``, and tensors that are not weights, without a change of value.

    Args:
        model: Unchanged.
        path: The file, written atomically.
        names: ``blocks.<dense index>.<param name inside the block>``.
        extra: Tensors called ``fused/...`` or ``donor/...``; they keep their dtype.
        to: The recipe's ``checkpoint_dtype``, to which the parameters were rounded by ``settle``;
            None: they keep the dtype of the computation.
    """
    extra, names = extra or {}, list(names)
    assert all(name.startswith(ADAPTERS) for name in extra), sorted(extra)
    dtypes = {} if to is None else stored_as(model, to, names)
    weights = {name: model.parameter(name) for name in names}
    tensors = {
        **{name: exactly(value, dtypes.get(name, value.dtype)) for name, value in weights.items()},
        **extra,
    }
    about = None if to is None else {CHECKPOINT_DTYPE: to}
    own = {  # a copy each: safetensors refuses tensors that share memory
        name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)
    }
    with atomic_path(path) as partial:
        save_file(own, partial, metadata=about)


def delta_dtype(path: Path) -> str | None:
    """Return the ``checkpoint_dtype`` that a delta was written with; None: it is an older one."""
    return metadata_of(path).get(CHECKPOINT_DTYPE)


def _save_module(model: Model, module: PreTrainedModel, directory: Path, to: str) -> list[str]:
    """Save weights and config; the generation config is the source's own file if it has one.

    Some published generation configs load but are refused when saved, hence the empty one.

    Returns:
        The dtypes of the weights on disk.
    """
    generation = model.module.generation_config
    copied = any(file.name == "generation_config.json" for file in _copied(model.source))
    before = module.generation_config
    try:
        module.generation_config = GenerationConfig() if copied else generation
        with without_unbuilt(module), quiet():
            with _one_by_one(model):
                module.save_pretrained(directory)
            with refused(directory):
                dtypes = store(directory, model, to)
            streamed = model.streamed is not None
            check_written(module, directory, model.value, streamed=streamed)
    finally:
        module.generation_config = before
    return dtypes


@contextmanager
def _one_by_one(model: Model) -> Iterator[None]:
    """Inside, transformers writes streamed weights with one tensor at a time in memory."""

    def write(
        tensors: Mapping[str, Tensor], file: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        write_tensors(Path(file), kinds, lambda name: model.value(tensors[name]), metadata or {})

    plain = modeling_utils.safe_save_file
    if model.streamed is None:
        yield
        return
    modeling_utils.safe_save_file = write
    try:
        with model.streamed.noting_copies():
            yield
    finally:
        modeling_utils.safe_save_file = plain


def _copied(source: Path | None) -> list[Path]:
    if source is None:
        return []
    found = {file for pattern in COPIED for file in source.glob(pattern) if file.is_file()}
    return sorted(file for file in found if file.suffix not in (".safetensors", ".bin", ".py"))
