"""What runs again after a change, counted by the starts in a ledger."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests import forked
from tests.waiting import wait_until
from tests.workflow.conftest import EVALUATION, ROOT, Project, verbs

AFTER_EVALUATION = {"card": 2, "table": 1, "figure": 1, "report": 1}


def recipe_ids(project: Project) -> set[str]:
    return {path.name for path in (project.directory / "results/runs/tiny").iterdir()}


def test_a_first_run_starts_each_job_once(project):
    started = project.started()

    assert len(set(started)) == len(started)
    assert verbs(started) == {
        **{"fetch": 1, "sample": 2, "start": 2, "score": 1, "take": 2, "fuse": 2, "merge": 2},
        **{"load": 3, "evaluate": 6, **AFTER_EVALUATION},
    }


def test_a_second_run_starts_nothing(finished):
    assert finished.started() == []


def test_another_sparsity_runs_only_the_new_step_and_its_evaluations(finished):
    finished.study["sparsities"] = [0.25, 0.5]

    started = finished.started()

    steps = [line for line in started if line.split()[0] in ("score", "fuse", "merge")]
    assert len(steps) == 6
    assert all("step-002" in line for line in steps)
    assert verbs(started)["evaluate"] == 4
    assert not {"fetch", "sample", "start"} & set(verbs(started))


def test_a_sparsity_that_names_a_known_step_runs_no_step(finished):
    finished.study["sparsities"] = [0.2]

    assert verbs(finished.started()) == {"table": 1, "figure": 1, "report": 1}


@pytest.mark.slow
def test_recipes_of_one_importance_score_the_dense_model_once(project):
    importance = {"metric": "sleb"}
    project.config["recipes"] = {
        "plain": {"importance": importance, "recovery": {"method": "none"}},
        "tuned": {"importance": importance, "recovery": {"method": "finetune"}},
        "once": {"importance": importance, "selection": "one_shot", "recovery": {"method": "none"}},
        "kept": {"importance": {**importance, "protect_last": 1}, "recovery": {"method": "none"}},
        "mlps": {"importance": importance, "granularity": "mlp", "recovery": {"method": "none"}},
    }
    project.study.update(recipes=["plain", "tuned", "once"], sparsities=[0.5])

    started = project.started("scores")

    dense = [line for line in started if line.startswith("score results/scores/")]
    assert len(dense) == 1
    assert (verbs(started)["take"], verbs(started)["score"]) == (3, 1 + 3)
    project.study["recipes"] += ["kept", "mlps"]
    started = project.started("scores")
    assert (verbs(started)["take"], verbs(started)["score"]) == (2, 2 + 2)
    assert not any("/once-" in line or "/plain-" in line for line in started)


def test_seeds_share_scores_that_nothing_is_drawn_for(project):
    calibration = project.study["settings"]["calibration"]
    project.study.update(recipes=["macro_influence", "random"], seeds=[0, 1])

    planned = project.snakemake("scores", "-n").stdout

    assert len(re.findall("^rule score_dense:", planned, re.M)) == 4
    calibration["seed"] = 7
    planned = project.snakemake("scores", "-n").stdout
    assert len(re.findall("^rule score_dense:", planned, re.M)) == 1 + 2


@pytest.mark.slow
def test_another_seed_leaves_the_first_alone(finished):
    before = recipe_ids(finished)
    finished.study["seeds"] = [0, 1]

    started = finished.started()

    assert verbs(started)["fuse"] == 2
    assert not any(name in line for name in before for line in started)


def test_an_evaluations_setting_reruns_this_evaluation_alone(finished):
    finished.config["evaluations"]["short"]["windows"] = 3

    started = finished.started()

    assert verbs(started) == {"load": 3, "evaluate": 3, **AFTER_EVALUATION}
    assert all(line.endswith("short.json") for line in started if line.startswith("evaluate"))


@pytest.mark.slow
def test_another_evaluation_measures_this_one_alone(finished):
    finished.config["evaluations"]["long"] = {**EVALUATION, "length": 64}
    finished.study["evaluations"].append("long")

    planned = finished.snakemake("-n").stdout
    started = finished.started()

    assert "Missing output files: results/evaluations/tiny/dense/step-000/long.json" in planned
    assert verbs(started) == {"load": 3, "evaluate": 3, **AFTER_EVALUATION}
    assert all(line.endswith("long.json") for line in started if line.startswith("evaluate"))


@pytest.mark.slow
def test_one_evaluation_less_measures_nothing(finished):
    finished.study["evaluations"].remove("short")

    started = finished.started()

    assert verbs(started) == AFTER_EVALUATION
    finished.study["evaluations"].append("short")
    assert verbs(finished.started()) == AFTER_EVALUATION


@pytest.mark.slow
def test_a_deleted_result_is_read_back_and_a_dry_run_names_the_change(finished):
    (finished.directory / "results/evaluations/tiny/dense/step-000/docs.json").unlink()
    finished.config["evaluations"]["short"]["windows"] = 3

    planned = finished.snakemake("-n").stdout

    assert "Missing output files: results/evaluations/tiny/dense/step-000/docs.json" in planned
    assert re.search(r"before: 'short=.*\"windows\": 2.* now: 'short=.*\"windows\": 3", planned)
    started = finished.started()
    assert all(line.endswith("short.json") for line in started if line.startswith("evaluate"))


@pytest.mark.slow
def test_a_forced_set_measures_nothing_twice(finished):
    started = finished.started("--forcerun", "evaluate_docs_short")

    assert verbs(started) == AFTER_EVALUATION


@pytest.mark.slow
def test_evaluations_share_a_process_only_where_that_changes_nothing(project):
    project.config["evaluations"] |= {
        "speed": {"eval": "speed"},
        "exact": {**EVALUATION, "dtype": "float32"},
    }
    names = ["docs", "short", "speed", "exact"]
    project.study.update(recipes=["dense"], evaluations=names, keep_checkpoints=False)
    project.config["experiments"]["other"] = {
        **project.study,
        "recipes": ["macro_influence"],
        "evaluations": ["docs"],
    }

    started = project.started()

    assert verbs(started)["evaluate"] == 5
    assert sorted(line for line in started if line.startswith("load")) == [
        *["load results/evaluations/tiny/dense/step-000"] * 3,
        f"load results/evaluations/tiny/{recipe_ids(project).pop()}/step-001",
    ]


@pytest.mark.slow
def test_a_recipes_setting_computes_beside_the_old_result(finished):
    before = recipe_ids(finished)
    finished.study["settings"]["recovery"] = {"epochs": 3}

    started = finished.started()

    assert verbs(started)["fuse"] == 1
    assert len(recipe_ids(finished) - before) == 1
    assert before < recipe_ids(finished)
    del finished.study["settings"]["recovery"]
    assert not {"score", "fuse", "evaluate"} & set(verbs(finished.started()))


@pytest.mark.slow
def test_a_raised_stage_version_reruns_the_stage_and_what_follows(finished):
    finished.environment["STUB_RAISE"] = "fuse"

    started = finished.started()

    work = {"fuse": 2, "merge": 2, "load": 2, "evaluate": 4}
    assert verbs(started) == {**work, **AFTER_EVALUATION}
    assert finished.started() == []


@pytest.mark.slow
def test_a_raised_version_of_merging_leaves_the_results(finished):
    finished.environment["STUB_RAISE"] = "merge"

    assert verbs(finished.started()) == {"merge": 2, "card": 2}


@pytest.mark.slow
def test_a_raised_version_of_scoring_reruns_scoring_and_what_follows(finished):
    finished.environment["STUB_RAISE"] = "score"

    started = finished.started()

    assert (verbs(started)["score"], verbs(started)["fuse"]) == (1, 2)
    assert not {"fetch", "sample", "start"} & set(verbs(started))


@pytest.mark.slow
def test_checkpoints_are_written_only_where_an_experiment_keeps_them(project):
    project.study["keep_checkpoints"] = False
    assert not {"merge", "card"} & set(verbs(project.started()))
    project.study["keep_checkpoints"] = True

    assert verbs(project.started()) == {"merge": 2, "card": 2}
    project.study["keep_checkpoints"] = False
    assert project.started() == []


def test_an_edit_of_the_package_reruns_nothing(finished, tmp_path):
    """The code that ran is not what a result follows from; its stage's version is."""
    clone = tmp_path / "clone"
    for part in ("fusegpt", "rules", "config"):
        shutil.copytree(ROOT / part, clone / part)
    shutil.copy(ROOT / "Snakefile", clone)
    for name in ("pruning/step.py", "cli/evaluate.py", "artifacts.py"):
        with open(clone / "fusegpt" / name, "a", encoding="utf-8") as file:
            file.write("# edited\n")
    finished.root = clone

    assert finished.started() == []


@pytest.mark.slow
def test_two_experiments_share_what_they_have_in_common(finished):
    finished.config["experiments"]["other"] = {**finished.study, "recipes": ["dense", "fusegpt"]}

    assert verbs(finished.started()) == {"table": 1, "figure": 1, "report": 1}


def kill_where_it_hangs(project: Project, name: str) -> list[str]:
    """Kill scheduler and jobs where the stand-in hangs on both cores; what was started by then."""
    project.environment["STUB_HANG"] = name
    log = project.directory / "killed.log"
    running = forked.start(project.command(), project.directory, project.environment, log, log)
    try:
        wait_until(lambda: len(list(project.directory.glob("hanging-*"))) == 2)
    finally:
        running.end()
    del project.environment["STUB_HANG"]
    assert project.snakemake("--unlock").returncode == 0
    return project.lines()


@pytest.mark.slow
def test_a_run_killed_in_mid_step_resumes_and_trusts_no_half_step(project):
    killed = kill_where_it_hangs(project, "step-001")
    interrupted = [line for line in killed if line.startswith("fuse")]
    assert interrupted

    started = project.started()

    assert set(interrupted) <= set(started)
    assert not [x for x in killed if x.split()[0] in ("fetch", "sample", "start") and x in started]
    for manifest in project.directory.glob("results/runs/tiny/*/step-001/manifest.json"):
        json.loads(manifest.read_text())
    assert project.started() == []


@pytest.mark.slow
def test_evaluations_killed_in_the_middle_lose_the_one_that_was_measured(project):
    killed = kill_where_it_hangs(project, "short")
    assert any(x.startswith("evaluate") for x in killed)

    started = project.started()

    assert not set(x for x in killed if x.startswith("evaluate")) & set(started)
    everything = [line for line in [*killed, *started] if line.startswith("evaluate")]
    assert len(everything) == len(set(everything)) == 6
    assert project.started() == []
