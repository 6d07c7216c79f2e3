"""Macro Influence: equal to the plain loop bit for bit, and n(n+1)/2 block forward passes."""

import pytest
import torch

from benchmarks.step import plain
from fusegpt.errors import NumericsError
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.structure.branches import find_branches
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow


@pytest.mark.parametrize("family", ["llama", "gpt2", slow("gemma2")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_shared_prefix_scores_equal_the_plain_ones_to_the_last_bit(family, dtype):
    model = tiny.model(family, dtype=dtype)
    batches = [tiny.ids(2, 12, seed=0), tiny.ids(2, 12, seed=1)]
    scores = macro_influence(model, batches, model.units())
    assert scores.dtype == torch.float64
    assert torch.equal(scores, plain(model, batches, model.units()))
    assert (scores > 0.001).all()


def test_scoring_runs_n_times_n_plus_one_over_two_block_passes():
    model = tiny.model("llama")
    passes = []
    for block in model.blocks:
        block.register_forward_hook(lambda *_: passes.append(1))
    macro_influence(model, [tiny.ids()], model.units())
    assert len(passes) == 6 * 7 // 2


def test_a_block_that_adds_nothing_scores_zero():
    model = tiny.model("llama")
    block = model.block(3)
    block.self_attn.o_proj.weight.data.zero_()
    block.mlp.down_proj.weight.data.zero_()
    scores = macro_influence(model, [tiny.ids()], model.units())
    assert scores.argmin() == 3
    assert abs(scores[3].item()) < 1e-6


def test_the_model_is_unchanged_to_the_last_bit():
    model = tiny.model("llama")
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    macro_influence(model, [tiny.ids()], model.units())
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_scores_do_not_depend_on_how_windows_are_split_into_batches():
    model = tiny.model("llama")
    windows = tiny.ids(6, 12)
    whole = macro_influence(model, [windows], model.units())
    split = macro_influence(model, list(windows.split(2)), model.units())
    torch.testing.assert_close(whole, split, rtol=1e-4, atol=1e-6)


def test_scores_belong_to_dense_indices_after_a_removal():
    model = tiny.model("llama")
    remove(model, Unit("block", 2))
    scores = macro_influence(model, [tiny.ids()], model.units())
    alone = macro_influence(model, [tiny.ids()], [Unit("block", 4)])
    assert [unit.index for unit in model.units()] == [0, 1, 3, 4, 5]
    assert scores[3] == alone[0]


def test_a_nan_names_the_unit():
    model = tiny.model("llama")
    model.block(5).mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError, match="macro_influence of block 0: score is nan"):
        macro_influence(model, [tiny.ids()], model.units())


@pytest.mark.parametrize("family", ["llama", "gemma2", "falcon"])
@pytest.mark.parametrize("granularity", [slow("attention"), slow("mlp"), "mixed"])
@torch.no_grad()
def test_sublayers_score_as_in_the_plain_loop_to_the_last_bit(family, granularity):
    model = tiny.model(family)
    units = [unit for unit in model.units(granularity) if unit.index < 5]
    scores = macro_influence(model, [tiny.ids()], units)
    assert torch.equal(scores, plain(model, [tiny.ids()], units))


@pytest.mark.parametrize("granularity, passes", [("attention", 27), ("mlp", 27), ("mixed", 48)])
def test_sublayers_share_what_runs_before_their_block(granularity, passes):
    model = tiny.model("llama")
    units = model.units(granularity)
    find_branches(model, 0)
    counts = {"block": 0, "attention": 0, "mlp": 0}

    def counting(name):
        def hook(*_):
            counts[name] += 1

        return hook

    for block in model.blocks:
        block.register_forward_hook(counting("block"))
        block.self_attn.register_forward_hook(counting("attention"))
        block.mlp.register_forward_hook(counting("mlp"))
    macro_influence(model, [tiny.ids()], units)
    assert counts["block"] == passes  # n(n+3)/2, and the two kinds share the reference
    for kind in ("attention", "mlp"):  # the sublayer that is left out does not run
        assert counts[kind] == passes - sum(unit.kind == kind for unit in units)
