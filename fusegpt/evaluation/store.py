"""A content-addressed store of measured parts: whatever was measured once is read back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.artifacts import sha256
from fusegpt.errors import ArtifactError
from fusegpt.results.base import read, write
from fusegpt.results.digests import digest_of
from fusegpt.results.files import Parent
from fusegpt.results.models import Stored

__all__ = ["Store", "digest", "model_digest"]

logger = logging.getLogger(__name__)

DECIDES = (
    *("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken"),
    *("vocab*", "*.txt", "*.py"),
)
"""Files of a model directory that may decide what it predicts: weights, configurations (of the
model, of generation, of pictures), tokenizer, chat template, code."""


@dataclass(frozen=True)
class Store:
    """``<folder>/<model>/<key>.json``; a file appears whole, so a kill loses one part.

    Deleting the folder is safe: it saves time and decides nothing. What is read back is compared
    with its digest and with what it follows from; what does not agree is measured again.

    Attributes:
        folder: Where it lies.
        model: Digest of the model, of ``model_digest``.
    """

    folder: Path
    model: str

    def get(self, identity: Mapping[str, Any]) -> Any | None:
        """Return what was stored for an identity; None: nothing that can be trusted."""
        file = self._file(identity)
        if not file.is_file():
            return None
        try:
            found = read(file, Stored)
        except ArtifactError as error:
            logger.warning("%s; it is measured again", error)
            return None
        if (found.model or self.model, found.identity) != (self.model, dict(identity)):
            logger.warning("%s: belongs to another model or measurement; measured again", file)
            return None
        return found.result

    def put(self, identity: Mapping[str, Any], result: Any) -> None:
        """Store the result of an identity."""
        values = {"identity": dict(identity), "result": result, "model": self.model}
        write(self._file(identity), Stored.model_validate(values))

    def _file(self, identity: Mapping[str, Any]) -> Path:
        return self.folder / self.model / f"{digest(identity)}.json"


def digest(value: Any) -> str:
    """32 hex digits of a JSON value."""
    return digest_of(value)[:32]


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
