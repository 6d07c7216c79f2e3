"""Rigid merges: their sums written down again from state dicts, and cases that are known."""

import pytest
import torch

from fusegpt.errors import ArchitectureError, ConfigError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.recipe import load_recipe, resolve
from fusegpt.recovery.laco import laco
from fusegpt.recovery.settings.merges import WeightedSum
from fusegpt.recovery.weighted_sum import weighted_sum
from fusegpt.units import Unit
from tests import tiny

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def block(index):
    return Unit("block", index)


def weights(model, index):
    """The seven matrices of a Llama block, which are all that the released code merges."""
    state = model.block(index).state_dict()
    return {name: value.double() for name, value in state.items() if name.split(".")[1] in LINEAR}


def check(model, index, expected):
    found = weights(model, index)
    assert len(found) == 7
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


@pytest.fixture
def dense():
    return tiny.model("llama")


def test_a_run_is_folded_as_published(dense):
    model = tiny.model("llama")
    own, first, second, third = (weights(dense, index) for index in (1, 2, 3, 4))
    report = laco(model, [block(2), block(3), block(4)], seed=0)
    # theta_l + sum_k (theta_{l+k} - theta_l), with l = 1
    expected = {name: first[name] + second[name] + third[name] - 2 * own[name] for name in own}
    check(model, 1, expected)
    assert model.kept == [0, 1, 5]
    assert report.fused_into == [1] and len(report.changed) == 7


def test_folding_one_block_leaves_that_blocks_weights_under_the_norms_of_the_one_before(dense):
    model, plain = tiny.model("llama"), tiny.model("llama")
    laco(model, block(3), seed=0)
    plain.block(3).input_layernorm.load_state_dict(dense.block(2).input_layernorm.state_dict())
    norm = dense.block(2).post_attention_layernorm.state_dict()
    plain.block(3).post_attention_layernorm.load_state_dict(norm)
    remove(plain, block(2))
    found, expected = (one.module(tiny.ids()).logits for one in (model, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_equal_blocks_stay_what_they_are(dense):
    for index in (3, 4):
        dense.block(index).load_state_dict(dense.block(2).state_dict())
    before = weights(dense, 2)
    laco(dense, [block(3), block(4)], seed=0)
    check(dense, 2, before)
    model = tiny.model("llama")
    model.block(3).load_state_dict(model.block(2).state_dict())
    before = weights(model, 2)
    weighted_sum(model, block(3), settings=WeightedSum(weight=0.3), seed=0)
    check(model, 2, before)


def test_step_by_step_ends_as_at_once_and_a_merged_block_carries_on_what_it_took(tiny_llama_dir):
    one, other, dense = (load(tiny_llama_dir, dtype="float32") for _ in range(3))
    laco(one, [block(2), block(3)], seed=0)
    for index in (3, 2):
        laco(other, block(index), seed=0)
    # 3 into 2 and then 2 into 1: what 2 had taken goes along
    for name, value in weights(one, 1).items():
        torch.testing.assert_close(weights(other, 1)[name], weights(dense, 3)[name], msg=name)
        assert not torch.equal(value, weights(dense, 3)[name])
    third = load(tiny_llama_dir, dtype="float32")
    for index in (2, 3):
        laco(third, block(index), seed=0)
    check(third, 1, weights(one, 1))


def test_without_dense_weights_a_second_merge_is_refused(dense):
    laco(dense, block(2), seed=0)
    with pytest.raises(ConfigError, match="came from a directory"):
        laco(dense, block(3), seed=0)


def test_before_the_first_block_there_is_none_to_take_it_up(dense):
    with pytest.raises(ArchitectureError, match="protect_first to 1"):
        laco(dense, block(0), seed=0)
    assert dense.kept == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.75])
def test_neighbours_become_weighted_means(dense, weight):
    model = tiny.model("llama")
    report = weighted_sum(
        model, block(3), settings=WeightedSum(weight=weight, group_size=2), seed=0
    )
    gone = weights(dense, 3)
    for index in (2, 4):
        own = weights(dense, index)
        check(model, index, {n: (1 - weight) * own[n] + weight * gone[n] for n in own})
    assert report.fused_into == [2, 4]
    remove(dense, block(3))
    same = torch.equal(model.module(tiny.ids()).logits, dense.module(tiny.ids()).logits)
    assert same == (weight == 0)


def test_a_run_counts_as_its_mean(dense):
    model = tiny.model("llama")
    own, first, second = (weights(dense, index) for index in (1, 2, 3))
    weighted_sum(model, [block(2), block(3)], seed=0)
    check(model, 1, {n: 0.5 * own[n] + 0.25 * (first[n] + second[n]) for n in own})


def test_an_attention_is_taken_up_by_the_attention_before():
    model, dense = tiny.model("llama"), tiny.model("llama")
    report = laco(model, Unit("attention", 2), seed=0)
    assert {name.split(".")[2] for name in report.changed} == {"self_attn"}
    name = "self_attn.v_proj.weight"
    found = model.block(1).get_parameter(name)
    torch.testing.assert_close(found, dense.block(2).get_parameter(name))


def test_what_has_no_counterpart_stays():
    model = tiny.model("qwen3_moe")  # blocks 0 and 3 are dense, the others have experts
    report = weighted_sum(model, block(3), seed=0)
    assert report.fused_into == [2]
    assert {name.split(".")[2] for name in report.changed} == {"self_attn"}


def test_merges_may_be_tried_and_then_need_windows_to_judge_by():
    recipe = load_recipe("laco")
    assert recipe.needs_windows and not recipe.recovery.needs_windows
    plain = resolve(
        "plain",
        {"importance": {"metric": "random", "protect_first": 1}, "recovery": {"method": "laco"}},
    )
    assert not plain.needs_windows
