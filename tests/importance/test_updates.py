"""Local metrics: equal to the formulas on the hidden states that transformers returns."""

import math

import pytest
import torch

from fusegpt.errors import NumericsError
from fusegpt.importance.angular_distance import angular_distance
from fusegpt.importance.block_influence import block_influence
from fusegpt.importance.llm_bip import llm_bip
from fusegpt.importance.relative_l1 import relative_l1
from fusegpt.importance.relative_l2 import relative_l2
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny


@torch.no_grad()
def states(model, tokens):
    """What enters each block and what leaves the last one, by transformers' own bookkeeping.

    The last entry of ``hidden_states`` has gone through the final norm, so it is undone by a hook.
    """
    last = []
    norm = model.module.model.norm
    handle = norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    found = model.module(input_ids=tokens, output_hidden_states=True).hidden_states
    handle.remove()
    return [state.double() for state in (*found[:-1], last[0])]


def cosine(one, other):
    return (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))


@pytest.fixture
def model():
    return tiny.model("llama")


def test_block_influence_is_one_minus_the_mean_cosine(model):
    tokens = tiny.ids(3, 12)
    h = states(model, tokens)
    expected = torch.stack([1 - cosine(h[i], h[i + 1]).mean() for i in range(6)])
    scores = block_influence(model, [tokens], model.units())
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("run", [1, 2, 5, 6])
def test_angular_distance_of_a_run_is_the_formula_in_float64(model, run):
    tokens = tiny.ids(3, 12)
    h = states(model, tokens)
    expected = [
        sum(math.acos(cosine(h[i][s, -1], h[i + run][s, -1]).item()) for s in range(3))
        / 3
        / math.pi
        for i in range(7 - run)
    ]
    scores = angular_distance(model, [tokens[:2], tokens[2:]], model.units(), run=run)
    assert scores.tolist() == pytest.approx(expected, rel=1e-9)


def test_block_influence_of_a_run_compares_its_two_ends(model):
    tokens = tiny.ids(3, 12)
    h = states(model, tokens)
    expected = torch.stack([1 - cosine(h[i], h[i + 4]).mean() for i in range(3)])
    scores = block_influence(model, [tokens], model.units(), run=4)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("metric", "order"), [(relative_l1, 1), (relative_l2, 2)])
def test_relative_norms_divide_the_update_by_the_input(model, metric, order):
    tokens = tiny.ids(3, 12)
    h = states(model, tokens)
    expected = [
        ((h[i + 1] - h[i]).abs().pow(order).sum(-1) / h[i].abs().pow(order).sum(-1))
        .pow(1 / order)
        .mean()
        for i in range(6)
    ]
    scores = metric(model, [tokens], model.units())
    torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-5, atol=1e-7)


def test_runs_go_over_gaps_of_removed_blocks(model):
    whole = angular_distance(model, [tiny.ids()], model.units()[:2], run=2)
    remove(model, Unit("block", 4))
    pruned = angular_distance(model, [tiny.ids()], model.units(), run=2)
    assert pruned.shape == (4,)
    assert pruned[0] == whole[0]


def test_some_units_alone_score_as_among_all(model):
    scores = block_influence(model, [tiny.ids()], model.units())
    some = block_influence(model, [tiny.ids()], [Unit("block", 4), Unit("block", 1)])
    assert some.tolist() == [scores[4], scores[1]]


@pytest.mark.parametrize("metric", [block_influence, angular_distance, relative_l1, relative_l2])
def test_a_nan_names_metric_and_unit(model, metric):
    model.block(2).mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError, match=f"{metric.__name__} of block 2: score is nan"):
        metric(model, [tiny.ids()], model.units())


def test_llm_bip_of_a_block_is_its_update_relative_to_its_output(model):
    tokens = tiny.ids(3, 12)
    h = states(model, tokens)
    expected = [((h[i + 1] - h[i]).norm(dim=-1) / h[i + 1].norm(dim=-1)).mean() for i in range(6)]
    scores = llm_bip(model, [tokens], model.units())
    torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_llm_bip_of_a_sublayer_is_what_the_block_gives_with_a_matrix_of_zeros(model, kind):
    tokens = tiny.ids(3, 12)
    scores = llm_bip(model, [tokens], model.units(kind))
    whole = states(model, tokens)
    for index in (0, 3):
        lacking = tiny.model("llama")
        block = lacking.block(index)
        last = block.self_attn.o_proj if kind == "attention" else block.mlp.down_proj
        last.weight.data.zero_()
        other = states(lacking, tokens)[index + 1]
        moved = (whole[index + 1] - other).norm(dim=-1) / whole[index + 1].norm(dim=-1)
        assert scores[index].item() == pytest.approx(moved.mean().item(), rel=1e-5)
