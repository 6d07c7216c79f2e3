"""From the merged configuration to what is to be computed, every name and number checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusegpt.config import explain
from fusegpt.data import CORPORA
from fusegpt.data.sources import parse_source
from fusegpt.errors import ConfigError
from fusegpt.pruning.definition import Recipe
from fusegpt.pruning.reach import check_reach
from fusegpt.registry import suggestion
from fusegpt.results import layout as at
from fusegpt.results.point import DENSE
from fusegpt.workflow.generated import check_generated
from fusegpt.workflow.members import (
    Member,
    available_recipes,
    check_distinct,
    check_names,
    members_of,
)
from fusegpt.workflow.plan import Plan
from fusegpt.workflow.schema import Configuration, Corpus, Evaluation
from fusegpt.workflow.teachers import check_teacher
from fusegpt.workflow.windows import all_windows, check_split, exported_windows
from fusegpt.yaml_files import check_plain

__all__ = ["check_directories", "make_plan"]


def make_plan(configuration: Mapping[str, Any], recipes: Path) -> Plan:
    """Check the merged configuration and work out what it asks for.

    Args:
        configuration: All configuration files, laid over each other.
        recipes: The folder with the recipe files.

    Raises:
        ConfigError: Something is unknown, of the wrong type, or impossible; one line.
    """
    check_plain(dict(configuration))
    try:
        checked = Configuration.model_validate(dict(configuration))
    except ValidationError as error:
        raise ConfigError(explain(error, "", Configuration)) from None
    if not checked.experiments:
        raise ConfigError("experiments: none is named; add one with --configfile config/demo.yaml")
    for name, model in checked.models.items():
        parse_source({"source": model.source, **model.fetch_settings()}, f"models.{name}")
        kind, _, base = model.source.partition(":")
        if kind == "made" and base and base not in checked.models:
            known = suggestion(base, checked.models)
            raise ConfigError(f"models.{name}.source: unknown model {base!r}{known}")
    corpora = {name: Corpus() for name in CORPORA} | checked.corpora
    for name, corpus in corpora.items():
        if corpus.generated is not None and corpus.generated.corpus is not None:
            where, start = f"corpora.{name}.generated", corpus.generated
            check_split(start.corpus or "", start.split, where, corpora)
            check_generated(name, corpora, where)
        elif corpus.generated is None and corpus.splits is None:
            if name not in CORPORA:
                known = suggestion(name, CORPORA)
                raise ConfigError(
                    f"corpora.{name}: unknown built-in corpus {name!r}{known}; one of your own has"
                    " splits or generated"
                )
    evaluations = {
        name: _evaluation(name, entry, corpora) for name, entry in checked.evaluations.items()
    }
    available = available_recipes(checked.recipes, recipes)
    resolved: dict[str, Recipe] = {}
    members: dict[str, tuple[Member, ...]] = {}
    for name, experiment in checked.experiments.items():
        check_names(name, experiment, checked, available)
        try:
            members[name] = members_of(experiment, available, resolved)
        except ConfigError as error:  # of a recipe, or of what the experiment lays over it
            raise ConfigError(f"experiments.{name}: {error}") from None
        check_distinct(name, members[name])
    windows = all_windows(resolved, corpora) | exported_windows(checked.experiments, corpora)
    plan = Plan(
        checked.models,
        corpora,
        checked.tasks,
        evaluations,
        checked.experiments,
        resolved,
        members,
        windows,
    )
    for name, experiment in checked.experiments.items():
        if experiment.until is not None:
            own = {x: evaluations[x].bound(f"evaluations.{x}") for x in experiment.evaluations}
            chains = [resolved[x.id] for x in members[name] if x.id != DENSE]
            experiment.until.check(f"experiments.{name}.until", own, chains)
        for used in experiment.models:
            for member in plan.members[name]:
                if member.id != DENSE:
                    check_teacher(plan.recipes[member.id], used, plan.models)
                last = max(plan.counts(name, used, member.id), default=0)
                if not last or member.id == DENSE:
                    continue
                recipe, blocks = plan.recipes[member.id], plan.models[used].num_blocks
                key = "sparsities" if experiment.until is None else "until"
                where = f"experiments.{name}.{key}"
                if recipe.width is None:
                    check_reach(recipe, blocks, last, where)
                    continue
                for sparsity in experiment.fractions:
                    named = f"{where}: recipe {recipe.name!r}"
                    recipe.width.check_sparsity(blocks, sparsity, named)
    return plan


def check_directories(plan: Plan, directory: Path) -> None:
    """Refuse a model whose directory is not there and was not fetched.

    Args:
        plan: Everything that is asked for.
        directory: The working directory, where results lie.

    Raises:
        ConfigError: A source ``dir:...`` leads nowhere.
    """
    for name in dict.fromkeys(x for each in plan.experiments.values() for x in each.models):
        kind, _, place = plan.models[name].source.partition(":")
        fetched = directory / at.source(model=name)
        if kind == "dir" and not ((directory / place).is_dir() or fetched.is_file()):
            raise ConfigError(
                f"models.{name}.source: must lead to a directory, got {place!r}, which is not in"
                f" {directory}"
            )


def _evaluation(name: str, entry: Evaluation, corpora: Mapping[str, Corpus]) -> Evaluation:
    """Fill in the defaults of an evaluation's settings."""
    where = f"evaluations.{name}"
    settings = entry.bound(where)
    if (read := settings.corpus_read()) is not None:
        check_split(*read, where, corpora)
        if corpora[read[0]].generated is not None:
            raise ConfigError(
                f"{where}.corpus: text that a model writes itself is for calibration and finetune,"
                f" got {read[0]!r}"
            )
    settings.check_tasks(where)
    settings.check_dtype(entry.dtype, where)
    return entry.model_copy(update={"settings": settings.model_dump()})
