"""What the rules are answered: files, flags and targets follow from the configuration alone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from fusegpt.results import layout as at
from fusegpt.results.point import Place, Point
from fusegpt.workflow import targets
from fusegpt.workflow.alike import resources_like, threads_like
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.flags import Flags, with_each
from fusegpt.workflow.inputs import Inputs, point_of
from tests.workflow.conftest import ROOT, configuration, wild


def study(**changes):
    config = configuration()
    config["recipes"] = {
        "cut": {
            "importance": {"metric": "block_influence"},
            "selection": "contiguous",
            "recovery": {"method": "none"},
        },
        "ended": {
            "importance": {"metric": "sleb"},
            "recovery": {"method": "lora", "batch_size": 8},
        },
    }
    recipes = ["dense", "fusegpt", "cut", "ended", "slicegpt"]
    config["experiments"]["study"] |= {"recipes": recipes, "sparsities": [0.25, 0.5], **changes}
    return make_plan(config, ROOT / "config" / "recipes")


@pytest.fixture
def plan():
    return study()


def test_wildcards_name_a_point(plan):
    step, sliced = Place.step(2), Place.sparsity("0.5")

    assert point_of(wild(plan, "fusegpt", k="002")).place == step
    assert point_of(wild(plan, "fusegpt", place="step-002")).place == step
    assert point_of(wild(plan, "slicegpt", sparsity="0.5")).place == sliced
    assert point_of(wild(plan, "slicegpt", place="sparsity-0.5")).place == sliced


def test_a_chain_follows_its_last_step_and_a_contiguous_cut_the_dense_model(plan):
    ask = Inputs(plan)

    for name, before in (("fusegpt", 1), ("cut", 0)):
        wildcards = wild(plan, name, k="002")
        expected = at.manifest(model="tiny", recipe=wildcards.recipe, k=before)
        assert ask.previous_manifest(wildcards) == expected


def test_a_chain_is_declared_only_where_jobs_do_not_see_each_others_files(plan):
    wildcards = wild(plan, "fusegpt", k="002")
    run = {"model": "tiny", "recipe": wildcards.recipe}
    apart = Inputs(plan, shared=False)

    assert Inputs(plan).chain_to(wildcards) == Inputs(plan).chain_before(wildcards) == []
    begin = [at.source(**run), at.manifest(**run, k=0)]
    one, two = ([at.manifest(**run, k=k), at.delta(**run, k=k)] for k in (1, 2))
    assert set(apart.chain_before(wildcards)) == {*begin, *one}
    assert set(apart.chain_to(wildcards)) == {*begin, *one, *two}
    cut = wild(plan, "cut", k="002")
    assert at.manifest(model="tiny", recipe=cut.recipe, k=1) not in apart.chain_to(cut)


@pytest.mark.parametrize(
    ("name", "place", "pattern"),
    [
        ("fusegpt", "step-002", at.manifest),
        ("ended", "step-002", at.checkpoint),  # its recovery works on merging
        ("slicegpt", "sparsity-0.5", at.sliced),
    ],
)
def test_what_is_measured_is_a_step_or_what_recovers_on_merging_or_a_slice(
    plan, name, place, pattern
):
    wildcards = wild(plan, name, place=place)

    assert Inputs(plan).evaluated_model(wildcards) == pattern(point_of(wildcards))


def test_the_dense_model_is_measured_where_it_was_fetched(plan):
    wildcards = SimpleNamespace(model="tiny", recipe="dense", place="step-000")

    assert Inputs(plan).evaluated_model(wildcards) == at.source(model="tiny")


def test_only_a_recovery_that_trains_at_a_step_reads_windows_there(plan):
    ask = Inputs(plan)

    assert ask.finetune_windows(wild(plan, "fusegpt")) and not ask.finish_windows(
        wild(plan, "fusegpt")
    )
    assert ask.finish_windows(wild(plan, "ended")) and not ask.finetune_windows(wild(plan, "ended"))
    assert not ask.finetune_windows(wild(plan, "cut"))


def test_a_table_and_a_card_read_depth_and_width_alike(plan):
    ask = Inputs(plan)
    files = ask.evaluations_of_experiment(SimpleNamespace(experiment="study"))

    assert len(files) == len(set(files)) == 2 * len(plan.points["study"]) == 2 * 9
    sliced = wild(plan, "slicegpt", place="sparsity-0.5")
    assert set(ask.evaluations_of_model(sliced)) <= set(files)
    dense = [
        at.evaluation(Point.dense(sliced.model), evaluation=name) for name in ("docs", "short")
    ]
    assert ask.dense_evaluations(sliced) == dense
    assert ask.published_model(sliced) == at.sliced(point_of(sliced))


def test_targets_are_every_kept_model_and_every_step_on_the_way(plan):
    kept = [point for point in plan.points["study"] if not point.is_dense]

    assert targets.checkpoints(plan) == [at.published(point) for point in kept]
    assert targets.cards(plan) == [at.card(point) for point in kept]
    steps = {run[1].split("-")[0]: numbers for run, numbers in targets.steps_of_runs(plan).items()}
    assert steps == {"fusegpt": [1, 2], "cut": [1, 2], "ended": [1, 2]}
    only = study(sparsities=[0.5])
    steps = {run[1].split("-")[0]: numbers for run, numbers in targets.steps_of_runs(only).items()}
    assert steps == {"fusegpt": [1, 2], "cut": [2], "ended": [1, 2]}
    assert targets.checkpoints(study(keep_checkpoints=False)) == []
    assert len(targets.scores(plan)) == 6


def test_flags_are_the_settings_of_a_verb(plan):
    say = Flags(plan, Inputs(plan).dense_scores)

    for name in ("fusegpt", "slicegpt"):
        wildcards = wild(plan, name)
        assert json.loads(say.recipe(wildcards)) == plan.recipes[wildcards.recipe].to_json()
    assert say.num_blocks(SimpleNamespace(model="tiny")) == 4
    assert with_each("--table", "tables")(None, SimpleNamespace(tables=["a", "b"])) == [
        *("--table", "a"),
        *("--table", "b"),
    ]
    contents = json.loads(say.contents(SimpleNamespace(experiment="study")))
    assert [recipe.get("width", False) for recipe in contents["recipes"]] == [False] * 4 + [True]


def test_a_rule_takes_what_a_profile_says_of_an_older_one():
    said = {"evaluate": {"device": "cuda", "mem_mb": 96000}}

    assert resources_like(said, "evaluate", gpu=1, device="cpu") == {
        "gpu": 1,
        "device": "cuda",
        "mem_mb": 96000,
    }
    assert resources_like({}, "evaluate", gpu=1) == {"gpu": 1}
    assert threads_like({"score": 8}, "score", 2) == 8 and threads_like({}, "score", 2) == 2


def test_a_dense_point_needs_no_recipe(plan):
    assert Point.dense("tiny") in plan.evaluated and "dense" not in plan.recipes


def test_a_task_file_of_ones_own_is_read_with_its_data_or_those_of_its_entry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = {"train": "train.jsonl", "test": "test.jsonl"}
    (tmp_path / "mine.yaml").write_text(json.dumps({"template": "{text}:", "splits": splits}))
    config = configuration()
    config["evaluations"]["docs"] = {"eval": "classification", "tasks": ["./mine.yaml"]}
    ask = Inputs(make_plan(config, ROOT / "config" / "recipes"))
    wildcards = SimpleNamespace(evaluation="docs")
    assert ask.data_of_evaluation(wildcards) == ["./mine.yaml", "train.jsonl", "test.jsonl"]

    others = {"train": "others.jsonl", "test": "new.jsonl"}
    config["tasks"] = {"mine": {"splits": others}}
    plan = make_plan(config, ROOT / "config" / "recipes")
    assert plan.tasks_of("docs") == {"mine": {"splits": others}}
    found = Inputs(plan).data_of_evaluation(wildcards)
    assert sorted(found) == ["./mine.yaml", "new.jsonl", "others.jsonl"]
