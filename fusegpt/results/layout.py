"""Where results lie: every path below ``results/`` is spelled here, once, and nowhere else.

A pattern is the text that rules use, wildcards included; called with names, it is a path::

    manifest == "results/runs/{model}/{recipe}/step-{k}/manifest.json"
    manifest(point) == "results/runs/tiny/fusegpt-01234567/step-007/manifest.json"
    manifest.under(folder, point)  # the same below another results folder
    manifest.found_in(folder)  # every one that is there, with its names
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fusegpt.results.point import Place, Point

__all__ = [
    "CARD",
    "CHECKPOINT",
    "CONFIG",
    "DELTA",
    "FOLDER",
    "MANIFEST",
    "PATTERNS",
    "RECIPE",
    "RECORDS",
    "RESUME",
    "SCORES",
    "SOURCE",
    "TRAINING",
    "TRIALS",
    "Found",
    "Pattern",
    "card",
    "card_beside",
    "checkpoint",
    "checkpoint_directory",
    "delta",
    "dense_scores",
    "evaluation",
    "figure",
    "leftovers",
    "manifest",
    "measured",
    "model_directory",
    "parse",
    "published",
    "recipe",
    "record_in",
    "report",
    "resume",
    "run_directory",
    "scores",
    "slice_directory",
    "sliced",
    "source",
    "step_directory",
    "store",
    "table",
    "table_record",
    "training",
    "trials",
    "unfinished",
    "windows",
]

FOLDER = "results"

SOURCE = "source.json"
MANIFEST = "manifest.json"
CHECKPOINT = "fusegpt.json"
RECORDS = (CHECKPOINT, MANIFEST, SOURCE)
"""What a directory of ours says of itself: a merged or sliced model, a step, a fetched model."""
CONFIG = "config.json"
SCORES = "scores.json"
DELTA = "delta.safetensors"
TRAINING = "training.json"
RESUME = "resume.safetensors"
TRIALS = "trials.json"
RECIPE = "recipe.json"
CARD = "README.md"

WILDCARD = re.compile(r"\{(\w+)\}")
FORMS = {"k": r"\d{3,}", "place": r"(?:step-\d{3,}|sparsity-[^/]+)"}
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


def _below(path: str) -> Pattern:
    return Pattern(f"{FOLDER}/{path}")


model_directory = _below("models/{model}")
source = _below(f"models/{{model}}/{SOURCE}")
"""The last file of a fetched model."""
windows = _below("data/{model}/{windows}.parquet")
"""Windows of token ids, cut with a model's tokenizer."""
dense_scores = _below("scores/{model}/{scores}.json")
"""The importance of each unit of a dense model, for all recipes that score it alike."""

run_directory = _below("runs/{model}/{recipe}")
recipe = _below(f"runs/{{model}}/{{recipe}}/{RECIPE}")
step_directory = _below("runs/{model}/{recipe}/step-{k}")
scores = _below(f"runs/{{model}}/{{recipe}}/step-{{k}}/{SCORES}")
"""The importance of each unit before a step."""
manifest = _below(f"runs/{{model}}/{{recipe}}/step-{{k}}/{MANIFEST}")
"""The last file of a step."""
delta = _below(f"runs/{{model}}/{{recipe}}/step-{{k}}/{DELTA}")
training = _below(f"runs/{{model}}/{{recipe}}/step-{{k}}/{TRAINING}")
resume = _below(f"runs/{{model}}/{{recipe}}/step-{{k}}/{RESUME}")
trials = _below(f"runs/{{model}}/{{recipe}}/step-{{k}}/{TRIALS}")

checkpoint_directory = _below("checkpoints/{model}/{recipe}/step-{k}")
checkpoint = _below(f"checkpoints/{{model}}/{{recipe}}/step-{{k}}/{CHECKPOINT}")
"""The last file of a merged checkpoint."""
slice_directory = _below("slices/{model}/{recipe}/sparsity-{sparsity}")
sliced = _below(f"slices/{{model}}/{{recipe}}/sparsity-{{sparsity}}/{CHECKPOINT}")
"""The last file of a sliced model."""

card = _below("cards/{model}/{recipe}/{place}.md")
"""A copy of a model's card with its results."""
evaluation = _below("evaluations/{model}/{recipe}/{place}/{evaluation}.json")
"""The result of one evaluation of one model."""
store = _below(".evalcache")
"""What was measured once, by what it follows from; it saves time and decides nothing."""

table = _below("tables/{experiment}.csv")
table_record = _below("tables/{experiment}.json")
figure = _below("figures/{experiment}.svg")
report = _below("report.html")

PATTERNS = (
    *(source, model_directory, windows, dense_scores),
    *(recipe, scores, manifest, delta, training, resume, trials, step_directory, run_directory),
    *(checkpoint, checkpoint_directory, sliced, slice_directory),
    *(card, evaluation, table, table_record, figure, report, store),
)
"""Every kind of file and directory, the inner ones first."""


def parse(path: str | Path, results: str | Path = FOLDER) -> Found | None:
    """Say what a path is; the inverse of the patterns. None: nothing of ours.

    Args:
        path: A file or a directory, there or not.
        results: The results folder that it is below.
    """
    relative = Path(path).relative_to(results).as_posix()
    for pattern in PATTERNS:
        names = pattern.match(relative)
        if names is not None:
            return Found(pattern, Path(path), names)
    return None


def leftovers(results: str | Path) -> Iterator[Path]:
    """Yield what writes that were killed left beside their places, in the order of paths."""
    for path in sorted(Path(results).rglob("*.tmp-*")):
        if LEFTOVER.fullmatch(path.name):
            yield path


def measured(point: Point) -> str:
    """Return the last file of the model at a point: fetched, a step, or sliced."""
    if point.is_dense:
        return source(point)
    return sliced(point) if point.place.slices else manifest(point)


def published(point: Point) -> str:
    """Return the last file of the directory that transformers loads: merged, or sliced."""
    return sliced(point) if point.place.slices else checkpoint(point)


def unfinished(directory: Path) -> Path:
    """Return where a recovery after the last removal keeps its state: beside the checkpoint."""
    return directory.with_name(f"{directory.name}.{RESUME}")


def card_beside(record: Path) -> Path:
    """Return the card of the checkpoint that a record describes."""
    return record.with_name(CARD)


def record_in(path: Path) -> Path | None:
    """Return the record of ours that a path is, or that lies in it; None: nobody here wrote it."""
    files = [path] if path.is_file() else [path / name for name in RECORDS]
    return next((file for file in files if file.is_file()), None)


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
