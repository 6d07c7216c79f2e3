"""The experiments that come with the project: they fit together, and the small ones share work."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import load_recipe
from fusegpt.workflow.experiment import make_plan
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
    merged = with_library({"corpora": corpora}, CONFIG / "experiments")
    assert merged["corpora"]["wikitext2"] == corpora["wikitext2"]
    assert "table4-small" in merged["experiments"]


def test_two_meanings_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("evaluations: {short: {eval: perplexity}}")
    (tmp_path / "b.yaml").write_text("evaluations: {short: {eval: speed}}")
    with pytest.raises(ConfigError, match=r"b.yaml: evaluations.short means .* than in a.yaml"):
        with_library({}, tmp_path)
