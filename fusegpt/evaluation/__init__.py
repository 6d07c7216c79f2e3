"""Evaluations: what a model, dense or pruned, is measured by."""

from __future__ import annotations

from dataclasses import dataclass

from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.methods import Method
from fusegpt.registry import Entry

__all__ = ["EVALS", "Evaluation"]


@dataclass(frozen=True)
class Evaluation(Method[EvaluationSettings]):
    """One evaluation: a plan, made before any weight is loaded, and the measurement itself.

    Attributes:
        target: ``plan(directory, reads, settings) -> plan``. It refuses what cannot work (a corpus
            too short, a window too long, no tokenizer). ``directory`` holds the model's config and
            tokenizer; what ``reads`` is, the settings say.
        settings: Class of its ``EvaluationSettings``.
        measure: ``measure(model, plan) -> rows``, each a dict with the keys task, metric, value,
            unit, higher_is_better, num_samples, protocol; and where there are items, items (their
            values, for paired comparisons). With ``in_parts``: ``measure(model, part) -> result``.
            Reports take rows of the units ``s``, ``tokens/s`` and ``ratio`` for costs, which are
            not what a model is worth, and ``<what>_speedup`` for a measured ratio to the dense
            model's speed.
        in_parts: The plan has ``parts``, each measured and stored by itself, and
            ``rows(results)``. A part has ``name`` and ``identity``, which is all that decides its
            result besides the model.
    """

    measure: str
    in_parts: bool = False

    @property
    def splits(self) -> bool:
        """Whether several processes can share it."""
        return self.in_parts or self.schema.splits

    @property
    def measurement(self) -> Entry:
        """Where the measuring function lives."""
        return Entry(self.measure)


_SETTINGS = "fusegpt.evaluation.settings"

EVALS: dict[str, Evaluation] = {
    "perplexity": Evaluation(
        "fusegpt.evaluation.perplexity:plan",
        f"{_SETTINGS}:Perplexity",
        measure="fusegpt.evaluation.perplexity:perplexity",
    ),
    "zero_shot": Evaluation(
        "fusegpt.evaluation.zero_shot:plan",
        f"{_SETTINGS}:ZeroShot",
        measure="fusegpt.evaluation.zero_shot:zero_shot",
        in_parts=True,
    ),
    "multimodal": Evaluation(
        "fusegpt.evaluation.multimodal:plan",
        f"{_SETTINGS}:Multimodal",
        measure="fusegpt.evaluation.multimodal:multimodal",
    ),
    "classification": Evaluation(
        "fusegpt.evaluation.classification:plan",
        f"{_SETTINGS}:Classification",
        measure="fusegpt.evaluation.classification:classification",
        in_parts=True,
    ),
    "generation": Evaluation(
        "fusegpt.evaluation.generation:plan",
        f"{_SETTINGS}:Generation",
        measure="fusegpt.evaluation.generation:generation",
    ),
    "speed": Evaluation(
        "fusegpt.evaluation.speed:plan",
        f"{_SETTINGS}:Speed",
        measure="fusegpt.evaluation.speed:speed",
    ),
}
