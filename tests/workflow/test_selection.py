"""Which steps a selection asks for, and what they are given."""

from __future__ import annotations

import re


def recipes(project, sparsities, **named):
    project.config["recipes"] = {
        name: {"recovery": {"method": "none"}, **settings} for name, settings in named.items()
    }
    project.study.update(recipes=list(named), sparsities=sparsities)


def steps(started, *verbs):
    """``recipe step`` of each start of a verb that makes something in a step's folder."""
    lines = [
        line.split("results/runs/tiny/")[1]
        for line in started
        if line.startswith(verbs) and "results/runs" in line
    ]
    return sorted(f"{part[0].split('-')[0]} {part[1]}" for part in (x.split("/") for x in lines))


def lines(done, verb):
    """The shell lines of a dry run that call a verb; global options may stand before it."""
    return [
        line for line in done.stdout.splitlines() if re.search(rf"\bfusegpt\b.* {verb} --", line)
    ]


def test_a_contiguous_cut_runs_its_own_step_alone(project):
    cut = {"importance": {"metric": "angular_distance"}, "selection": "contiguous"}
    recipes(project, [0.5], cut=cut, chain={"importance": {"metric": "sleb"}})

    started = project.started()

    expected = ["chain step-001", "chain step-002", "cut step-002"]
    assert steps(started, "score", "take") == steps(started, "fuse") == expected
    assert len([line for line in started if line.startswith("evaluate")]) == 4


def test_a_contiguous_cut_of_another_size_starts_from_the_dense_model(project):
    cut = {"importance": {"metric": "angular_distance"}, "selection": "contiguous"}
    recipes(project, [0.25, 0.75], cut=cut)

    scores = lines(project.snakemake("scores", "-n", "-p"), "score")

    assert len(scores) == 4
    taken = [line for line in scores if "--dense-scores" in line]
    assert all("step-000/manifest.json" in line for line in taken)
    dense = [line for line in scores if line not in taken]
    assert sorted(line.partition("--count ")[2].split()[0] for line in dense) == ["1", "3"]


def test_later_one_shot_steps_depend_on_the_first_scores(project):
    once = {"importance": {"metric": "block_influence"}, "selection": "one_shot"}
    recipes(project, [0.5], once=once)

    scores = lines(project.snakemake("scores", "-n", "-p"), "score")

    assert len(scores) == 3
    later = next(line for line in scores if "step-002/scores.json" in line)
    assert "step-001/scores.json" in later.partition("--first-scores ")[2].split()[0]
    assert [("--first-scores" in line) for line in scores] == [line is later for line in scores]


def test_rows_of_a_corpus_are_asked_for_in_place_of_windows(project):
    sleb = {"importance": {"metric": "sleb"}}
    recipes(project, [0.25], rows={**sleb, "calibration": {"rows": 7}}, windows=sleb)

    samples = lines(project.snakemake("-n", "-p"), "sample")

    assert len(samples) == 2
    assert sorted("--rows 7" in line for line in samples) == [False, True]
    assert all(("--rows" in line) != ("--sequences" in line) for line in samples)


def test_a_metric_without_runs_is_refused_while_the_graph_is_built(project):
    recipes(project, [0.25], cut={"importance": {"metric": "sleb"}, "selection": "contiguous"})

    done = project.snakemake("-n")

    assert done.returncode == 1
    assert "recipes.cut.selection: sleb scores no runs of blocks" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
