"""Text to token ids."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusegpt.artifacts import read_json
from fusegpt.data.directories import register_own_type
from fusegpt.errors import ArtifactError, ConfigError, one_line
from fusegpt.runtime import remote_code_is_allowed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["adds_bos", "encode", "fingerprint", "load_tokenizer", "usual_bos", "window_start"]

NEEDS_BOS = ("gemma",)
"""How the names begin of models that fail on windows which do not open with BOS."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a transformers directory, from its files alone.

    Raises:
        ArtifactError: The directory holds no tokenizer, or one that does not load.
    """
    if not any((Path(directory) / name).is_file() for name in TOKENIZER_FILES):
        raise ArtifactError(f"{directory}: no tokenizer here; expected {TOKENIZER_FILES[0]}")
    from transformers import AutoTokenizer

    register_own_type(directory)
    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=remote_code_is_allowed()
        )
    except Exception as error:  # libraries have classes of their own for what they cannot read
        raise ArtifactError(
            f"{directory}: the tokenizer does not load ({one_line(error)})"
        ) from error


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, bos: bool = True) -> np.ndarray:
    """Turn a whole corpus into one stream of ids, with one tokenizer call.

    Args:
        tokenizer: Any transformers tokenizer.
        text: The corpus.
        bos: Put the BOS token once at the start if the tokenizer itself would. Tokens that a
            tokenizer puts at the end (EOS) are never added.

    Returns:
        ``[tokens]`` int32.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if bos and adds_bos(tokenizer):
        ids = [tokenizer.bos_token_id, *ids]
    return np.asarray(ids, dtype=np.int32)


def usual_bos(directory: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return where BOS stands in windows when nobody says: ``window`` or ``stream``.

    Args:
        directory: The model's; one that came as GGUF has a tokenizer of no particular class.
        tokenizer: The model's.
    """
    names = [type(tokenizer).__name__.lower()]
    with contextlib.suppress(ArtifactError):  # whoever loads the model says what is wrong with it
        config = read_json(Path(directory) / "config.json")
        names.append(str(config.get("model_type")) if isinstance(config, dict) else "")
    needs = any(name.startswith(NEEDS_BOS) for name in names)
    return "window" if needs and tokenizer.bos_token_id is not None else "stream"


def window_start(tokenizer: PreTrainedTokenizerBase, bos: str) -> list[int]:
    """Return what opens every window: the BOS token or nothing.

    Raises:
        ConfigError: It has to be the BOS token, and there is none.
    """
    if bos != "window":
        return []
    if tokenizer.bos_token_id is None:
        raise ConfigError("bos: 'window' needs a BOS token, and the tokenizer has none")
    return [tokenizer.bos_token_id]


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sha256 of what decides a tokenizer's output; equal for equal tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = backend.to_str()
    else:
        content = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(content.encode()).hexdigest()


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer itself puts BOS before a text."""
    if tokenizer.bos_token_id is None:
        return False
    return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
