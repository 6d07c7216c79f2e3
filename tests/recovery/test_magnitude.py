"""The folded rescale gives the logits of the unfolded one."""

import copy

import pytest
import scipy.linalg
import torch

from fusegpt.errors import ArchitectureError
from fusegpt.models.structure.replay import head_logits, record, run_blocks
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery import closed_form
from fusegpt.recovery.gap import find_gap
from fusegpt.recovery.magnitude import growth, hadamard, magnitude
from fusegpt.recovery.settings.maps import Magnitude
from fusegpt.units import Unit
from tests import tiny

UNIT = Unit("block", 2)


@pytest.fixture
def windows():
    return tiny.ids(8, 12, seed=3)


@pytest.fixture(autouse=True)
def always_folds(monkeypatch):
    losses = iter([1.0, 0.0] * 9)
    monkeypatch.setattr(closed_form, "next_token_loss", lambda *_: next(losses))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama_tied", "gpt2", "olmo", "opt", "gpt_neox", "granite"])
def test_the_folded_scale_gives_the_logits_of_the_unfolded_one(family, windows):
    model = tiny.model(family, dtype=torch.float64)
    before = record(model, windows, 0, 1).hidden_out
    after = record(model, windows, 0, 2).hidden_out
    expected_factor = (after.norm(dim=-1) / before.norm(dim=-1))[:6].mean().item()
    factor = growth(model, 2, 2, windows[:6])
    assert factor == pytest.approx(expected_factor, rel=1e-9)

    plain = copy.deepcopy(model)
    remove(plain, UNIT)
    tail = record(plain, windows, 2, 4)
    rescaled = run_blocks(plain.blocks[2:], tail.calls, tail.hidden_in * factor)
    expected = head_logits(plain, windows, rescaled)

    report = magnitude(model, UNIT, windows, seed=0)
    found = model.module(windows).logits
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    assert (found - plain.module(windows).logits).abs().max() > 0.02
    assert report.group == [3, 4, 5]


@torch.no_grad()
def test_the_channel_scale_is_the_best_factor_of_each_feature(windows):
    model = tiny.model("llama", dtype=torch.float64)
    name = "blocks.1.mlp.down_proj.weight"
    weight = model.parameter(name).clone()
    magnitude(model, UNIT, windows, Magnitude(scale="channel"), seed=0)
    ratio = model.parameter(name) / weight
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    reference = tiny.model("llama", dtype=torch.float64)
    gap = find_gap(reference, [UNIT], windows, "current", "x")
    added, missing = next(iter(closed_form._samples(gap, windows[:6])))
    for feature in (0, 7):
        one, other = added[:, feature], missing[:, feature]
        best = torch.linalg.lstsq(one[:, None], (one + other)[:, None]).solution
        assert ratio[feature, 0].item() == pytest.approx(best.item(), rel=1e-9)


@torch.no_grad()
def test_the_hadamard_scale_is_the_best_factor_of_each_turned_feature(windows):
    turn = torch.from_numpy(scipy.linalg.hadamard(32) / 32**0.5)
    model, reference = (tiny.model("llama", dtype=torch.float64) for _ in range(2))
    gap = find_gap(reference, [UNIT], windows, "current", "x")
    added, missing = next(iter(closed_form._samples(gap, windows[:6])))
    name = "blocks.1.mlp.down_proj.weight"
    magnitude(model, UNIT, windows, Magnitude(scale="hadamard"), seed=0)
    found, before = turn.T @ model.parameter(name), turn.T @ reference.parameter(name)
    for feature in range(32):
        one, other = (added @ turn)[:, feature], (missing @ turn)[:, feature]
        best = torch.linalg.lstsq(one[:, None], (one + other)[:, None]).solution
        torch.testing.assert_close(found[feature], best.item() * before[feature])


@pytest.mark.parametrize("width", [8, 9, 576])
def test_every_width_has_a_turn(width):
    turn = hadamard(width)
    torch.testing.assert_close(turn.T @ turn, torch.eye(width, dtype=torch.float64))
    if width == 8:
        torch.testing.assert_close(
            turn * 8**0.5, torch.from_numpy(scipy.linalg.hadamard(8)).double()
        )


@pytest.mark.parametrize("family", ["gemma2", "mixtral", "olmo2"])
def test_models_that_do_not_shrink_with_their_input_are_refused(family, windows):
    model = tiny.model(family)
    before = copy.deepcopy(model.module.state_dict())
    with pytest.raises(ArchitectureError, match=r"does not shrink|depend on the length"):
        magnitude(model, UNIT, windows, seed=0)
    assert all(torch.equal(v, before[n]) for n, v in model.module.state_dict().items())
    assert len(model.kept) == 6


def test_behind_the_last_block_there_is_nothing_to_rescale(windows):
    model = tiny.model("llama")
    report = magnitude(model, Unit("block", 5), windows, seed=0)
    assert report.changed == []
