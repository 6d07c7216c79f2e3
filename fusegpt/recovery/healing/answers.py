"""A teacher's answers to windows: made once, kept in files, read by memory map."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusegpt.artifacts import STAGE_VERSION, file_record, sha256, write_json
from fusegpt.data.directories import file_marks
from fusegpt.data.streamed import Streamed, stream_windows
from fusegpt.disk import room_for, take_room
from fusegpt.errors import ArtifactError, ConfigError, DataError, NumericsError
from fusegpt.models.flops import forward_flops, head_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import head_logits, record
from fusegpt.nn.teaching import Answers, answer
from fusegpt.pace import Pace
from fusegpt.provenance import provenance
from fusegpt.results import layout
from fusegpt.results.base import read, write
from fusegpt.results.files import Parent
from fusegpt.results.records import AnswersRecord
from fusegpt.runtime import Timer, dtype_name, peak_memory_gib

__all__ = ["AnswersFile", "answer_windows", "read_answers"]

logger = logging.getLogger(__name__)

LOGITS, IDS, REST, PROGRESS = "logits.npy", "ids.npy", "rest.npy", "progress.json"
CHUNK = 256
"""Positions whose logits exist at one time."""
EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class AnswersFile:
    """Answers on disk.

    Attributes:
        record: What is said of them.
        arrays: Logits, ids and the mass of the rest, ``[sequences, length - 1, ...]``; mapped.
    """

    record: AnswersRecord
    arrays: dict[str, np.ndarray]

    def at(self, rows: slice, places: slice, device: torch.device) -> Answers:
        """Return the answers at some positions of some windows, ``[batch, positions, ...]``."""
        found = {
            name: torch.from_numpy(np.array(array[rows, places])).to(device)
            for name, array in self.arrays.items()
        }
        ids = found.get(IDS)
        return Answers(found[LOGITS], None if ids is None else ids.long(), found.get(REST))


def read_answers(
    directory: Path, windows: Path, top_k: int | None, temperature: float
) -> AnswersFile:
    """Open the answers of a teacher.

    Args:
        directory: Where ``answer_windows`` wrote them, or their record.
        windows: The file of windows that they must be of.
        top_k: How many tokens must be kept at each position.
        temperature: What the mass of the rest must be taken at.

    Raises:
        ArtifactError: A file is missing or damaged.
        DataError: They are of other windows, or were made with other settings.
    """
    file = directory if directory.is_file() else directory / layout.ANSWERS
    about = read(file, AnswersRecord)
    for name, said in about.files.items():
        said.check(file.with_name(name))
    if about.inputs.get("windows") != sha256(windows):
        raise DataError(
            f"{file}: must be answers to {windows}, are to other windows; make them anew"
        )
    wanted = None if top_k == about.vocab else top_k
    if (about.top_k, about.temperature) != (wanted, temperature):
        raise DataError(
            f"{file}: must be made with top_k {wanted} and temperature {temperature:g}, has"
            f" {about.top_k} and {about.temperature:g}; make them anew"
        )
    return AnswersFile(about, {name: _open(file.with_name(name)) for name in about.files})


def answer_windows(
    teacher: Model,
    windows: Path,
    output: Path,
    *,
    top_k: int | None = 64,
    temperature: float = 1.0,
    batch_size: int = 2,
) -> AnswersRecord:
    """Write what a teacher says at each position of each window; a killed job goes on.

    Args:
        teacher: Unchanged; windows must be of its vocabulary.
        windows: The file of windows.
        output: Directory; its record is written last.
        top_k: How many of the likeliest tokens are kept, with the mass of the rest; None: all.
        temperature: What logits are divided by in that mass.
        batch_size: Windows that run at once; changes results by rounding only.

    Raises:
        ArtifactError: The disk has no room for them.
        ConfigError: ``top_k`` is above the vocabulary.
        DataError: The windows are not made for the teacher.
        NumericsError: A logit is NaN or infinite, or the temperature makes it so.
    """
    vocab = int(teacher.text_config.vocab_size)
    if top_k is not None and top_k > vocab:
        raise ConfigError(f"finish.top_k: must be at most {vocab}, the vocabulary, got {top_k}")
    output.parent.mkdir(parents=True, exist_ok=True)
    assert teacher.source is not None
    data = stream_windows(teacher.source, windows, output.parent)
    output.mkdir(exist_ok=True)
    kept = None if top_k == vocab else top_k
    dtype = dtype_name(teacher.dtype)
    same: dict[str, Any] = {"windows": sha256(windows), "top_k": kept, "temperature": temperature}
    same |= {"dtype": dtype, "teacher": file_marks(teacher.source)}
    with Timer(teacher.device) as timer:
        _fill(teacher, data, output, kept, temperature, batch_size, same)
    tokens = data.sequences * data.length
    about = AnswersRecord.model_validate(
        {
            "kind": "answers",
            "vocab": vocab,
            "top_k": kept,
            "temperature": temperature,
            "sequences": data.sequences,
            "length": data.length,
            "dtype": dtype,
            "flops": forward_flops(teacher, teacher.kept, tokens, data.length)
            + head_flops(teacher, tokens),
            "seconds": round(timer.seconds, 3),
            "memory_gib": round(peak_memory_gib(), 3),
            "stage_version": STAGE_VERSION["answers"],
            "parent": Parent.of(teacher.source, output),
            "inputs": {"windows": same["windows"]},
            "files": {name: file_record(output / name) for name in _names(kept)},
            "provenance": provenance(teacher.device),
        }
    )
    write(output / layout.ANSWERS, about)
    (output / PROGRESS).unlink(missing_ok=True)
    return about


@torch.no_grad()
def _fill(
    teacher: Model,
    data: Streamed,
    output: Path,
    top_k: int | None,
    temperature: float,
    batch_size: int,
    same: dict[str, Any],
) -> None:
    """Write the arrays, window by window; what is on record as done is not done again."""
    vocab = int(teacher.text_config.vocab_size)
    done, said = _done(output, same)
    arrays = _arrays(output, data, vocab, top_k, new=not done)
    digest = _Digest(arrays)
    if done and digest.up_to(done) != said:
        logger.warning("%s: not what was written before; answered anew", output)
        done, arrays = 0, _arrays(output, data, vocab, top_k, new=True)
        digest = _Digest(arrays)
    saved = time.monotonic()
    with Pace("answers", data.sequences, "window", done=done) as pace:
        for start in range(done, data.sequences, batch_size):
            rows = slice(start, min(start + batch_size, data.sequences))
            _answer_rows(teacher, data, rows, (top_k, temperature), arrays)
            pace.advance(rows.stop - rows.start)
            if time.monotonic() - saved >= EVERY_SECONDS:
                _flush(arrays.values())
                kept = {"done": rows.stop, "sha256": digest.up_to(rows.stop)}
                write_json(output / PROGRESS, {**same, **kept})
                saved = time.monotonic()
    _flush(arrays.values())


class _Digest:
    """A digest of the first windows' answers, which grows with them.

    Args:
        arrays: They are read, each window once.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays, self.windows = arrays, 0
        self.hashes = {name: hashlib.sha256() for name in arrays}

    def up_to(self, windows: int) -> dict[str, str]:
        """Return it for so many windows, no fewer than before, by array."""
        for number in range(self.windows, windows):
            for name, array in self.arrays.items():
                self.hashes[name].update(array[number])
        self.windows = windows
        return {name: found.hexdigest() for name, found in self.hashes.items()}


def _answer_rows(
    teacher: Model,
    data: Streamed,
    rows: slice,
    how: tuple[int | None, float],
    arrays: dict[str, np.ndarray],
) -> None:
    ids = data.tokens(rows.start, rows.stop).to(teacher.device)
    states, positions = record(teacher, ids).hidden_out, data.length - 1
    for first in range(0, positions, CHUNK):
        places = slice(first, min(first + CHUNK, positions))
        found = answer(head_logits(teacher, ids[:, places], states[:, places]), *how)
        if found.logits.isnan().any() or not (found.rest is None or found.rest.isfinite().all()):
            raise NumericsError(
                f"{teacher.source}: the teacher's logits of windows {rows.start} to {rows.stop - 1}"
                f" are NaN or infinite in {dtype_name(teacher.dtype)}, at temperature {how[1]:g}"
            )
        for name, values in ((LOGITS, found.logits), (IDS, found.ids), (REST, found.rest)):
            if values is not None:
                arrays[name][rows, places] = values.cpu().numpy()


def _done(output: Path, same: dict[str, Any]) -> tuple[int, Any]:
    """How many windows an earlier job with the same settings left behind, and their digest."""
    try:
        found = json.loads((output / PROGRESS).read_bytes())
        there = all((output / name).is_file() for name in _names(same["top_k"]))
        known = int(found.pop("done")), found.pop("sha256")
        return known if there and found == same else (0, None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, None


def _arrays(
    output: Path, data: Streamed, vocab: int, top_k: int | None, *, new: bool
) -> dict[str, np.ndarray]:
    width = vocab if top_k is None else top_k
    shape = (data.sequences, data.length - 1)
    kinds = {
        LOGITS: ((*shape, width), np.float32 if top_k is None else np.float16),
        IDS: ((*shape, width), np.int32),
        REST: (shape, np.float32),
    }
    found: dict[str, np.ndarray] = {
        name: np.lib.format.open_memmap(
            output / name, mode="w+" if new else "r+", dtype=kinds[name][1], shape=kinds[name][0]
        )
        for name in _names(top_k)
    }
    if new:
        _reserve([output / name for name in found])
    return found


def _reserve(files: Sequence[Path]) -> None:
    """Take the room of files that are to be filled; where there is none, they are gone."""
    sizes = [file.stat().st_size for file in files]
    amount = f"{sum(sizes) / 2**30:.3g} GiB of answers"
    try:
        with room_for(amount, files[0].parent, "free some, or lower top_k"):
            for file, size in zip(files, sizes, strict=True):
                with file.open("r+b") as stream:
                    take_room(stream.fileno(), size)
    except ArtifactError:
        for file in files:
            file.unlink()
        raise


def _names(top_k: int | None) -> Sequence[str]:
    return (LOGITS,) if top_k is None else (LOGITS, IDS, REST)


def _flush(arrays: Any) -> None:
    for array in arrays:
        array.flush()


def _open(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return found
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable array ({error}); delete it, run again"
        ) from None
