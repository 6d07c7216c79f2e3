"""What the rules ask: which files, which settings. The graph comes from the configuration alone."""

import functools
import json
import re
import sys
from pathlib import Path

from snakemake.logging import logger
from snakemake.settings.types import SharedFSUsage

from fusegpt.artifacts import STAGE_VERSION
from fusegpt.errors import FuseGPTError
from fusegpt.workflow import paths, slices
from fusegpt.workflow.dense_scores import all_dense_scores, dense_scores
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.library import with_library
from fusegpt.workflow.members import DENSE
from fusegpt.workflow.together import settings_of, together


def checked_plan():
    """Refuse a wrong configuration in one line; a WorkflowError would add a trace to it."""
    folder = Path(str(workflow.current_basedir)).parent / "config"
    try:
        merged = config if CHOSEN else with_library(config, folder / "experiments")
        return make_plan(merged, folder / "recipes")
    except FuseGPTError as error:
        logger.error(str(error))
        sys.exit(1)


CHOSEN = bool(config.get("experiments"))
"""Whether the configuration says which experiments; if not, a target has to: table4-small."""

PLAN = checked_plan()
SLICED = slices.sliced(PLAN)
TOGETHER = together(PLAN)
DENSE_SCORES = all_dense_scores(PLAN)


def one_of(names):
    """A regular expression for these names and no others."""
    return "|".join(map(re.escape, names)) or "(?!)"


# The targets.


def chosen():
    """The experiments that the configuration names; there must be one."""
    if not CHOSEN:
        logger.error(
            "experiments: none is named; add one with --configfile config/demo.yaml, or ask for"
            f" one of: {', '.join(PLAN.experiments)}"
        )
        sys.exit(1)
    return PLAN.experiments


def every_score(wildcards):
    """Scores of every step that an experiment reaches."""
    return [
        paths.scores(model, recipe, k)
        for model, recipe, last in furthest_points()
        for k in range(1, last + 1)
        if PLAN.recipes[recipe].selection != "contiguous"
        or (model, recipe, k) in PLAN.evaluated
    ]


def target_of(experiment):
    """The experiment's name as a target, which no rule may have taken."""
    if workflow.is_rule(experiment):
        logger.error(f"experiments.{experiment}: a rule has this name; choose another")
        sys.exit(1)
    return experiment


def furthest_points():
    """Each run with the last step that any experiment reaches."""
    chosen()
    runs = {}
    for model, recipe, step in PLAN.evaluated:
        runs[model, recipe] = max(step, runs.get((model, recipe), 0))
    return [(model, recipe, step) for (model, recipe), step in runs.items()]


def every_checkpoint(wildcards):
    """The pruned models of every experiment that keeps them."""
    chosen()
    sliced = [paths.sliced(*point) for point in slices.kept_slices(PLAN)]
    return [paths.checkpoint(*point) for point in PLAN.kept] + sliced


def asked_checkpoints(wildcards):
    """The same for those who ask for nothing else; there must be one."""
    asked = every_checkpoint(wildcards)
    if not asked:
        logger.error("checkpoints: no experiment says keep_checkpoints: true")
        sys.exit(1)
    return asked


def every_card(wildcards):
    """Their model cards, with what was measured."""
    sliced = [paths.slice_card(*point) for point in slices.kept_slices(PLAN)]
    return [paths.card(*point) for point in PLAN.kept] + sliced


def every_table(wildcards):
    """The tables of every experiment, in the order of the configuration."""
    return [paths.table(experiment) for experiment in chosen()]


def every_figure(wildcards):
    """The figures of every experiment, in the same order."""
    return [paths.figure(experiment) for experiment in chosen()]


def evaluations_of_experiment(wildcards):
    """Every result file that a table reads."""
    return [
        paths.evaluation(model, recipe, step, evaluation)
        for model, recipe, step in PLAN.points[wildcards.experiment]
        for evaluation in PLAN.experiments[wildcards.experiment].evaluations
    ] + [
        paths.slice_evaluation(*point, evaluation)
        for point in slices.slice_points(PLAN, wildcards.experiment)
        for evaluation in PLAN.experiments[wildcards.experiment].evaluations
    ]


def evaluations_of_checkpoint(wildcards):
    """Every result that any experiment asks for on this checkpoint."""
    point = (wildcards.model, wildcards.recipe, int(wildcards.k))
    return [
        paths.evaluation(*point, evaluation) for evaluation in PLAN.evaluated[point]
    ]


def evaluations_of_slice(wildcards):
    """The same of a sliced model."""
    point = (wildcards.model, wildcards.recipe, wildcards.sparsity)
    return [paths.slice_evaluation(*point, evaluation) for evaluation in SLICED[point]]


# The inputs of a step.


def previous_manifest(wildcards):
    """The step before; never asked for step 000, which the rules' constraints leave out."""
    contiguous = PLAN.recipes[wildcards.recipe].selection == "contiguous"
    previous = 0 if contiguous else int(wildcards.k) - 1
    return paths.manifest(wildcards.model, wildcards.recipe, previous)


def chain_files(wildcards):
    """What lies between the dense model and step k, where a job gets only its declared inputs."""
    return chain_to(wildcards, int(wildcards.k) - 1)


def chain_of_checkpoint(wildcards):
    """The same, with what step k itself changed."""
    return chain_to(wildcards, int(wildcards.k))


def chain_to(wildcards, last):
    """Manifests and deltas up to a step; nothing on a shared file system, where they just lie."""
    if SharedFSUsage.INPUT_OUTPUT in workflow.storage_settings.shared_fs_usage:
        return []
    run = (wildcards.model, wildcards.recipe)
    contiguous = PLAN.recipes[wildcards.recipe].selection == "contiguous"
    first = int(wildcards.k) if contiguous else 1
    manifests = [paths.manifest(*run, k) for k in range(first, last + 1)]
    deltas = [str(Path(file).with_name("delta.safetensors")) for file in manifests]
    return [paths.model(run[0]), paths.manifest(*run, 0), *manifests, *deltas]


def first_scores(wildcards):
    """What a one-shot selection keeps at later steps."""
    if PLAN.recipes[wildcards.recipe].selection != "one_shot":
        return []
    return [paths.scores(wildcards.model, wildcards.recipe, 1)]


def selection_flags(wildcards, input):
    """``--first-scores FILE``, or nothing."""
    return ["--first-scores", *input.first] if input.first else []


def chains(contiguous):
    """Recipes that are chains of steps, or those that are not."""
    return one_of(
        [
            name
            for name, recipe in PLAN.recipes.items()
            if not recipe.slices and (recipe.selection == "contiguous") == contiguous
        ]
    )


def shared_scores(wildcards):
    """The dense model's scores, which a step that starts from it takes."""
    found = dense_scores_of(wildcards.recipe, int(wildcards.k))
    return paths.dense_scores(wildcards.model, found)


@functools.cache
def dense_scores_of(recipe, step):
    """Worked out once for all models."""
    return dense_scores(PLAN, recipe, step).id


def dense_windows(wildcards):
    """What the dense model is scored on."""
    return paths.windows(wildcards.model, DENSE_SCORES[wildcards.scores][0].windows)


def dense_settings(wildcards):
    """How it is scored: a recipe with every default filled in."""
    return json.dumps(DENSE_SCORES[wildcards.scores][0].recipe.to_json())


def dense_count(wildcards):
    """Blocks that a contiguous selection takes at once."""
    return DENSE_SCORES[wildcards.scores][0].count


def calibration_windows(wildcards):
    """What importance is measured on."""
    windows = PLAN.windows_of(wildcards.recipe, "calibration")
    return paths.windows(wildcards.model, windows.id)


def finetune_windows(wildcards):
    """What a step tunes on; nothing for a recovery that does not train, or not yet."""
    recipe = PLAN.recipes[wildcards.recipe]
    return (
        recovery_windows(wildcards)
        if recipe.needs_windows and not recipe.recovers_at_end
        else []
    )


def finish_windows(wildcards):
    """What a recovery after the last removal tunes on."""
    recipe = PLAN.recipes[wildcards.recipe]
    return recovery_windows(wildcards) if recipe.recovers_at_end else []


def recovery_windows(wildcards):
    """The recipe's fine-tuning windows, as a list of one file."""
    windows = PLAN.windows_of(wildcards.recipe, "finetune")
    return [paths.windows(wildcards.model, windows.id)]


def finetune_flag(wildcards, input):
    """``--finetune FILE``, or nothing."""
    return ["--finetune", *input.finetune] if input.finetune else []


def evaluated_model(wildcards):
    """What is measured: the dense model, a step, or a sliced model; none has to be merged.

    A recovery after the last removal works on merging, so there the checkpoint is measured.
    """
    model, recipe, place = wildcards.model, wildcards.recipe, wildcards.place
    if recipe == DENSE:
        return paths.model(model)
    kind, _, number = place.partition("-")
    if kind == "sparsity":
        return paths.sliced(model, recipe, number)
    at_end = PLAN.recipes[recipe].recovers_at_end
    return (paths.checkpoint if at_end else paths.manifest)(model, recipe, int(number))


# The settings of a verb, as JSON on its command line.


def model_source(wildcards):
    """Where a model comes from."""
    return PLAN.models[wildcards.model].source


def model_settings(wildcards):
    """The rest of a model's entry."""
    return json.dumps(PLAN.models[wildcards.model].fetch_settings())


def trust_flag(wildcards):
    """``--trust-remote-code`` for a model whose entry says so; nothing otherwise."""
    trusted = PLAN.models[wildcards.model].trust_remote_code
    return ["--trust-remote-code"] if trusted else []


FETCHED = [
    name for name, model in PLAN.models.items() if not model.source.startswith("made:")
]
"""Models with a source; the others are made by a rule of the workflow that imports this one."""


def num_blocks(wildcards):
    """How many blocks the configuration says a model has."""
    return PLAN.models[wildcards.model].num_blocks


def recipe_settings(wildcards):
    """A recipe with every default filled in."""
    return json.dumps(PLAN.recipes[wildcards.recipe].to_json())


def slice_settings(wildcards):
    """Likewise, of a recipe that slices widths."""
    return json.dumps(PLAN.recipes[wildcards.recipe].to_json())


def windows_flags(wildcards):
    """Which windows to sample."""
    windows = PLAN.windows[wildcards.windows]
    flags = {
        "--corpus": windows.corpus,
        "--split": windows.split,
        "--length": windows.length,
        "--seed": windows.seed,
        "--corpora": json.dumps(windows.corpora),
    }
    if windows.rows is None:
        flags["--sequences"] = windows.sequences
    else:
        flags["--rows"] = windows.rows
    return [str(part) for pair in flags.items() for part in pair]


def corpus_files(wildcards):
    """The local file that windows are cut from, if the corpus is one."""
    return files_of(PLAN.windows[wildcards.windows].corpora)


def evaluation_files(evaluations):
    """The local files that a set reads: corpora, or the items of tasks."""
    found = {}
    for name in evaluations.evaluations:
        tasks = PLAN.tasks_of(name)
        local = {task: entry for task, entry in tasks.items() if "package" not in entry}
        found |= dict.fromkeys(files_of(PLAN.corpora_of(name)) + files_of(local))
    return list(found)


def dense_model_beside(evaluations):
    """The dense model, for an evaluation that measures it beside the pruned one."""
    beside = any(map(PLAN.compares_with_dense, evaluations.evaluations))
    return dense_model if beside else []


def dense_model(wildcards):
    """Its last file; nothing when the dense model itself is measured."""
    return [] if wildcards.recipe == DENSE else [paths.model(wildcards.model)]


def files_of(corpora):
    """The files in entries of ``corpora`` or ``tasks``."""
    return [
        file for entry in corpora.values() for file in entry.get("splits", {}).values()
    ]


def evaluation_settings(evaluations):
    """A parameter for each evaluation, so that Snakemake says which one changed."""
    return [
        functools.partial(as_it_is, f"{name}={json.dumps(settings_of(PLAN, name))}")
        for name in evaluations.evaluations
    ]


def as_it_is(value, wildcards):
    """Snakemake looks for wildcards in a text, but not in what a function returns."""
    return value


def evaluation_flags(wildcards, output):
    """``--evaluation NAME=SETTINGS --output FILE`` for each result."""
    flags = []
    for file in output:
        name = Path(file).stem
        settings = json.dumps(settings_of(PLAN, name))
        flags += ["--evaluation", f"{name}={settings}", "--output", file]
    return flags


def like(rule, name):
    """A rule's name; what a profile says of the older ``rule`` holds for it, too."""
    known, new = map(workflow.modifier.modify_rulename, (rule, name))
    settings = workflow.resource_settings
    for said in (
        settings._parsed_overwrite_threads,
        settings._parsed_overwrite_resources,
    ):
        if known in said:
            said.setdefault(new, said[known])
    return name


def dense_flag(wildcards, input):
    """``--dense DIRECTORY``, or nothing."""
    return ["--dense", str(Path(input.dense[0]).parent)] if input.dense else []


def experiment_description(wildcards):
    """Models, recipes, sparsities and evaluations of an experiment."""
    return json.dumps(PLAN.describe(wildcards.experiment))


def table_flags(wildcards, input):
    """``--table FILE`` for each table."""
    return [part for file in input.tables for part in ("--table", file)]


def evaluation_files_flags(wildcards, input):
    """``--evaluation FILE`` for each result."""
    return [part for file in input.evaluations for part in ("--evaluation", file)]


def figure_flags(wildcards, input):
    """``--figure FILE`` for each figure."""
    return [part for file in input.figures for part in ("--figure", file)]


def directory_of(wildcards, output):
    """The directory of a rule's first output."""
    return str(Path(output[0]).parent)


def model_directory(wildcards, input):
    """The directory of a model whose last file is the input."""
    return str(Path(input.model).parent)
