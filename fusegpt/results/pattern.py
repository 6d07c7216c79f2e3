"""Paths with wildcards: names to paths and back, and what of a kind is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fusegpt.results.point import Place, Point

__all__ = ["FOLDER", "Found", "Pattern", "is_leftover", "leftovers"]

FOLDER = "results"
WILDCARD = re.compile(r"\{(\w+)\}")
FORMS = {"k": r"\d{3,}", "shard": r"\d+-of-\d+", "place": r"(?:step-\d{3,}|sparsity-[^/]+)"}
LEFTOVER = re.compile(r".+\.tmp-[0-9a-f]{32}")


class Pattern(str):
    """A path below ``results/`` with wildcards in braces."""

    def __call__(self, point: Point | None = None, /, **names: str | int) -> str:
        """Fill the wildcards in; a step may be given as a number.

        Args:
            point: Gives ``model``, ``recipe``, ``place``, and ``k`` or ``sparsity``.
            names: The others.
        """
        given = {**_names_of(point), **{name: _text(value) for name, value in names.items()}}
        return WILDCARD.sub(lambda found: given[found[1]], str(self))

    def partly(self, **names: str) -> str:
        """Fill some wildcards in; the others stay as they are."""
        return WILDCARD.sub(lambda found: names.get(found[1], found[0]), str(self))

    def under(self, results: str | Path, point: Point | None = None, /, **names: str | int) -> Path:
        """Return the path below a results folder of any name."""
        return Path(results, _relative(self(point, **names)))

    def found_in(self, results: str | Path, **names: str | int) -> list[Found]:
        """List what is there, in the order of paths; leftovers of killed jobs are no results.

        Args:
            results: The results folder.
            names: Wildcards that are given; every other may be anything.
        """
        given = {name: _text(value) for name, value in names.items()}
        glob = WILDCARD.sub(lambda found: _literal(given.get(found[1])), _relative(self))
        paths = sorted(Path(results).glob(glob))
        found = (self.match(path.relative_to(results).as_posix()) for path in paths)
        whole = [
            (path, names) for path, names in zip(paths, found, strict=True) if names is not None
        ]
        return [Found(self, path, names) for path, names in whole]

    def match(self, relative: str) -> dict[str, str] | None:
        """Read the names out of a path, relative to the results folder; None: another path."""
        parts = WILDCARD.split(_relative(self))
        seen: set[str] = set()
        regex = ""
        for place, part in enumerate(parts):
            if place % 2 == 0:
                regex += re.escape(part)
            else:
                regex += f"(?P={part})" if part in seen else f"(?P<{part}>{_form(part)})"
                seen.add(part)
        match = re.fullmatch(regex, relative)
        return None if match is None or _is_leftover(relative) else match.groupdict()


@dataclass(frozen=True)
class Found:
    """Something that lies in a results folder.

    Attributes:
        kind: The pattern that it follows.
        path: Where it is.
        names: What its wildcards stand for.
    """

    kind: Pattern
    path: Path
    names: dict[str, str]

    @property
    def point(self) -> Point:
        """The model that it belongs to."""
        return Point(self.names["model"], self.names["recipe"], self.place)

    @property
    def place(self) -> Place:
        """How far the recipe has gone there."""
        if "place" in self.names:
            return Place.parse(self.names["place"])
        if "k" in self.names:
            return Place.step(int(self.names["k"]))
        return Place.sparsity(self.names["sparsity"])


def leftovers(results: str | Path) -> Iterator[Path]:
    """Yield what writes that were killed left beside their places, in the order of paths."""
    for path in sorted(Path(results).rglob("*.tmp-*")):
        if is_leftover(path):
            yield path


def is_leftover(path: Path) -> bool:
    """Return whether a write that was killed left a path beside its place."""
    return LEFTOVER.fullmatch(path.name) is not None


def _relative(path: str) -> str:
    return str(path).removeprefix(f"{FOLDER}/")


def _names_of(point: Point | None) -> dict[str, str]:
    if point is None:
        return {}
    place = {"sparsity" if point.place.slices else "k": point.place.text}
    return {"model": point.model, "recipe": point.recipe, "place": point.place.name, **place}


def _text(value: str | int) -> str:
    return f"{value:03d}" if isinstance(value, int) else value


def _literal(value: str | None) -> str:
    """A name inside a glob; what is not given may be anything."""
    return "*" if value is None else re.sub(r"([*?[])", r"[\1]", value)


def _form(wildcard: str) -> str:
    return FORMS.get(wildcard, r"[^/.][^/]*")


def _is_leftover(relative: str) -> bool:
    return any(LEFTOVER.fullmatch(part) for part in relative.split("/"))
