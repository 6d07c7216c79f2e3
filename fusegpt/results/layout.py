"""Where results lie: every path below ``results/`` is spelled here, once, and nowhere else.

A pattern is the text that rules use, wildcards included; called with names, it is a path::

    manifest == "results/runs/{model}/{recipe}/step-{k}/manifest.json"
    manifest(point) == "results/runs/tiny/fusegpt-01234567/step-007/manifest.json"
    manifest.under(folder, point)  # the same below another results folder
    manifest.found_in(folder)  # every one that is there, with its names
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from fusegpt.results.pattern import FOLDER, Found, Pattern, is_leftover, leftovers
from fusegpt.results.point import Point

__all__ = [
    "ANSWERS",
    "CARD",
    "CHECKPOINT",
    "CONFIG",
    "DELTA",
    "EXPORT",
    "FOLDER",
    "MANIFEST",
    "PATTERNS",
    "RECIPE",
    "RECORDS",
    "RESUME",
    "SCORES",
    "SOURCE",
    "STEPS",
    "TRAINING",
    "TRIALS",
    "Found",
    "Pattern",
    "answers",
    "answers_directory",
    "card",
    "card_beside",
    "checkpoint",
    "checkpoint_card",
    "checkpoint_directory",
    "delta",
    "dense_scores",
    "dense_scores_part",
    "evaluation",
    "export",
    "export_directory",
    "export_evaluation",
    "figure",
    "generated",
    "is_leftover",
    "leftovers",
    "manifest",
    "measured",
    "model_directory",
    "parse",
    "parts",
    "patterns",
    "published",
    "recipe",
    "record_in",
    "report",
    "resume",
    "run_directory",
    "scores",
    "scores_part",
    "slice_card",
    "slice_directory",
    "sliced",
    "source",
    "step_directory",
    "store",
    "stored",
    "table",
    "table_record",
    "training",
    "trials",
    "unfinished",
    "unfinished_run",
    "windows",
]

SOURCE = "source.json"
MANIFEST = "manifest.json"
CHECKPOINT = "fusegpt.json"
EXPORT = "export.json"
RECORDS = (CHECKPOINT, MANIFEST, SOURCE, EXPORT)
"""What a directory of ours says of itself: a merged or sliced model, a step, a fetched model, an
export."""
CONFIG = "config.json"
SCORES = "scores.json"
DELTA = "delta.safetensors"
TRAINING = "training.json"
RESUME = "resume.safetensors"
TRIALS = "trials.json"
STEPS = "steps.json"
RECIPE = "recipe.json"
ANSWERS = "answers.json"
CARD = "README.md"


def _below(path: str) -> Pattern:
    return Pattern(f"{FOLDER}/{path}")


model_directory = _below("models/{model}")
source = _below(f"models/{{model}}/{SOURCE}")
"""The last file of a fetched model."""
windows = _below("data/{model}/{windows}.parquet")
"""Windows of token ids, cut with a model's tokenizer."""
generated = _below("generated/{model}/{generated}.parquet")
"""Texts that a dense model wrote itself, as token ids."""
dense_scores = _below("scores/{model}/{scores}.json")
"""The importance of each unit of a dense model, for all recipes that score it alike."""
parts = _below("parts")
"""Everything below it is there only until it is added up."""
dense_scores_part = _below("parts/{model}/{scores}/{shard}.json")
"""What a part of the windows adds to the scores of a dense model."""
scores_part = _below("parts/{model}/{recipe}/step-{k}/{shard}.json")
"""What a part of the windows adds to the scores before a step."""

answers_directory = _below("answers/{model}/{answers}")
answers = _below(f"answers/{{model}}/{{answers}}/{ANSWERS}")
"""The last file of a teacher's answers to windows, for every finish that learns from them."""

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
checkpoint_card = _below(f"checkpoints/{{model}}/{{recipe}}/step-{{k}}/{CARD}")
slice_directory = _below("slices/{model}/{recipe}/sparsity-{sparsity}")
sliced = _below(f"slices/{{model}}/{{recipe}}/sparsity-{{sparsity}}/{CHECKPOINT}")
"""The last file of a sliced model."""
slice_card = _below(f"slices/{{model}}/{{recipe}}/sparsity-{{sparsity}}/{CARD}")

export_directory = _below("exports/{model}/{recipe}/{place}/{export}")
export = _below(f"exports/{{model}}/{{recipe}}/{{place}}/{{export}}/{EXPORT}")
"""The last file of a model as another program runs it."""
export_evaluation = _below("evaluations/{model}/{recipe}/{place}/{export}/{evaluation}.json")
"""The result of one evaluation of one export."""

card = _below("cards/{model}/{recipe}/{place}.md")
"""A copy of a model's card with its results."""
evaluation = _below("evaluations/{model}/{recipe}/{place}/{evaluation}.json")
"""The result of one evaluation of one model."""
store = _below(".evalcache")
"""What was measured once, by what it follows from; it saves time and decides nothing."""
stored = _below(".evalcache/{model}/{part}.json")

table = _below("tables/{experiment}.csv")
table_record = _below("tables/{experiment}.json")
figure = _below("figures/{experiment}.svg")
report = _below("report.html")

PATTERNS = (
    *(source, model_directory, windows, generated, dense_scores, answers, answers_directory),
    *(scores_part, dense_scores_part, parts),
    *(recipe, scores, manifest, delta, training, resume, trials, step_directory, run_directory),
    *(checkpoint, checkpoint_card, checkpoint_directory),
    *(sliced, slice_card, slice_directory),
    *(export, export_directory, export_evaluation),
    *(card, evaluation, table, table_record, figure, report, stored, store),
)
"""Every kind of file and directory, the inner ones first."""


def patterns() -> SimpleNamespace:
    """Return every pattern as plain text, by name; Snakemake would call what can be called.

    Returns:
        ``patterns().manifest == "results/runs/{model}/{recipe}/step-{k}/manifest.json"``.
    """
    return SimpleNamespace(
        **{name: str(value) for name, value in globals().items() if isinstance(value, Pattern)}
    )


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


def unfinished_run(output: Path) -> Path:
    """Return where a run in one process keeps its finished steps: beside the checkpoint."""
    return output.with_name(f"{output.name}.unfinished")


def card_beside(record: Path) -> Path:
    """Return the card of the checkpoint that a record describes."""
    return record.with_name(CARD)


def record_in(path: Path) -> Path | None:
    """Return the record of ours that a path is, or that lies in it; None: nobody here wrote it."""
    files = [path] if path.is_file() else [path / name for name in RECORDS]
    return next((file for file in files if file.is_file()), None)
