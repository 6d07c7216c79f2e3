"""What lm-eval knows under a name, read from the files that speak of it.

lm-eval's own index reads all its fourteen thousand files, most of them twice, which takes as long
as many an evaluation; a test compares both.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import lm_eval.tasks
from lm_eval.tasks._index import Entry, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

__all__ = ["Entry", "entry_of"]

FOLDER = Path(lm_eval.tasks.__file__).parent
INCLUDE = re.compile(rb"^[\"']?include[\"']?[ \t]*:(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)
SCALAR = re.compile(rb"[^\s\"',\[\]-][^\s\"',\[\]]*")


@functools.cache
def entry_of(name: str) -> Entry | None:
    """Return lm-eval's task, group or tag of a name; None: it has none."""
    scalar = re.compile(rb"(?<![^\s\"'\[,])" + re.escape(name.encode()) + rb"(?![^\s\"'\],#])")
    index: dict[str, Entry] = {}
    for file in _files():
        texts = map(_text, _with_included(file))
        if any(name.encode() in text and scalar.search(text) for text in texts):
            try:
                TaskIndex.process_cfg(load_yaml(file, resolve_func=False), Path(file), index)
            except Exception:  # as lm-eval does, which passes over what it cannot read
                continue
    return index.get(name)


@functools.cache
def _files() -> list[str]:
    """All files of tasks, in the order in which lm-eval reads them."""
    ignored = {"__pycache__", ".ipynb_checkpoints"}
    found = [
        f"{folder}/{name}"
        for folder, _, inside in os.walk(FOLDER)
        if ignored.isdisjoint(folder.split(os.sep))
        for name in inside
        if name.endswith(".yaml")
    ]
    return sorted(found)


@functools.cache
def _with_included(file: str) -> tuple[str, ...]:
    """A file and all that it includes, or they include."""
    found = [file]
    for one in found:
        found += [included for included in _included(one) if included not in found]
    return tuple(found)


@functools.cache
def _text(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        return b""


def _included(file: str) -> list[str]:
    said = [name.decode() for part in INCLUDE.findall(_text(file)) for name in SCALAR.findall(part)]
    return [os.path.normpath(os.path.join(os.path.dirname(file), name)) for name in said]
