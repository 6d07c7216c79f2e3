"""Evaluations: what a model, dense or pruned, is measured by."""

from __future__ import annotations

from dataclasses import dataclass

from fusegpt.registry import Entry

__all__ = ["EVALS", "Evaluation"]


@dataclass(frozen=True)
class Evaluation(Entry):
    """One evaluation: a plan, made before any weight is loaded, and the measurement itself.

    Attributes:
        target: ``plan(directory, corpora, *, settings...) -> plan``. It refuses what cannot work
            (a corpus too short, a window too long, no tokenizer). Its keyword-only parameters are
            the evaluation's settings. ``directory`` holds the model's config and tokenizer;
            ``corpora`` are the config's, for evaluations that read text.
        measure: ``measure(model, plan) -> rows``, each a dict with the keys task, metric, value,
            unit, higher_is_better, num_samples, protocol.
    """

    measure: str = ""

    @property
    def measurement(self) -> Entry:
        """The measuring function's line."""
        return Entry(self.measure)


EVALS: dict[str, Evaluation] = {
    "perplexity": Evaluation(
        "fusegpt.evaluation.perplexity:plan",
        measure="fusegpt.evaluation.perplexity:perplexity",
    ),
}
