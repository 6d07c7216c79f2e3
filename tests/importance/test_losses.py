"""Losses without a unit: equal to deleting layers of a plain transformers model by hand."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from fusegpt.errors import NumericsError
from fusegpt.importance.perplexity import perplexity
from fusegpt.importance.sleb import sleb
from fusegpt.models.checkpoints.load import load
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny


def by_hand(module, tokens, gone):
    """The loss that transformers itself computes for a copy with layers deleted."""
    module = copy.deepcopy(module)
    kept = [layer for i, layer in enumerate(module.model.layers) if i not in gone]
    module.model.layers = torch.nn.ModuleList(kept)
    module.config.num_hidden_layers = len(kept)
    with torch.no_grad():
        return module(input_ids=tokens, labels=tokens, use_cache=False).loss.double()


@pytest.mark.parametrize("metric", [sleb, perplexity])
def test_scores_are_the_losses_of_models_with_a_layer_deleted_by_hand(tiny_llama_dir, metric):
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    model = load(tiny_llama_dir, dtype="float32")
    tokens = tiny.ids(4, 12)
    expected = torch.stack([by_hand(plain, tokens, {i}) for i in range(6)])
    scores = metric(model, [tokens[:1], tokens[1:]], model.units())
    if metric is perplexity:
        expected = expected.exp()
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-7)


def test_greedy_removal_by_sleb_takes_what_a_plain_loop_takes():
    model = tiny.model("llama")
    plain = copy.deepcopy(model.module)
    tokens, gone = tiny.ids(4, 16), set()
    for _ in range(3):
        inner = [i for i in range(1, 5) if i not in gone]
        losses = {i: by_hand(plain, tokens, gone | {i}) for i in inner}
        units = [Unit("block", i) for i in inner]
        scores = sleb(model, [tokens], units)
        expected = min(losses, key=losses.get)
        assert units[scores.argmin()].index == expected
        gone.add(expected)
        remove(model, Unit("block", expected))


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "opt"])
def test_the_models_own_head_gives_the_loss(family):
    model = tiny.model(family)
    tokens = tiny.ids(2, 12)
    scores = sleb(model, [tokens], [Unit("block", 3)])
    remove(model, Unit("block", 3))
    with torch.no_grad():
        loss = model.module(input_ids=tokens, labels=tokens, use_cache=False).loss
    assert scores.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("metric", [sleb, perplexity])
def test_a_nan_names_metric_and_unit(metric):
    model = tiny.model("llama")
    model.block(5).mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError, match=f"{metric.__name__} of block 0: score is nan"):
        metric(model, [tiny.ids()], model.units())
