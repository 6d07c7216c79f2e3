"""Where a verb writes, tried before it works: nothing is lost at the end, nothing overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fusegpt.errors import ArtifactError
from fusegpt.results import layout as at

__all__ = ["FILES", "FOLDERS", "tried"]

OUTPUTS = ("output", "recipe_output")
KEPT = ("store",)
"""Options with folders that a verb adds to."""
NOT_READ = (*OUTPUTS, *KEPT, "results", "directory", "tensorboard")
"""Options with places of which nothing that the verb was given to read is meant."""

STEP_FILES = (at.TRIALS, at.RESUME, at.DELTA, at.TRAINING, at.MANIFEST)
FOLDERS: dict[str, tuple[str, ...]] = {
    "fetch": (at.SOURCE,),
    "fuse": STEP_FILES,
    "merge": (at.CHECKPOINT,),
    "answers": (at.ANSWERS,),
    "finish": (at.CHECKPOINT,),
    "prune": (at.CHECKPOINT,),
    "slice": (at.CHECKPOINT,),
    "export": (at.EXPORT,),
}
"""Verbs that write a directory, with the files that say it is theirs; the last one is last."""

FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sample": (".parquet", ()),
    "generate": (".parquet", ()),
    "score": (".json", ("units",)),
    "start": (".json", ("kind", "recipe", "name")),
    "evaluate": (".json", ("rows",)),
    "compare": (".json", ("others",)),
    "card": (".md", ()),
    "table": (".csv", ()),
    "figure": (".svg", ()),
    "report": (".html", ()),
}
"""Verbs that write a file: its suffix, and keys of which its JSON has at least one."""

RESERVED = (*at.RECORDS, at.RECIPE, at.CONFIG)
PARTS = (
    *(
        "*.safetensors",
        "*.json",
        "*.npy",
        "*.txt",
        "*.model",
        "*.jinja",
        "*.tiktoken",
        "*.md",
        "*.py",
        "*.gguf",
    ),
    *("LICENSE*", "NOTICE*", "*.tmp-*", "additional_chat_templates"),
)
"""What may lie in a directory that was written before, whose last file is gone."""


def tried(verb: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Try each place that a verb is going to write to.

    Args:
        verb: Its name.
        given: Its options.

    Returns:
        The options; for a directory that is a link stands the place that it leads to.

    Raises:
        ArtifactError: A place cannot be written, is of the wrong kind, holds something else, or
            is something that the verb reads. Nothing was touched.
    """
    result = dict(given)
    if verb not in FOLDERS and verb not in FILES:
        return result
    read = [path for name, value in given.items() if name not in NOT_READ for path in _read(value)]
    for name in OUTPUTS:
        value = given.get(name)
        if isinstance(value, tuple):
            result[name] = tuple(_tried(verb, Path(each), read) for each in value)
        elif value is not None:
            result[name] = _tried(verb, Path(value), read)
    for name in KEPT:
        if given.get(name) is not None:
            _tried_folder(Path(given[name]))
    return result


def _read(value: Any) -> Iterator[Path]:
    """The files and directories that an option names, however deep in a table they stand."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _read(each)
    elif isinstance(value, Path | str):
        with contextlib.suppress(OSError, ValueError):
            path = Path(str(value).removeprefix("dir:"))
            if str(value) and path.exists():
                yield path


def _tried(verb: str, path: Path, read: list[Path]) -> Path:
    try:
        place = _place(path, follow=verb in FOLDERS)
        check = _check_folder if verb in FOLDERS else _check_file
        check(verb, place, read)
        _try(place)
    except (OSError, ValueError) as error:
        raise _no_place(path, error, "output") from None
    return place


def _tried_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path}: must be a directory, is a file; choose another folder")
    try:
        _try(path / "file")
    except (OSError, ValueError) as error:
        raise _no_place(path, error, "folder") from None


def _no_place(path: Path, error: OSError | ValueError, what: str) -> ArtifactError:
    reason = getattr(error, "strerror", None) or str(error)
    shown = path if len(str(path)) < 200 else f"{str(path)[:200]}..."
    return ArtifactError(
        f"{str(shown)!r}: must be a place to write to, got: {reason.lower()}; choose another {what}"
    )


def _place(path: Path, *, follow: bool) -> Path:
    """The place that is meant; a directory cannot be renamed over a link, a file can."""
    place = Path(os.path.realpath(path)) if follow and path.is_symlink() else path
    if follow and place.is_symlink():
        raise ArtifactError(f"{path}: must lead to a place, is a link to itself; remove it")
    here = os.getcwd()
    if path.name in ("", "..") or Path(here).is_relative_to(os.path.realpath(place)):
        raise ArtifactError(
            f"{path}: must not be the working directory or one above it; name a place in it"
        )
    return place


def _check_folder(verb: str, place: Path, read: list[Path]) -> None:
    if place.exists() and not place.is_dir():
        raise ArtifactError(f"{place}: must be a directory, is a file; choose another output")
    if os.path.ismount(place):
        raise ArtifactError(
            f"{place}: must not be a mount point, which cannot be replaced; name a directory in it"
        )
    own, whole = FOLDERS[verb], place.resolve()
    for path in read:
        real = path.resolve()
        spared = verb == "fuse" and real.parent == whole and real.name not in own
        if (real == whole or whole in real.parents) and not spared:
            raise ArtifactError(
                f"{place}: must not be or hold what is read, got {path}; choose another output"
            )
    if verb == "fuse" or not place.is_dir():
        return
    present = {entry.name for entry in place.iterdir()}
    foreign = [name for name in present if not any(fnmatch(name, part) for part in PARTS)]
    if own[-1] in present:
        raise ArtifactError(f"{place}: must not exist or be empty; choose another output")
    if foreign:
        raise ArtifactError(
            f"{place}: holds {min(foreign)!r}, which is not part of this output; choose another"
        )


def _check_file(verb: str, place: Path, read: list[Path]) -> None:
    suffix, keys = FILES[verb]
    if place.is_dir():
        raise ArtifactError(f"{place}: must be a file, is a directory; choose another output")
    if place.exists() and not place.is_file():
        raise ArtifactError(f"{place}: must be a plain file; choose another output")
    if place.suffix != suffix:
        raise ArtifactError(f"{place}: must end in {suffix}, which {verb} writes; rename it")
    if any(path.is_file() and place.exists() and place.samefile(path) for path in read):
        raise ArtifactError(f"{place}: must not be what is read; choose another output")
    if place.name in RESERVED and verb != "start":
        raise ArtifactError(
            f"{place}: must not have the name of a record that {verb} does not write; rename it"
        )
    beside = place.with_suffix(".json")
    mixed = verb == "table" and not _is_own(beside, ("experiment",))
    if mixed or (keys and not _is_own(place, keys)):
        place = beside if mixed else place
        raise ArtifactError(
            f"{place}: holds something else than {verb} writes; choose another output"
        )


def _is_own(place: Path, keys: tuple[str, ...]) -> bool:
    """Whether a JSON file may be replaced: one of this kind, a damaged one, or none at all."""
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(found, dict) and (not found or bool(found.keys() & set(keys)))


def _try(place: Path) -> None:
    """Write and remove an empty file beside the place, with the longest name that is needed."""
    above = next(folder for folder in place.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise ArtifactError(f"{place}: {above} must be a directory, is a file; choose another")
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f"{place.name}.tmp-{uuid.uuid4().hex}")
    with open(beside, "xb"):
        pass
    beside.unlink()
