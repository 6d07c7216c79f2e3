"""Importance metrics: how much a model needs each unit. High = keep; the lowest is removed.

Each is a function ``metric(model, batches, units, settings) -> [units]`` in a file of its own,
and a line here that names it and the class of its settings.
"""

from fusegpt.importance.settings import MetricSettings
from fusegpt.methods import Method

__all__ = ["METRICS"]

_SETTINGS = "fusegpt.importance.settings"
_DRAWN = "fusegpt.importance.drawn"

METRICS: dict[str, Method[MetricSettings]] = {
    "macro_influence": Method(
        "fusegpt.importance.macro_influence:macro_influence", f"{_SETTINGS}:MacroInfluence"
    ),
    "block_influence": Method(
        "fusegpt.importance.block_influence:block_influence", f"{_SETTINGS}:BlockInfluence"
    ),
    "relative_l1": Method("fusegpt.importance.relative_l1:relative_l1", f"{_SETTINGS}:RelativeL1"),
    "relative_l2": Method("fusegpt.importance.relative_l2:relative_l2", f"{_SETTINGS}:RelativeL2"),
    "llm_bip": Method("fusegpt.importance.llm_bip:llm_bip", f"{_SETTINGS}:LlmBip"),
    "angular_distance": Method(
        "fusegpt.importance.angular_distance:angular_distance", f"{_SETTINGS}:AngularDistance"
    ),
    "sleb": Method("fusegpt.importance.sleb:sleb", f"{_SETTINGS}:Sleb"),
    "perplexity": Method("fusegpt.importance.perplexity:perplexity", f"{_SETTINGS}:Perplexity"),
    "taylor": Method("fusegpt.importance.taylor:taylor", f"{_SETTINGS}:Taylor"),
    "shapley": Method("fusegpt.importance.shapley:shapley", f"{_DRAWN}:Shapley"),
    "last_blocks": Method("fusegpt.importance.last_blocks:last_blocks", f"{_SETTINGS}:LastBlocks"),
    "given": Method("fusegpt.importance.given:given", f"{_SETTINGS}:Given"),
    "random": Method("fusegpt.importance.random:random", f"{_SETTINGS}:Random"),
}
