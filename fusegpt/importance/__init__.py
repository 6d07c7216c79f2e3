"""Importance metrics: how much a model needs each unit. High = keep; the lowest is removed.

Each is a function ``metric(model, batches, units, settings) -> [units]`` in a file of its own,
and a line here that names it and the class of its settings. One whose scores follow from sums over
batches also takes ``sums``, so that several jobs can share the windows.
"""

from dataclasses import dataclass
from typing import Any

from fusegpt.importance.settings import MetricSettings
from fusegpt.methods import Method
from fusegpt.registry import Entry

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric(Method[MetricSettings]):
    """A line of ``METRICS``.

    Attributes:
        from_sums: ``"package.module:function"`` from the sums of all batches to the scores, for a
            metric that takes ``sums``. None: one job sees all windows.
    """

    from_sums: str | None = None

    def adds_up(self, settings: MetricSettings) -> bool:
        """Return whether several jobs can share the windows."""
        return self.from_sums is not None and settings.adds_up

    def combine(self, sums: Any) -> Any:
        """Return the scores ``[units]`` that the sums of all batches make."""
        assert self.from_sums is not None, self.target
        return Entry(self.from_sums).load()(sums)


_SETTINGS = "fusegpt.importance.settings"
_DRAWN = "fusegpt.importance.drawn"
_MEAN = "fusegpt.importance.sums:mean"

METRICS: dict[str, Metric] = {
    "macro_influence": Metric(
        "fusegpt.importance.macro_influence:macro_influence",
        f"{_SETTINGS}:MacroInfluence",
        from_sums="fusegpt.importance.macro_influence:from_sums",
    ),
    "block_influence": Metric(
        "fusegpt.importance.block_influence:block_influence",
        f"{_SETTINGS}:BlockInfluence",
        from_sums=_MEAN,
    ),
    "relative_l1": Metric(
        "fusegpt.importance.relative_l1:relative_l1", f"{_SETTINGS}:RelativeL1", from_sums=_MEAN
    ),
    "relative_l2": Metric(
        "fusegpt.importance.relative_l2:relative_l2", f"{_SETTINGS}:RelativeL2", from_sums=_MEAN
    ),
    "llm_bip": Metric("fusegpt.importance.llm_bip:llm_bip", f"{_SETTINGS}:LlmBip", from_sums=_MEAN),
    "angular_distance": Metric(
        "fusegpt.importance.angular_distance:angular_distance",
        f"{_SETTINGS}:AngularDistance",
        from_sums=_MEAN,
    ),
    "sleb": Metric("fusegpt.importance.sleb:sleb", f"{_SETTINGS}:Sleb", from_sums=_MEAN),
    "perplexity": Metric(
        "fusegpt.importance.perplexity:perplexity",
        f"{_SETTINGS}:Perplexity",
        from_sums="fusegpt.importance.perplexity:from_sums",
    ),
    "taylor": Metric("fusegpt.importance.taylor:taylor", f"{_SETTINGS}:Taylor"),
    "shapley": Metric("fusegpt.importance.shapley:shapley", f"{_DRAWN}:Shapley"),
    "policy_gradient": Metric(
        "fusegpt.importance.policy_gradient:policy_gradient", f"{_DRAWN}:PolicyGradient"
    ),
    "gates": Metric("fusegpt.importance.gates:gates", f"{_DRAWN}:Gates"),
    "last_blocks": Metric("fusegpt.importance.last_blocks:last_blocks", f"{_SETTINGS}:LastBlocks"),
    "given": Metric("fusegpt.importance.given:given", f"{_SETTINGS}:Given"),
    "random": Metric("fusegpt.importance.random:random", f"{_SETTINGS}:Random"),
}
