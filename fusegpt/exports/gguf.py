"""GGUF files: llama.cpp's converter and quantiser, and what llama.cpp says of what they wrote."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusegpt.errors import ArtifactError
from fusegpt.exports.reading import LARGEST, text_ids, text_logits, token_nats
from fusegpt.exports.targets import GGUF_TYPES, ExportTarget
from fusegpt.exports.tools import ask_llama_cpp, check_tools, convert_to_gguf
from fusegpt.models.stored import stored_in

__all__ = ["Losses", "losses", "write_gguf"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Losses:
    """What llama.cpp says of windows.

    Attributes:
        nats: Cross-entropy of each token but the first, ``[windows, length - 1]`` float64.
        likeliest: The likeliest token in its place, of the same shape.
    """

    nats: np.ndarray
    likeliest: np.ndarray


def write_gguf(checkpoint: Path, target: ExportTarget, output: Path) -> dict[str, Any]:
    """Write a transformers directory as a GGUF file and load it again.

    A type that is not plain is quantised from one that rounds nothing; that file is compared with
    transformers first.

    Args:
        checkpoint: A directory that transformers loads.
        target: Which type.
        output: The file to write.

    Returns:
        What was seen: mean nats per token of a short text, by transformers and by llama.cpp.

    Raises:
        ConfigError: A tool is missing, or refuses the model.
        ArtifactError: llama.cpp does not compute what transformers does.
    """
    check_tools("export")
    if target.is_plain:
        convert_to_gguf(checkpoint, output, target.type)
        return _same_as_transformers(checkpoint, output)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        whole = Path(folder) / "whole.gguf"
        convert_to_gguf(checkpoint, whole, _lossless(checkpoint))
        seen = _same_as_transformers(checkpoint, whole)
        number = GGUF_TYPES[target.type]
        where = f"{checkpoint}: {target.text}"
        ask_llama_cpp("quantise", where, source=str(whole), output=str(output), ftype=number)
    seen["quantised_nats"] = round(float(losses(output, text_ids(checkpoint)).nats.mean()), 6)
    return seen


def losses(file: Path, ids: np.ndarray) -> Losses:
    """Return what llama.cpp says of windows of token ids.

    Args:
        file: A GGUF file.
        ids: ``[windows, length]``.

    Raises:
        ConfigError: llama.cpp does not take the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        windows = Path(folder) / "windows.npy"
        np.save(windows, ids.astype(np.int32))
        found = ask_llama_cpp("losses", str(file), model=str(file), windows=str(windows))
    return Losses(np.asarray(found["nats"]), np.asarray(found["likeliest"]))


def _lossless(checkpoint: Path) -> str:
    """A plain type that holds every weight as it is stored; a CPU computes slowly in bfloat16."""
    stored = stored_in(sorted(checkpoint.glob("*.safetensors"))).values()
    return "f16" if {place.dtype for place in stored} == {torch.float16} else "f32"


def _same_as_transformers(checkpoint: Path, file: Path) -> dict[str, Any]:
    """Compare a plain file with the checkpoint that it was converted from."""
    ids = text_ids(checkpoint)
    logits = text_logits(checkpoint, ids)
    own, theirs = token_nats(logits, ids).numpy(), losses(file, ids)
    gap = float(np.abs(own - theirs.nats[0]).max())
    same = int((logits.argmax(-1).numpy() == theirs.likeliest[0]).sum())
    if not gap <= LARGEST:
        raise ArtifactError(
            f"{checkpoint}: llama.cpp must compute what transformers does, got {gap:.2f} nats of"
            " difference on a token; it computes this architecture otherwise"
        )
    if same < len(own):
        logger.warning("%s: the same likeliest token in %d of %d places", file, same, len(own))
    return {
        "nats": round(float(own.mean()), 6),
        "llama_cpp_nats": round(float(theirs.nats.mean()), 6),
        "largest_difference": round(gap, 6),
        "same_tokens": same,
        "tokens": len(own),
    }
