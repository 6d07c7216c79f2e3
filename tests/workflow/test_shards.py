"""Scoring shared out to several jobs: planned, added up, and no reason to score anything again."""

from __future__ import annotations

import pytest


def test_jobs_share_the_windows_and_their_number_is_no_reason_to_rerun(project):
    calibration = project.study["settings"]["calibration"]
    calibration.update(sequences=5, batch_size=2)  # three batches
    project.study.update(recipes=["macro_influence"], sparsities=[0.25])
    assert len([line for line in project.started("scores") if line.startswith("score ")]) == 1
    project.study["sparsities"] = [0.5]

    started = project.started("scores", "--set-scatter", "score=9")

    scored = [line.split()[1] for line in started if line.startswith("score ")]
    assert sorted(file.rpartition("/")[2] for file in scored) == [
        *("1-of-3.json", "2-of-3.json", "3-of-3.json", "scores.json")
    ]
    assert all("step-002/" in file for file in scored)
    assert not [*project.directory.glob("results/parts/**/*.json")]
    for more in ([], ["--set-scatter", "score=2"]):
        assert project.started("scores", *more) == []


@pytest.mark.slow
def test_a_metric_that_must_see_all_windows_scores_in_one_job(project):
    project.study["settings"]["calibration"].update(sequences=5, batch_size=2)
    project.study["recipes"] = ["macro_influence", "random", "taylor"]

    said = project.snakemake("scores", "-n", "--set-scatter", "score=2").stdout

    assert "set-scatter: taylor: not shared out, one job sees all windows\n" in said
    assert said.count("rule score_dense_part:") == 2
    assert said.count("rule score_dense:") == 3


def test_a_process_that_is_unknown_is_refused(project):
    done = project.snakemake("-n", "--set-scatter", "scores=2")

    assert done.returncode == 1
    said = (done.stderr + done.stdout).strip().splitlines()
    assert said[-1] == "set-scatter: must name score, got 'scores'"
