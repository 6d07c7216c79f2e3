"""Texts that a model has written so far, kept on disk until all are there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fusegpt.artifacts import atomic_path
from fusegpt.errors import ArtifactError, first_line
from fusegpt.results.digests import KEY
from fusegpt.results.unfinished import FINGERPRINT, check_unfinished, state_digest

__all__ = ["Written"]

logger = logging.getLogger(__name__)


class Written:
    """One safetensors file of token ids, which is replaced by rename.

    Args:
        path: The file; belongs to this run alone.
        fingerprint: Names everything the texts depend on. A file with another one is ignored.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint

    def read(self) -> list[list[int]]:
        """Return them; none when there is no file, one of other settings, or a damaged one."""
        if not self.path.is_file():
            return []
        try:
            check_unfinished(self.path)
            with safe_open(self.path, framework="np") as file:
                if (file.metadata() or {}).get(FINGERPRINT) != self.fingerprint:
                    return []
                ids, lengths = file.get_tensor("ids"), file.get_tensor("lengths").tolist()
        except (ArtifactError, OSError, SafetensorError) as error:
            logger.warning("%s; the texts are written anew", first_line(error))
            return []
        logger.info("%d texts were written before", len(lengths))
        return [row[:size] for row, size in zip(ids.tolist(), lengths, strict=True)]

    def write(self, rows: Sequence[Sequence[int]]) -> None:
        """Keep them."""
        lengths = [len(row) for row in rows]
        ids = np.zeros((len(rows), max(lengths)), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
        tensors = {"ids": torch.from_numpy(ids), "lengths": torch.tensor(lengths)}
        about = {FINGERPRINT: self.fingerprint}
        about[KEY] = state_digest(about, ((n, t.shape, t.numpy()) for n, t in tensors.items()))
        with atomic_path(self.path) as partial:
            save_file(tensors, partial, about)
