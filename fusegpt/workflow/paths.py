"""Where artifacts lie, below the working directory; the rules' patterns say the same."""

from __future__ import annotations

__all__ = [
    "card",
    "checkpoint",
    "dense_scores",
    "evaluation",
    "figure",
    "manifest",
    "model",
    "scores",
    "slice_card",
    "slice_evaluation",
    "sliced",
    "step_name",
    "table",
    "windows",
]


def step_name(step: int) -> str:
    """Zero-padded, so that the order of names is the order of steps."""
    return f"step-{step:03d}"


def model(model: str) -> str:
    """The last file of a fetched model."""
    return f"results/models/{model}/source.json"


def windows(model: str, windows: str) -> str:
    """Windows of token ids, cut with a model's tokenizer."""
    return f"results/data/{model}/{windows}.parquet"


def dense_scores(model: str, scores: str) -> str:
    """The importance of each unit of a dense model, for all recipes that score it alike."""
    return f"results/scores/{model}/{scores}.json"


def scores(model: str, recipe: str, step: int) -> str:
    """The importance of each unit before a step."""
    return f"results/runs/{model}/{recipe}/{step_name(step)}/scores.json"


def manifest(model: str, recipe: str, step: int) -> str:
    """The last file of a step."""
    return f"results/runs/{model}/{recipe}/{step_name(step)}/manifest.json"


def checkpoint(model: str, recipe: str, step: int) -> str:
    """The last file of a merged checkpoint."""
    return f"results/checkpoints/{model}/{recipe}/{step_name(step)}/fusegpt.json"


def card(model: str, recipe: str, step: int) -> str:
    """A copy of a checkpoint's card with its results."""
    return f"results/cards/{model}/{recipe}/{step_name(step)}.md"


def evaluation(model: str, recipe: str, step: int, evaluation: str) -> str:
    """The result of one evaluation of one model."""
    return f"results/evaluations/{model}/{recipe}/{step_name(step)}/{evaluation}.json"


def sliced(model: str, recipe: str, sparsity: str) -> str:
    """The last file of a sliced model."""
    return f"results/slices/{model}/{recipe}/sparsity-{sparsity}/fusegpt.json"


def slice_card(model: str, recipe: str, sparsity: str) -> str:
    """A copy of a sliced model's card with its results."""
    return f"results/cards/{model}/{recipe}/sparsity-{sparsity}.md"


def slice_evaluation(model: str, recipe: str, sparsity: str, evaluation: str) -> str:
    """The result of one evaluation of one sliced model."""
    return f"results/evaluations/{model}/{recipe}/sparsity-{sparsity}/{evaluation}.json"


def table(experiment: str) -> str:
    """An experiment's table."""
    return f"results/tables/{experiment}.csv"


def figure(experiment: str) -> str:
    """An experiment's figure."""
    return f"results/figures/{experiment}.svg"
