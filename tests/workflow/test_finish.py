"""Recipes with a finish: they share the steps of a chain, and only what is asked is trained."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import load_recipe, read_recipe, recipe_of_blocks, resolve
from fusegpt.results import layout as at
from fusegpt.results.point import Place, Point
from fusegpt.work import Shape
from fusegpt.workflow import targets
from fusegpt.workflow.cost import Cost
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.flags import Flags
from fusegpt.workflow.garbage import _named
from fusegpt.workflow.inputs import Inputs
from fusegpt.workflow.outlook import _reached
from tests.workflow.conftest import ROOT, configuration, wild

BASE = {"importance": {"metric": "sleb"}, "recovery": {"method": "none"}}


def study(**changes):
    config = configuration()
    config["models"]["other"] = {"source": "dir:models/other", "num_blocks": 8}
    config["recipes"] = {
        "plain": BASE,
        "healed": {"chain": "plain", "finish": {"method": "distill", "top_k": 8}},
        "again": {"chain": "plain", "finish": {"method": "distill", "top_k": 8, "epochs": 1}},
        "taught": {"chain": "plain", "finish": {"method": "distill", "teacher": "other"}},
        "alone": {**BASE, "finish": {"method": "full", "windows": {"sequences": 16}}},
    }
    recipes = ["dense", "plain", "healed", "again", "taught", "alone"]
    config["experiments"]["study"] |= {"recipes": recipes, "sparsities": [0.5], **changes}
    return make_plan(config, ROOT / "config" / "recipes")


@pytest.fixture(scope="module")
def plan():
    return study()


def test_finishes_share_the_steps_of_the_recipe_that_they_name(plan):
    ask, plain = Inputs(plan), wild(plan, "plain").recipe
    for name in ("healed", "taught"):
        wildcards = wild(plan, name, k="002")
        assert wildcards.recipe.rpartition("-")[2] != plain.rpartition("-")[2]
        assert ask.finished_step(wildcards) == at.manifest(model="tiny", recipe=plain, k=2)
    own = ask.finished_step(wild(plan, "alone", k="002"))
    assert own == at.manifest(
        model="tiny", recipe=plan.recipes[wild(plan, "alone").recipe].steps.id, k=2
    )
    steps = {run[1].split("-")[0]: numbers for run, numbers in targets.steps_of_runs(plan).items()}
    assert steps == {"plain": [1, 2], "alone": [1, 2]}


def test_a_finished_model_is_measured_carded_and_kept_as_a_checkpoint(plan):
    ask, wildcards = Inputs(plan), wild(plan, "healed", place="step-002")
    point = Point("tiny", wildcards.recipe, Place.step(2))
    assert ask.evaluated_model(wildcards) == at.checkpoint(point) == ask.published_model(wildcards)
    assert at.checkpoint(point) in targets.checkpoints(plan)
    kept = _named(plan)
    assert at.step_directory(plan.steps_to(point)) in kept
    assert at.answers_directory(model="tiny", answers=plan.answers_of(point.recipe).id) in kept


def test_a_teacher_that_no_experiment_prunes_stays_with_what_it_is_made_from():
    assert at.model_directory(model="other") in _named(study(recipes=["taught"]))
    assert at.model_directory(model="other") not in _named(study(recipes=["healed"]))


def test_answers_are_shared_and_the_named_teacher_gives_them(plan):
    ask, say = Inputs(plan), Flags(plan, {})
    (one,) = ask.answers(wild(plan, "healed", k="002"))
    (other,) = ask.answers(wild(plan, "taught", k="002"))
    assert one != other and not ask.answers(wild(plan, "alone", k="002"))
    for file, teacher, top_k in ((one, "tiny", "8"), (other, "other", "64")):
        wildcards = SimpleNamespace(model="tiny", answers=file.split("/")[-2])
        assert ask.teacher(wildcards) == at.source(model=teacher)
        assert ask.windows_answered(wildcards) == ask.windows_of_finish(wild(plan, "healed"))
        assert say.answers(wildcards)[:2] == ["--top-k", top_k]
    assert ask.answers(wild(plan, "again", k="002")) == [one] and len(plan.answers) == 2


def test_windows_of_a_finish_are_those_of_finetune_unless_it_says_others(plan):
    healed, alone = (plan.recipes[wild(plan, name).recipe] for name in ("healed", "alone"))
    assert healed.windows("finish") == healed.windows("finetune").model_copy(update={"seed": 0})
    assert alone.windows("finish").sequences == 16 and alone.windows("finetune").sequences == 8
    assert alone.windows("finish").length == alone.windows("finetune").length == 16


def test_a_recipe_with_a_finish_reads_back_as_it_was_written(tmp_path):
    recipe = load_recipe("macro_influence_distill", {"finish": {"tokens": "2M"}}, seed=3)
    assert recipe.finish.tokens == 2_000_000
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    assert read_recipe(tmp_path / "recipe.json") == recipe
    assert recipe.steps == load_recipe("macro_influence", seed=3)
    assert recipe.steps.id == load_recipe("macro_influence", seed=3).id
    assert "finish" not in recipe.steps.to_json() and "chain" not in recipe.steps.to_json()


def test_settings_that_came_later_are_not_written_at_their_default():
    later = {"warmup_steps": 50, "decay": "constant"}
    assert not set(later) & set(load_recipe("macro_influence_full").to_json()["finish"])
    assert later.items() <= load_recipe("self_generated").to_json()["finish"].items()


def test_settings_of_a_finish_reach_the_recipes_that_have_them():
    over = {"finish": {"epochs": 7, "temperature": 2.0}}
    assert load_recipe("macro_influence_full", over).finish.epochs == 7
    assert load_recipe("macro_influence_distill", over).finish.temperature == 2.0
    assert load_recipe("macro_influence", over).id == load_recipe("macro_influence").id
    assert load_recipe("macro_influence_full").id != load_recipe("macro_influence_full", over).id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"finish": {"method": "distil"}}, "unknown finish method 'distil'; did you mean"),
        ({"finish": {}}, "finish.method: must be given; known: lora, full, distill"),
        ({"finish": {"method": "full", "top_k": 3}}, "finish: unknown setting 'top_k'"),
        ({"finish": {"method": "full", "tokens": "2Q"}}, "finish.tokens: must be a whole number"),
        (
            {"finish": {"method": "full", "tokens": 100}},
            r"finish.tokens: must be at least 16384, one optimiser step, got 100",
        ),
        (
            {"finish": {"method": "full", "windows": {"sequences": 7}}},
            "finish.windows.sequences: must fill one batch of 8, got 7",
        ),
        (
            {"finish": {"method": "full", "warmup_steps": 6, "windows": {"sequences": 16}}},
            "finish.warmup_steps: must be below the 6 optimiser steps, got 6",
        ),
        ({"finish": {"method": "full", "windows": {"length": 1}}}, "must be at least 2, got 1"),
        ({"finish": {"method": "full", "windows": {"lenth": 1}}}, "unknown setting 'lenth'"),
        (
            {"finish": {"method": "distill", "teacher": "x", "hidden": 1.0}},
            "finish.hidden: must be 0 with teacher 'x'",
        ),
        (
            {"finish": {"method": "full"}, "recovery": {"method": "lora"}},
            "lora works after the last",
        ),
        ({"chain": "plain"}, "chain: names the recipe that a finish goes on from"),
        ({"chain": "No/Way", "finish": {"method": "full"}}, "chain: must match"),
    ],
)
def test_a_finish_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve("mine", {**BASE, **settings})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"chain": "plane", "finish": {"method": "full"}}, "unknown recipe 'plane'; did you mean"),
        (
            {"chain": "healed", "finish": {"method": "full"}},
            "chain: must name a recipe that removes",
        ),
        (
            {"chain": "plain", "finish": {"method": "distill", "teacher": "othr"}},
            "finish.teacher: unknown model 'othr'; did you mean 'other'",
        ),
        (
            {"chain": "plain", "finish": {"method": "distill", "teacher": "small"}},
            "finish.teacher: must have the vocabulary of tiny, 50 tokens, got 'small' with 60",
        ),
        (
            {"chain": "plain", "finish": {"method": "distill", "top_k": 51}},
            "finish.top_k: must be at most 50, the vocabulary of tiny, got 51",
        ),
    ],
)
def test_a_graph_with_a_finish_that_cannot_work_is_refused(recipe, message):
    shape = {"values": 1, "sides": 1, "width": 1, "vocab": 50}
    config = configuration()
    config["models"]["tiny"]["shape"] = shape
    config["models"]["other"] = {"source": "dir:models/other", "num_blocks": 8}
    config["models"]["small"] = {**config["models"]["other"], "shape": {**shape, "vocab": 60}}
    healed = {"chain": "plain", "finish": {"method": "full"}}
    config["recipes"] = {"plain": BASE, "healed": healed, "mine": recipe}
    config["experiments"]["study"]["recipes"] = ["mine"]
    with pytest.raises(ConfigError, match=message):
        make_plan(config, ROOT / "config" / "recipes")


def test_a_plan_counts_the_steps_once_and_each_finish_for_itself(plan):
    reached = [recipe.split("-")[0] for _, recipe in _reached(plan)]
    assert sorted(reached) == ["again", "alone", "alone", "healed", "plain", "taught"]
    shape = Shape(values=100, sides=40, width=8, rest=16, vocab=50, total=1000)
    recipe = plan.recipes[wild(plan, "healed").recipe]
    cost = Cost(recipe, 4, shape)
    assert cost.work("score", 1).passes == cost.work("fuse", 1).tokens == 0
    work = cost.work("finish", 2)
    assert (work.tokens, work.optimizer_steps, work.trainable) == (3 * 8 * 16, 3, 2 * 116)
    assert Cost(recipe.steps, 4, shape).work("finish", 2).tokens == 0


def test_a_sweep_answers_once_and_finishes_only_what_is_asked(project):
    project.config["recipes"] = {
        "plain": BASE,
        "healed": {"chain": "plain", "finish": {"method": "distill"}},
        "again": {"chain": "plain", "finish": {"method": "distill", "epochs": 1}},
    }
    project.study.update({"recipes": ["healed", "again"], "evaluations": ["docs"]})
    started = Counter(line.split()[0] for line in project.started("tables"))
    kinds = ("fuse", "answers", "finish", "evaluate", "merge")
    assert [started[kind] for kind in kinds] == [1, 1, 2, 2, 0]


def test_listed_blocks_may_be_finished_and_their_steps_are_no_other_recipes():
    recipe = recipe_of_blocks("2,1", "macro_influence_distill")
    assert recipe.finish == load_recipe("macro_influence_distill").finish
    assert recipe.steps.name == recipe.name == "macro_influence_distill_given"
