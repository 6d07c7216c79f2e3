"""Units by name: removed in the order of the list, and refused where they cannot go."""

import json

import jsonschema
import pytest

from fusegpt import prune_model
from fusegpt.cli import fusegpt_command, run
from fusegpt.errors import ConfigError, DataError
from fusegpt.importance.given import given
from fusegpt.importance.settings import Given
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.loop import prune
from fusegpt.pruning.reach import check_reach
from fusegpt.pruning.recipe import recipe_of_blocks, resolve
from fusegpt.pruning.scoring import score_step
from fusegpt.units import Unit, listed_units
from fusegpt.workflow.json_schema import recipe_schema
from tests import tiny


def recipe(blocks, recovery="none", more=None, tuned=None, **settings):
    importance = {"metric": "given", "blocks": blocks, **(more or {})}
    sections = {"importance": importance, "recovery": {"method": recovery, **(tuned or {})}}
    return resolve("mine", {**sections, "dtype": "float32", **settings})


def pruned(chosen, count):
    model = tiny.model("llama")
    steps = prune(model, chosen, count, tiny.ids(2, 8), tiny.ids(8, 8))
    return model, steps


def test_a_list_of_units_is_written_out_in_its_order():
    assert listed_units([17, "14-16", "3-1"]) == [17, 14, 15, 16, 3, 2, 1]
    assert listed_units(["block 4", "attention 2-3", "mlp 2"]) == [
        4,
        "attention 2",
        "attention 3",
        "mlp 2",
    ]


def test_blocks_go_in_the_order_of_the_list_by_their_dense_numbers():
    model, steps = pruned(recipe([4, "1-2"]), 3)

    assert [unit.index for unit in model.removed] == [4, 1, 2]
    assert [step.score for step in steps] == [0, 1, 2]
    assert [row.score for row in steps[1].scores.units] == [3, 1, 2, 3, 3]
    assert steps[0].scores.settings == {"blocks": [4, 1, 2]}


@pytest.mark.slow
def test_a_recovery_works_after_each_of_them():
    fusion = {"group_size": 3, "rank": 2, "lora_rank": 2, "batch_size": 4}
    chosen = recipe([3, 1], "fusion", tuned=fusion, finetune={"sequences": 8})

    _, steps = pruned(chosen, 2)

    assert [step.unit.index for step in steps] == [3, 1]
    assert [step.group for step in steps] == [[1, 2, 4], [0, 2, 4]]


def test_a_contiguous_selection_takes_the_first_of_the_list_as_one_run():
    model, steps = pruned(recipe(["4-2"], selection="contiguous"), 2)

    assert [unit.index for unit in model.removed] == [3, 4] and len(steps) == 1
    with pytest.raises(ConfigError, match=r"s: 2 units are to go as one run, but the first 2 of"):
        check_reach(recipe([4, 2, 3], selection="contiguous"), 6, 2, "s")
    with pytest.raises(ConfigError, match="the next 2 units must be neighbours to go as one run"):
        pruned(recipe([4, 2, 3], selection="contiguous"), 2)


def test_attentions_and_mlps_go_by_the_names_that_scores_give_them():
    model, _ = pruned(recipe(["mlp 4", "attention 1", "mlp 1"], granularity="mixed"), 3)
    assert model.removed == [Unit("mlp", 4), Unit("attention", 1), Unit("mlp", 1)]

    model, _ = pruned(recipe(["attention 4", 2], granularity="attention"), 2)
    assert model.removed == [Unit("attention", 4), Unit("attention", 2)]


def test_what_cannot_go_next_is_refused_and_nothing_else_goes_in_its_place():
    model = tiny.model("llama")
    remove(model, Unit("block", 3))
    chosen = recipe([3, 5])
    assert score_step(model, chosen, tiny.ids(2, 8)).selected == Unit("block", 5)
    with pytest.raises(ConfigError, match="3 cannot go: it is not in the model, protected, passed"):
        given(tiny.model("llama"), [], [Unit("block", 5)], Given(blocks=[3, 5]))
    with pytest.raises(ConfigError, match="all 1 units that it names are gone"):
        given(model, [], [Unit("block", 5)], Given(blocks=[3]))


@pytest.mark.parametrize(
    ("blocks", "settings", "message"),
    [
        ([], {}, "importance.blocks: must name the units that go, such as [17, '14-16'], got []"),
        (5, {}, "importance.blocks: must be a list such as [17, '14-16'], got 5"),
        (["1-"], {}, "must hold numbers of blocks, ranges such as '14-16', or names such as"),
        ([True], {}, "got True"),
        ([1.0], {}, "got 1.0"),
        ([-1], {}, "got -1"),
        (["1-3", 2], {}, "must name each unit once, got 2 2 times"),
        (["attention 3"], {}, "must be like '3' with granularity 'block', got 'attention 3'"),
        ([3], {"granularity": "mixed"}, "must be like 'attention 3' or 'mlp 3' with granularity"),
        (["mlp 3"], {"granularity": "attention"}, "must be like 'attention 3' with"),
        ([3], {"selection": "one_shot"}, "must be 'iterative' or 'contiguous' with metric 'given'"),
        ([3], {"more": {"protect_first": 4}}, "must name units that may go, but 3 is protected"),
        ([3], {"more": {"protect": ["2-4"]}}, "must name units that may go, but 3 is protected"),
        ([0], {"recovery": "least_squares"}, "folds into the block before the removed one"),
        (
            [3],
            {"recovery": "fusion", "rerank": {"candidates": 2}},
            "recipes.mine.rerank: may choose another order; metric 'given' has its own, leave one",
        ),
        ([3], {"keep_pattern": True}, "recipes.mine.keep_pattern: may choose another order; metri"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused_in_one_line(blocks, settings, message):
    with pytest.raises(ConfigError) as caught:
        recipe(blocks, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_fold_needs_no_protected_block_where_the_first_is_not_named():
    assert recipe([3, 1], "least_squares").importance.protect_first == 0


@pytest.mark.parametrize(
    ("blocks", "more", "count", "message"),
    [
        ([6], {}, 1, "importance.blocks: must hold numbers of the model's blocks, 0 to 5, got 6"),
        ([5], {"protect_last": 1}, 1, "must name units that may go, but 5 is protected"),
        (
            [5],
            {},
            2,
            "s: 2 units are to go, but recipe 'mine' names 1; lower the sparsity, or name",
        ),
    ],
)
def test_a_model_that_lacks_them_is_refused_before_anything_runs(blocks, more, count, message):
    with pytest.raises(ConfigError) as caught:
        check_reach(recipe(blocks, more=more), 6, count, "s")
    assert message in str(caught.value)


def test_the_verb_removes_what_it_is_told_without_a_recipe_a_sparsity_or_windows(
    strong_llama_dir, tmp_path
):
    output = tmp_path / "out"
    line = ["prune", "--model", str(strong_llama_dir), "--blocks", "4,1-2", "--dtype", "float32"]

    assert not run(fusegpt_command, [*line, "--output", str(output)])

    record = json.loads((output / "fusegpt.json").read_text())
    assert [unit["index"] for unit in record["removed"]] == [4, 1, 2]
    assert record["recipe"]["importance"]["blocks"] == [4, 1, 2]
    assert record["recipe"]["recovery"] == {"method": "none"}


def test_a_recipe_beside_the_list_says_what_recovers_and_what_stays():
    chosen = recipe_of_blocks("4,2", "macro_influence_least_squares", {"dtype": "float32"}, 3)
    assert (chosen.name, chosen.metric, chosen.method) == (
        "macro_influence_least_squares_given",
        "given",
        "least_squares",
    )
    assert (chosen.importance.protect_first, chosen.dtype, chosen.seed) == (1, "float32", 3)
    with pytest.raises(ConfigError, match="must name units that may go, but 0 is protected"):
        recipe_of_blocks("0", "macro_influence_least_squares")
    assert recipe_of_blocks("attention 3,mlp 5").granularity == "mixed"
    assert recipe_of_blocks("mlp 3-5", "fusegpt").granularity == "mlp"


@pytest.mark.parametrize("blocks", ["attention 3,3", "attention 3,5", "4,mlp 5"])
def test_a_list_does_not_leave_open_whether_a_block_or_a_part_of_it_goes(blocks):
    with pytest.raises(ConfigError, match=r"--blocks: must name the kind of each unit or of none"):
        recipe_of_blocks(blocks)


def test_a_sublayer_by_its_name_and_by_its_number_is_one():
    given = {"metric": "given", "blocks": ["attention 3", 2, 3]}
    asked = {"importance": given, "recovery": {"method": "none"}, "granularity": "attention"}
    with pytest.raises(ConfigError, match=r"must name each unit once, got 'attention 3' 2 times"):
        resolve("own", asked)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--blocks", "3", "--sparsity", "0.2"],
            "give one of '--sparsity', '--target', '--blocks' and '--until'",
        ),
        ([], "give one of '--sparsity', '--target', '--blocks' and '--until'"),
        (["--sparsity", "0.2"], "missing option '--recipe' (or '--blocks')"),
        (["--blocks", "3-"], "importance.blocks: must hold numbers of blocks, ranges such as"),
        (["--blocks", "9"], "must hold numbers of the model's blocks, 0 to 5, got 9"),
    ],
)
def test_the_verb_says_what_is_wrong_with_its_options(
    strong_llama_dir, tmp_path, capsys, flags, message
):
    line = ["prune", "--model", str(strong_llama_dir), "--output", str(tmp_path / "out"), *flags]
    assert run(fusegpt_command, line) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_metrics_that_look_at_data_need_windows(strong_llama_dir, tmp_path):
    scored = resolve("a", {"importance": {"metric": "sleb"}, "recovery": {"method": "none"}})
    with pytest.raises(DataError, match="recipe 'a' scores: give its windows with --calibration"):
        prune_model(strong_llama_dir, scored, 0.2, None, tmp_path / "out")


def test_what_is_gone_already_is_refused(strong_llama_dir, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    prune_model(strong_llama_dir, recipe([3]), None, None, one)
    with pytest.raises(ConfigError, match="must name units of the model, block 3 is gone already"):
        prune_model(one, recipe([2, 3]), None, None, two)
    with pytest.raises(ConfigError, match="blocks: must leave at least one of 6 units"):
        prune_model(strong_llama_dir, recipe(["0-5"]), None, None, two)
    prune_model(one, recipe([2]), None, None, two)
    assert json.loads((two / "fusegpt.json").read_text())["kept"] == [0, 1, 4, 5]


def test_editors_know_ranges_and_names():
    checker = jsonschema.Draft7Validator(recipe_schema())
    importance = {"metric": "given", "blocks": [3, "4-5", "mlp 2"], "protect": [0, "1-2"]}
    good = {"importance": importance, "recovery": {"method": "none"}}
    assert list(checker.iter_errors(good)) == []
    importance["blocks"] = [1.5]
    assert len(list(checker.iter_errors(good))) == 1
