"""The recipe `iterabre`: all remaining blocks learn the last states of the dense model."""

import pytest
import torch

from fusegpt.models.checkpoints.load import load
from fusegpt.models.structure.replay import record
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.recipe import load_recipe
from fusegpt.recovery.finetune import finetune
from fusegpt.units import Unit
from tests import tiny


@pytest.mark.parametrize("earlier", [1, 5])
def test_all_remaining_blocks_learn_the_last_states_of_the_dense_model(tiny_llama_dir, earlier):
    own = load_recipe("iterabre").recovery
    settings = own.model_copy(update={"lora_rank": 4, "batch_size": 4, "epochs": 4})
    windows = tiny.ids(4, 12)
    model, dense = (load(tiny_llama_dir, dtype="float32") for _ in range(2))
    wanted = record(dense, windows).hidden_out
    remove(model, Unit("block", earlier))  # whose damage is to be made good as well
    plain = load(tiny_llama_dir, dtype="float32")
    remove(plain, Unit("block", earlier), Unit("block", 3))
    left = record(plain, windows).hidden_out
    relative = (left - wanted).square().sum(-1) / wanted.square().sum(-1)

    report = finetune(model, Unit("block", 3), windows, settings, seed=0)

    assert report.group == model.kept == plain.kept
    torch.testing.assert_close(report.rows[0]["loss"], relative.mean().item(), rtol=1e-4, atol=0)
    assert report.rows[-1]["loss"] < report.rows[0]["loss"]
