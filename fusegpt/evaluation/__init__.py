"""Evaluations: what a model, dense or pruned, is measured by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fusegpt.registry import Entry

__all__ = ["EVALS", "FIVE", "Evaluation"]

FIVE = ("piqa", "winogrande", "hellaswag", "arc_easy", "arc_challenge")
"""The zero-shot tasks of the paper's Table II, in its order."""


@dataclass(frozen=True)
class Evaluation(Entry):
    """One evaluation: a plan, made before any weight is loaded, and the measurement itself.

    Attributes:
        target: ``plan(directory, reads, *, settings...) -> plan``. It refuses what cannot work
            (a corpus too short, a window too long, no tokenizer). Its keyword-only parameters are
            the evaluation's settings. ``directory`` holds the model's config and tokenizer.
        measure: ``measure(model, plan) -> rows``, each a dict with the keys task, metric, value,
            unit, higher_is_better, num_samples, protocol; and where there are items, items (their
            values, for paired comparisons). With ``in_parts``: ``measure(model, part) -> result``.
        reads: What the plan's second argument is: the config's ``corpora``, its ``tasks``, or the
            places of the model and of the dense model (``models``).
        in_parts: The plan has ``parts``, each measured and stored by itself, and
            ``rows(results)``. A part has ``name`` and ``identity``, which is all that decides its
            result besides the model.
    """

    measure: str = ""
    reads: Literal["corpora", "tasks", "models"] = "corpora"
    in_parts: bool = False

    @property
    def measurement(self) -> Entry:
        """The measuring function's line."""
        return Entry(self.measure)


EVALS: dict[str, Evaluation] = {
    "perplexity": Evaluation(
        "fusegpt.evaluation.perplexity:plan",
        measure="fusegpt.evaluation.perplexity:perplexity",
    ),
    "zero_shot": Evaluation(
        "fusegpt.evaluation.zero_shot:plan",
        measure="fusegpt.evaluation.zero_shot:zero_shot",
        reads="tasks",
        in_parts=True,
    ),
    "multimodal": Evaluation(
        "fusegpt.evaluation.multimodal:plan",
        measure="fusegpt.evaluation.multimodal:multimodal",
        reads="tasks",
    ),
    "classification": Evaluation(
        "fusegpt.evaluation.classification:plan",
        measure="fusegpt.evaluation.classification:classification",
        reads="tasks",
        in_parts=True,
    ),
    "speed": Evaluation(
        "fusegpt.evaluation.speed:plan",
        measure="fusegpt.evaluation.speed:speed",
        reads="models",
    ),
}
