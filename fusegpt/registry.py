"""Tables of named things, and the one place that says "unknown ..."."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fusegpt.errors import UnknownNameError

__all__ = ["Entry", "lookup", "suggestion"]

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One line of a table: where a function lives, so that naming it does not import it.

    Attributes:
        target: ``"package.module:function"``.
    """

    target: str

    @property
    def module(self) -> str:
        """The dotted module name."""
        return self.target.partition(":")[0]

    @property
    def name(self) -> str:
        """The function's name inside the module."""
        return self.target.partition(":")[2]

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return function


def lookup(table: Mapping[str, T], name: str, kind: str, where: str = "") -> T:
    """Find ``name`` in ``table``.

    Args:
        table: Names to what they stand for.
        name: Which one.
        kind: What names stand for, for the message.
        where: Where the name was given, which begins the message.

    Raises:
        UnknownNameError: No such line; the message names the closest one and all known ones.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    place = f"{where}: " if where else ""
    raise UnknownNameError(f"{place}unknown {kind} {name!r:.60}{suggestion(name, table)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown ..." message: the closest name, if one is, and all known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(names) or 'none'}"
