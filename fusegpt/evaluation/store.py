"""A content-addressed store of measured parts: whatever was measured once is read back."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.artifacts import sha256
from fusegpt.results.base import read, write
from fusegpt.results.files import Parent
from fusegpt.results.models import Stored

__all__ = ["Store", "digest", "model_digest"]

logger = logging.getLogger(__name__)

DECIDES = ("config.json", "*.safetensors", "token*.json", "*.model", "vocab*", "merges.txt")
"""Files of a model directory that decide what it predicts."""


@dataclass(frozen=True)
class Store:
    """``<folder>/<model>/<key>.json``; a file appears whole, so a kill loses one part.

    Deleting the folder is safe: it saves time and decides nothing.

    Attributes:
        folder: Where it lies.
        model: Digest of the model, of ``model_digest``.
    """

    folder: Path
    model: str

    def get(self, identity: Mapping[str, Any]) -> Any | None:
        """What was stored for an identity, or None."""
        file = self._file(identity)
        return read(file, Stored).result if file.is_file() else None

    def put(self, identity: Mapping[str, Any], result: Any) -> None:
        """Store the result of an identity."""
        write(self._file(identity), Stored(identity=dict(identity), result=result))

    def _file(self, identity: Mapping[str, Any]) -> Path:
        return self.folder / self.model / f"{digest(identity)}.json"


def digest(value: Any) -> str:
    """32 hex digits of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def model_digest(path: Path) -> str:
    """What tells one model from another: a digest of its weights, config and tokenizer.

    Args:
        path: A step's manifest, or the directory of a model. A record of ours in it names all
            files, or all parents, by checksum.
    """
    record = Parent.of(path, path.parent)
    if record is not None:
        return record.sha256[:32]
    files = sorted({file for pattern in DECIDES for file in path.glob(pattern)})
    return digest([[file.name, sha256(file)] for file in files])
