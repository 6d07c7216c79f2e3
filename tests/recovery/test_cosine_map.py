"""The map that keeps the hidden states' direction, against states seen by plain hooks."""

import copy

import pytest
import torch
from torch.nn.functional import cosine_similarity

from fusegpt.recovery import closed_form
from fusegpt.recovery.least_squares import least_squares
from fusegpt.recovery.settings.maps import LeastSquares
from fusegpt.units import Unit
from tests import tiny

SETTINGS = {"fit": "cosine", "cosine_epochs": 20, "cosine_learning_rate": 1e-2, "holdout": 0.25}


@pytest.fixture
def always_folds(monkeypatch):
    """Random models gain nothing on held-out text; take the fit all the same."""
    losses = iter([1.0, 0.0] * 9)
    monkeypatch.setattr(closed_form, "next_token_loss", lambda *_: next(losses))


@torch.no_grad()
def leaving(model, index, windows):
    """States that leave a block of the module."""
    seen = []
    handle = model.block(index).register_forward_hook(lambda *call: seen.append(call[2]))
    model.module(windows)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("family", "weight"), [("llama", "mlp.down_proj"), ("gpt2", "mlp.c_proj")])
@pytest.mark.parametrize("gone", [(2,), (2, 3)])
def test_the_folded_map_turns_the_states_less(family, weight, gone, always_folds):
    windows = tiny.ids(16, 12, seed=3)
    model = tiny.model(family)
    dense = copy.deepcopy(model)
    run = [Unit("block", index) for index in gone]
    report = least_squares(
        model, run if len(run) > 1 else run[0], windows, LeastSquares(**SETTINGS), seed=0
    )

    target = leaving(dense, gone[-1], windows[:12])
    plain, folded = (leaving(one, 1, windows[:12]) for one in (dense, model))
    turn = [1 - cosine_similarity(x, target, dim=-1).mean().item() for x in (plain, folded)]
    assert turn[1] < 0.8 * turn[0]
    ends = report.rows[1]
    # the first step's loss is of the first sequence alone, at D = 0
    first = 1 - cosine_similarity(plain[:1], target[:1], dim=-1).mean().item()
    assert ends["first_cosine_loss"] == pytest.approx(first, abs=1e-5)
    assert (report.optimizer_steps, report.trainable_parameters) == (20 * 12, 32 * 32)
    assert report.tokens == 20 * 12 * 12 and ends["folded"]
    for index in model.kept:
        for name, parameter in model.block(index).named_parameters():
            same = torch.equal(parameter, dense.block(index).get_parameter(name))
            assert same == (index != 1 or name != f"{weight}.weight"), (index, name)


def test_text_that_was_held_out_decides_whether_it_is_folded(monkeypatch):
    losses = iter([1.0, 2.0])
    monkeypatch.setattr(closed_form, "next_token_loss", lambda *_: next(losses))
    model = tiny.model("llama")
    before = model.block(1).mlp.down_proj.weight.clone()
    report = least_squares(
        model, Unit("block", 2), tiny.ids(8, 12), LeastSquares(**SETTINGS), seed=0
    )
    assert report.rows[1]["folded"] is False
    assert torch.equal(model.block(1).mlp.down_proj.weight, before)
