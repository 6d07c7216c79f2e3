"""FuseGPT: depth pruning of language models by removing blocks and fusing them into neighbours.

The verbs of the command line as functions. Each is imported when it is first used, so that
``import fusegpt`` needs no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_FUNCTIONS = {
    "fetch": "fusegpt.data.sources",
    "finish_model": "fusegpt.pruning.finish_job",
    "fuse_model": "fusegpt.pruning.jobs",
    "generate": "fusegpt.models.generation",
    "load": "fusegpt.models.checkpoints.load",
    "load_recipe": "fusegpt.pruning.recipe",
    "load_text": "fusegpt.data.corpora",
    "merge_model": "fusegpt.pruning.jobs",
    "perplexity": "fusegpt.evaluation.perplexity",
    "prune": "fusegpt.pruning.loop",
    "prune_model": "fusegpt.pruning.jobs",
    "publish": "fusegpt.pruning.publish",
    "read_windows": "fusegpt.data.window_files",
    "removals": "fusegpt.pruning.budget",
    "sample": "fusegpt.data.sampling",
    "score_model": "fusegpt.pruning.score_jobs",
    "score_step": "fusegpt.pruning.scoring",
    "slice_model": "fusegpt.pruning.slicing",
    "write_windows": "fusegpt.data.window_files",
}

__all__ = ["__version__", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'fusegpt' has no attribute {name!r}")
    return getattr(import_module(_FUNCTIONS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
