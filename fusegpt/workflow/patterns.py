"""Whether the sparsities of recipes that keep a pattern of kinds can be had; asked of the graph."""

from __future__ import annotations

from pathlib import Path

from fusegpt.data.directories import text_config
from fusegpt.pruning.whole_periods import check_count
from fusegpt.results import layout as at
from fusegpt.workflow.plan import Plan

__all__ = ["check_patterns"]


def check_patterns(plan: Plan, directory: Path) -> None:
    """Refuse sparsities that are no whole periods of a pattern to keep, if the model is here.

    Args:
        plan: Everything that is asked for.
        directory: The working directory, where results lie.

    Raises:
        ConfigError: The message names the nearest.
    """
    for name, experiment in plan.experiments.items():
        for used in experiment.models:
            entry = plan.models[used]
            places = [directory / at.model_directory(model=used)]
            if entry.source.startswith("dir:"):
                places.append(directory / entry.source.removeprefix("dir:"))
            here = [place for place in places if (place / at.CONFIG).is_file()]
            for member in plan.members[name] if here else ():
                recipe = plan.recipes.get(member.id)
                if recipe is not None and recipe.keep_pattern:
                    for count in plan.counts(name, used, member.id):
                        check_count(recipe, text_config(here[0]), count, entry.num_blocks)
