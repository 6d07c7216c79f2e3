"""One block learns to do the work of two."""

import pytest
import torch

from fusegpt.errors import ArchitectureError
from fusegpt.models.structure.replay import record
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery.closed_form import next_token_loss
from fusegpt.recovery.settings.whole import Streamline
from fusegpt.recovery.streamline import streamline
from fusegpt.units import Unit
from tests import tiny

SETTINGS = {"batch_size": 8, "epochs": 10, "learning_rate": 3e-3}


@pytest.mark.parametrize("gone", [(2,), (2, 3)])
@torch.no_grad()
def test_it_starts_from_plain_removal_and_trains_the_whole_block_before(gone):
    windows = tiny.ids(8, 12, seed=3)
    model, plain = tiny.model("llama"), tiny.model("llama")
    seen = record(plain, windows, 1, gone[-1], keep_states=True)
    expected = (seen.states[1] - seen.hidden_out).square().mean().item()
    run = [Unit("block", index) for index in gone]
    report = streamline(
        model, run if len(run) > 1 else run[0], windows, Streamline(**SETTINGS), seed=0
    )
    assert report.rows[0]["loss"] == pytest.approx(expected, rel=1e-6)
    assert report.rows[-1]["loss"] < 0.9 * expected
    assert report.group == [1]
    for index in model.kept:
        for name, parameter in model.block(index).named_parameters():
            same = torch.equal(parameter, plain.block(index).get_parameter(name))
            assert same == (index != 1), (index, name)
    assert report.trainable_parameters == sum(p.numel() for p in model.block(1).parameters())


def test_before_the_first_block_there_is_none_so_the_one_behind_is_trained():
    model = tiny.model("llama")
    report = streamline(model, Unit("block", 0), tiny.ids(8, 12), Streamline(**SETTINGS), seed=0)
    assert report.group == [1] and model.kept == [1, 2, 3, 4, 5]


def test_a_loss_that_rises_is_undone():
    model, plain = tiny.model("llama"), tiny.model("llama")
    settings = {**SETTINGS, "epochs": 1, "learning_rate": 3.0}
    streamline(model, Unit("block", 2), tiny.ids(8, 12), Streamline(**settings), seed=0)
    assert torch.equal(model.block(1).mlp.down_proj.weight, plain.block(1).mlp.down_proj.weight)


@pytest.mark.parametrize("gone", [(2,), (2, 3)])
def test_by_the_next_token_only_the_block_before_trains_and_text_is_predicted_better(gone):
    windows = tiny.ids(8, 12, seed=3)
    model, plain = tiny.model("llama"), tiny.model("llama")
    run = [Unit("block", index) for index in gone]
    remove(plain, *run)
    settings = {**SETTINGS, "loss": "next_token"}
    report = streamline(
        model, run if len(run) > 1 else run[0], windows, Streamline(**settings), seed=0
    )
    # batches are whole, so the first loss is that of the plain removal, parts of 2 or not
    assert report.rows[0]["loss"] == pytest.approx(next_token_loss(plain, windows), rel=1e-5)
    assert next_token_loss(model, windows) < 0.95 * next_token_loss(plain, windows)
    assert report.group == [1] and report.optimizer_steps == 10
    for index in model.kept:
        for name, parameter in model.block(index).named_parameters():
            same = torch.equal(parameter, plain.block(index).get_parameter(name))
            assert same == (index != 1), (index, name)
    assert torch.equal(model.module.lm_head.weight, plain.module.lm_head.weight)
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())


def test_a_neighbour_that_the_data_pass_over_cannot_learn_from_them():
    with pytest.raises(ArchitectureError, match="the data do not run through block 2"):
        streamline(
            tiny.model("mllama"),
            Unit("block", 3),
            tiny.ids(8, 12),
            Streamline(loss="next_token", **SETTINGS),
            seed=0,
        )
