"""What the rules ask; the answers, and everything that computes, are in ``fusegpt.workflow``."""

import re
import sys
from pathlib import Path

from snakemake.exceptions import IncompleteCheckpointException
from snakemake.io import IOFile
from snakemake.logging import logger
from snakemake.settings.types import SharedFSUsage

from fusegpt.artifacts import STAGE_VERSION
from fusegpt.errors import FuseGPTError
from fusegpt.results import layout
from fusegpt.results.point import DENSE
from fusegpt.workflow import targets
from fusegpt.workflow.alike import check_devices, resources_like, threads_like
from fusegpt.workflow.experiment import check_directories, make_plan
from fusegpt.workflow.exported import check_exports
from fusegpt.workflow.flags import (
    Flags,
    answers_flag,
    dense_flag,
    dense_model_flags,
    directory_of,
    finetune_flag,
    model_directory,
    selection_flags,
    with_each,
)
from fusegpt.workflow.inputs import Inputs, in_one_job
from fusegpt.workflow.library import with_library
from fusegpt.workflow.patterns import check_patterns
from fusegpt.workflow.together import together
from fusegpt.workflow.until import Chains
from fusegpt.yaml_files import read_yaml


def refuse(message):
    """End with one line; a WorkflowError would add a trace to it."""
    logger.error(message)
    sys.exit(1)


def checked_plan():
    """The configuration, or every shipped experiment when it names none, checked."""
    folder = Path(str(workflow.current_basedir)).parent / "config"
    try:
        check_devices(workflow.resource_settings.overwrite_resources)
        # Of two equal keys Snakemake takes the last without a word.
        for file in map(Path, workflow.configfiles):
            if file.is_file():
                read_yaml(file)
        merged = config if CHOSEN else with_library(config, folder / "experiments")
        plan = make_plan(merged, folder / "recipes")
        check_directories(plan, Path.cwd())
        check_exports(plan, tools=CHOSEN)
        check_patterns(plan, Path.cwd())
        return plan
    except FuseGPTError as error:
        refuse(str(error))


def asked_shards():
    """The profile's set-scatter of score; metrics that cannot share their windows are named."""
    said = workflow.resource_settings.overwrite_scatter
    if unknown := set(said) - {"score"}:
        refuse(f"set-scatter: must name score, got {sorted(unknown)[0]!r}")
    if said and workflow.is_main_process and (whole := in_one_job(PLAN)):
        names = ", ".join(whole)
        logger.info(f"set-scatter: {names}: not shared out, one job sees all windows")
    return said.get("score", 1)


def recorded_inputs(file):
    """What Snakemake noted of the inputs that a file was made from; None: nothing."""
    return workflow.persistence.input(IOFile(file))


CHOSEN = bool(config.get("experiments"))
"""Whether the configuration says which experiments; if not, a target has to: table4-small."""

PLAN = checked_plan()
TOGETHER = together(PLAN)

SHARDS = asked_shards()
"""How many jobs share the calibration windows of new scores: --set-scatter score=4."""

DECIDING = {
    (point, SET.evaluations[0]): f"evaluate_{SET.label}"
    for SET in TOGETHER
    if SET.decides
    for point in SET.points
}
"""Points and evaluations that say whether a chain goes on, to the rules that measure them."""


def pending(point, evaluation):
    """What makes Snakemake ask again when this result is there; None: it is."""
    measured = getattr(checkpoints, DECIDING[point, evaluation])
    try:
        measured.get(model=point.model, recipe=point.recipe, place=point.place.name)
    except IncompleteCheckpointException as incomplete:
        return incomplete.targetfile


def as_checkpoint(name):
    """Make a rule what the keyword ``checkpoint`` would; a condition cannot choose a keyword."""
    found = workflow.get_rule(workflow.modifier.modify_rulename(name))
    found.is_checkpoint = True
    checkpoints.register(found, fallback_name=name)


at = layout.patterns()
"""Where every file lies: ``at.manifest``."""
CHAINS = Chains(PLAN, pending, refuse)
"""Chains that an evaluation ends."""
ask = Inputs(
    PLAN,
    shared=SharedFSUsage.INPUT_OUTPUT in workflow.storage_settings.shared_fs_usage,
    shards=SHARDS,
    recorded=recorded_inputs,
    chains=CHAINS,
)
"""What files are read: ``ask.calibration_windows``."""
if not ask.shared and any(experiment.until for experiment in PLAN.experiments.values()):
    refuse("experiments: until must have results on a shared disk; give sparsities")
say = Flags(PLAN, ask.dense_scores, CHAINS)
"""What stands on command lines: ``say.recipe``."""


# The wildcards.


def one_of(names):
    """A regular expression for these names and no others."""
    return "|".join(map(re.escape, names)) or "(?!)"


def chains(contiguous):
    """Recipes that are chains of steps, or those that are not."""
    return one_of(
        name
        for name, recipe in PLAN.recipes.items()
        if not recipe.slices
        and recipe.finish is None
        and (recipe.selection == "contiguous") == contiguous
    )


def finished(wanted):
    """Recipes that have a finish, or those that have none."""
    return one_of(
        name
        for name, recipe in PLAN.recipes.items()
        if (recipe.finish is not None) == wanted
    )


SPARSITIES = {point.place.text: None for point in PLAN.evaluated if point.place.slices}
"""Every sparsity that stands in a path."""

FETCHED = [
    name for name, model in PLAN.models.items() if not model.source.startswith("made:")
]
"""Models with a source; the others are made by the workflow that imports this one."""


# The targets.


def chosen():
    """The plan of the experiments that the configuration names; there must be one."""
    if not CHOSEN:
        refuse(
            "experiments: none is named; add one with --configfile config/demo.yaml, or ask for"
            f" one of: {', '.join(PLAN.experiments)}"
        )
    return PLAN


def every_score(wildcards):
    """Scores of every step that an experiment reaches."""
    chosen()
    return [*targets.waiting(CHAINS), *targets.scores(CHAINS.known())]


def every_checkpoint(wildcards):
    """The pruned models of every experiment that keeps them."""
    chosen()
    waiting = targets.waiting(CHAINS, kept=True)
    return [*waiting, *targets.checkpoints(CHAINS.known())]


def asked_checkpoints(wildcards):
    """The same for those who ask for nothing else; there must be one."""
    asked = every_checkpoint(wildcards)
    if not asked:
        refuse("checkpoints: no experiment says keep_checkpoints: true")
    return asked


def every_export(wildcards):
    """The files for other programs of every experiment that asks for them."""
    return targets.exports(chosen())


def every_card(wildcards):
    """Their model cards, with what was measured."""
    return targets.cards(CHAINS.known())


def every_table(wildcards):
    """The tables of every experiment, in the order of the configuration."""
    return targets.tables(chosen())


def every_figure(wildcards):
    """The figures of every experiment, in the same order."""
    return targets.figures(chosen())


def target_of(experiment):
    """The experiment's name as a target, which no rule may have taken."""
    if workflow.is_rule(experiment):
        refuse(f"experiments.{experiment}: a rule has this name; choose another")
    return experiment


# What a profile says of a rule, for those that do the same under other names.


def threads_of(rule, default):
    """The threads of ``rule`` in the profile, or the default."""
    said = workflow.resource_settings.overwrite_threads
    return threads_like(said, workflow.modifier.modify_rulename(rule), default)


def resources_of(rule, **default):
    """The resources of ``rule`` in the profile, over the defaults."""
    said = workflow.resource_settings.overwrite_resources
    return resources_like(said, workflow.modifier.modify_rulename(rule), **default)
