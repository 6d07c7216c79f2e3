"""Selections: the lowest score, the lowest run, and what may be chosen from."""

from dataclasses import replace

import pytest
import torch

from fusegpt.errors import ArchitectureError, ConfigError, NumericsError
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.checkpoints.load import load
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.loop import prune
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.scoring import score_step
from fusegpt.pruning.select import check_run, select, select_run
from fusegpt.pruning.step import fuse_step
from fusegpt.units import Unit
from tests import tiny

UNITS = [Unit("block", index) for index in range(5)]


def recipe(metric, selection="iterative", **importance):
    settings = {"importance": {"metric": metric, **importance}, "recovery": {"method": "none"}}
    return resolve("a", {**settings, "selection": selection, "dtype": "float32"})


def test_the_lowest_score_goes_and_among_equals_the_first():
    assert select(UNITS, [3.0, 1.0, 2.0, 1.0, 4.0]) == UNITS[1]
    with pytest.raises(NumericsError, match="score of block 2 is nan"):
        select(UNITS, [3.0, 1.0, float("nan"), 1.0, 4.0])


def test_the_lowest_run_goes_whole():
    assert select_run(UNITS, [3.0, 1.0, 0.5], 3) == UNITS[2:]
    assert select_run(UNITS, [3.0, 1.0, 2.0, 1.0], 2) == UNITS[1:3]


def test_a_contiguous_selection_removes_the_run_that_the_formula_chooses():
    model = tiny.model("llama")
    tokens = tiny.ids(4, 12)
    with torch.no_grad():
        found = model.module(input_ids=tokens, output_hidden_states=True).hidden_states
    ends = [state[:, -1].double() for state in found[:-1]]  # what enters each block
    angles = [
        torch.nn.functional.cosine_similarity(ends[start], ends[start + 3]).acos().mean()
        for start in range(3)
    ]
    chosen = recipe("angular_distance", "contiguous", protect_last=1)  # runs end before block 5
    scores = score_step(model, chosen, tokens, count=3)
    start = int(torch.stack(angles).argmin())
    assert [row.index for row in scores.units] == [0, 1, 2]
    assert [unit.index for unit in scores.selected_units] == [start, start + 1, start + 2]
    record, _ = fuse_step(model, chosen, scores, None)
    assert record.step == 3
    assert record.units == scores.selected_units
    assert record.unit == scores.selected
    assert len(model.kept) == 3


def test_the_loop_takes_a_run_in_one_step():
    model = tiny.model("llama")
    steps = prune(model, recipe("block_influence", "contiguous"), 4, tiny.ids())
    assert len(steps) == 1
    removed = [unit.index for unit in model.removed]
    assert removed == list(range(removed[0], removed[0] + 4))


def test_a_run_that_cannot_be_had_is_refused():
    model = tiny.model("llama")
    short = recipe("angular_distance", "contiguous", protect_first=3)
    with pytest.raises(ConfigError, match="a run of 4 blocks must fit into the 3 that may go"):
        score_step(model, short, tiny.ids(), count=4)
    with pytest.raises(ArchitectureError, match="between block 1 and block 3"):
        check_run(model, short, [Unit("block", 1), Unit("block", 3)], 2)


def test_one_shot_scores_carry_what_else_was_said_of_a_unit():
    model = tiny.model("llama")
    chosen = recipe("shapley", "one_shot")
    first = score_step(model, chosen, tiny.ids(3, 8))
    assert all(row.model_extra["standard_error"] > 0 for row in first.units)
    remove(model, first.selected)
    second = score_step(model, chosen, tiny.ids(3, 8), first)
    assert second.units == [row for row in first.units if row.index in model.kept]


def test_a_number_that_cannot_be_had_is_none():
    record = score_step(tiny.model("llama"), recipe("shapley"), tiny.ids(1, 8))
    assert [row.model_extra["standard_error"] for row in record.units] == [None] * 6


def test_random_removals_follow_the_recipes_seed():
    def first(seed):
        chosen = replace(recipe("random"), seed=seed)
        return score_step(tiny.model("llama"), chosen, tiny.ids()).selected.index

    assert len({first(seed) for seed in range(12)}) > 1
    assert first(3) == first(3)


def test_the_original_reference_is_the_dense_model(tiny_llama_dir):
    chosen = recipe("macro_influence", reference="original")
    model, dense = (load(tiny_llama_dir, dtype="float32") for _ in range(2))
    remove(model, Unit("block", 2))
    record = score_step(model, chosen, tiny.ids())
    pieces = [tiny.ids()]
    expected = macro_influence(model, pieces, model.units(), original=dense)
    assert [row.score for row in record.units] == expected.tolist()
    assert not torch.equal(expected, macro_influence(model, pieces, model.units()))


def test_a_model_from_nowhere_has_no_original():
    chosen = recipe("macro_influence", reference="original")
    with pytest.raises(ConfigError, match="needs a model that came from a directory"):
        score_step(tiny.model("llama"), chosen, tiny.ids())


def hybrid():
    """Six blocks of which one attends; the others are recurrent."""
    kinds = ["linear_attention"] * 3 + ["full_attention"] + ["linear_attention"] * 2
    return tiny.model("qwen3_next", layer_types=kinds)


@pytest.mark.parametrize("selection", ["iterative", "one_shot"])
def test_the_last_block_of_its_kind_stays_and_the_model_generates(selection, caplog):
    model = hybrid()
    with caplog.at_level("INFO", logger="fusegpt"):
        prune(model, recipe("macro_influence", selection), 4, tiny.ids())
    assert 3 in model.kept and len(model.kept) == 2
    assert "block 3 stays: it is the last of its kind" in caplog.text
    tokens = model.module.generate(tiny.ids(1, 4), max_new_tokens=4, min_new_tokens=4)
    assert tokens.shape == (1, 8)


def test_a_selection_of_nothing_but_the_last_of_its_kind_is_refused():
    only = recipe("macro_influence", protect_first=3, protect_last=2)
    with pytest.raises(ConfigError, match="none of 6 blocks to remove; the last of a kind stays"):
        score_step(hybrid(), only, tiny.ids())


def test_a_run_of_neighbours_spares_the_last_of_its_kind():
    chosen = recipe("angular_distance", "contiguous")
    scores = score_step(hybrid(), chosen, tiny.ids(), count=2)
    assert 3 not in {unit.index for unit in scores.selected_units}
    with pytest.raises(ArchitectureError, match="every run of 4 blocks holds the last one"):
        score_step(hybrid(), chosen, tiny.ids(), count=4)
