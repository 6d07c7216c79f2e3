"""The experiments that come with the project: they fit together, and the small ones share work."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import load_recipe
from fusegpt.results.point import DENSE
from fusegpt.work import total
from fusegpt.workflow.cost import Cost
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.files import merged
from fusegpt.workflow.library import with_library
from fusegpt.workflow.plan import Plan

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Everything that the project brings, planned at once."""
    own = yaml.safe_load((CONFIG / "config.yaml").read_text())
    return make_plan(with_library(own, CONFIG / "experiments"), CONFIG / "recipes")


def test_every_table_has_a_small_version_with_the_same_kind_of_rows(plan):
    full = [name for name in plan.experiments if f"{name}-small" in plan.experiments]
    assert {"table1", "table2", "table4", "figure3"} <= set(full)  # table3: examples/small_llava
    assert {"deeper_look", "rank_group_loss"} <= set(full)
    assert "why_lift-small" in plan.experiments and "why_lift_opt" in plan.experiments
    for name in full:
        small = plan.experiments[f"{name}-small"]
        assert set(small.models) == {"smollm2-135m"}
        assert len(small.recipes) >= len(plan.experiments[name].recipes) - 1


@pytest.mark.parametrize(
    ("small", "whole"),
    [("table1-small", "baselines"), ("table2-small", "evaluation")],
)
def test_a_small_table_is_a_part_of_what_is_run_anyway(plan, small, whole):
    assert set(plan.points[small]) <= set(plan.points[whole])
    evaluations = [set(plan.experiments[name].evaluations) for name in (small, whole)]
    assert evaluations[0] <= evaluations[1]


def test_the_published_tables_are_run_with_published_settings(plan):
    for name in ("table1", "table2", "table3"):
        fusegpt = next(x for x in plan.members[name] if x.name == "fusegpt")
        assert fusegpt.id == load_recipe("fusegpt").id
    sequences = {plan.recipes[x.id].finetune.sequences for x in plan.members["table4"]}
    assert sequences == {256}


def test_a_users_entries_lie_over_the_librarys():
    corpora = {"wikitext2": {"join": " "}}
    both = with_library({"corpora": corpora}, CONFIG / "experiments")
    assert both["corpora"]["wikitext2"] == corpora["wikitext2"]
    assert "table4-small" in both["experiments"]


def test_a_later_file_changes_one_of_two_entries_that_share_an_alias(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(
        "recipes:\n  one: &one {recovery: {method: none}}\n  two: {<<: *one, dtype: float32}\n"
    )
    second.write_text("recipes: {one: {recovery: {method: fusion}}}\n")
    recipes = merged([first, second])["recipes"]
    assert recipes["one"] == {"recovery": {"method": "fusion"}}
    assert recipes["two"] == {"recovery": {"method": "none"}, "dtype": "float32"}


def test_two_meanings_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("evaluations: {short: {eval: perplexity}}")
    (tmp_path / "b.yaml").write_text("evaluations: {short: {eval: speed}}")
    with pytest.raises(ConfigError, match=r"b.yaml: evaluations.short means .* than in a.yaml"):
        with_library({}, tmp_path)


@pytest.mark.parametrize(
    ("experiment", "units"),
    [
        ("finish_quarter", 0.25),
        ("finish_small", 1),
        ("finish_next_token", 0.25),
        ("finish_next_token_1", 1),
        ("finish_next_token_4", 4),
        ("finish_search", 1),
        ("finish_search_2", 2),
        ("finish_search_4", 4),
        ("finish_seeds", 1),
        ("fusion_before_finish", 1),
    ],
)
def test_arms_that_are_compared_at_equal_cost_cost_the_same(plan, experiment, units):
    """Within 10% of so many times what `fusegpt_mse` spends at 25% of SmolLM2."""
    model = plan.models["smollm2-135m"]
    removals = plan.steps(experiment, "smollm2-135m")["0.25"]

    def flops(recipe) -> float:
        cost = Cost(recipe, model.num_blocks, model.shape)
        steps = Cost(recipe.steps, model.num_blocks, model.shape)
        works = [steps.work("fuse", step) for step in range(1, removals + 1)]
        return total([*works, cost.work("finish", removals)]).flops

    unit = flops(plan.recipes[_only(plan, "finish_seeds", "fusion_three_epochs")])
    arms = {
        member.name: flops(plan.recipes[member.id]) / unit
        for member in plan.members[experiment]
        if member.name not in (DENSE, "macro_influence", "sleb")  # these spend nothing
        and not member.name.endswith("_one_epoch")  # half of an arm
    }
    assert arms
    assert {name: cost for name, cost in arms.items() if not 0.9 <= cost / units <= 1.1} == {}


def _only(plan: Plan, experiment: str, name: str) -> str:
    """The id of a recipe of an experiment, with the first seed."""
    return next(x.id for x in plan.members[experiment] if (x.name, x.seed) == (name, 0))
