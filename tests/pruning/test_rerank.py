"""Re-ranking: what recovers best goes, not what scores lowest; one candidate changes nothing."""

import pytest
import torch

from fusegpt.artifacts import read_json
from fusegpt.errors import ConfigError, DataError, NumericsError
from fusegpt.pruning import rerank as rerank_module
from fusegpt.pruning.loop import prune
from fusegpt.pruning.recipe import load_recipe, resolve
from fusegpt.pruning.scoring import score_step
from fusegpt.pruning.step import fuse_step
from fusegpt.recovery.resume import Checkpoint
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow

FUSION = {"method": "fusion", "group_size": 3, "rank": 2, "lora_rank": 2, "epochs": 2}
FUSION |= {"batch_size": 4, "learning_rate": 3e-3}
TRIAL = {"sequences": 4, "judged": 4}


def recipe(recovery, rerank=None, **more):
    settings = {
        "importance": {"metric": "macro_influence", "protect_first": 1, "protect_last": 1},
        "recovery": recovery,
        "dtype": "float32",
        "finetune": {"sequences": 8},
        **more,
    }
    return resolve("a", {**settings, **({} if rerank is None else {"rerank": rerank})})


def rigged():
    """Block 3 adds the same vector to every token, block 4 adds a little of everything.

    A bias before the gap gives back all that block 3 did, and next to nothing of block 4.
    """
    model = tiny.model("gpt2")
    block = model.block(3)
    for module in (block.attn.c_proj, block.mlp.c_proj):
        module.weight.data.zero_()
    block.mlp.c_proj.bias.data.normal_(0, 1.0, generator=torch.Generator().manual_seed(0))
    for module in (model.block(4).attn.c_proj, model.block(4).mlp.c_proj):
        module.weight.data *= 0.6
    return model


@pytest.mark.parametrize("by", ["cosine", "loss"])
def test_what_recovers_best_goes_though_another_scores_lower(by):
    model = rigged()
    words = tiny.own_words(model, 8, 16)
    plain = recipe({"method": "additive_bias"})
    tried = recipe({"method": "additive_bias"}, {**TRIAL, "candidates": 3, "by": by})
    scores = score_step(model, plain, words)
    order = sorted(scores.units, key=lambda row: row.score)
    assert [row.index for row in order][:2] == [4, 3]

    without, _ = fuse_step(rigged(), plain, scores, words)
    record, report = fuse_step(model, tried, scores, words)

    assert without.unit.index == 4
    assert record.unit.index == 3 and model.removed == [Unit("block", 3)]
    assert record.score == order[1].score and record.next_score == order[0].score
    found = record.rerank
    results = {trial.unit.index: trial.result for trial in found.candidates}
    assert list(results) == [row.index for row in order[:3]]
    assert found.chosen == Unit("block", 3) and results[3] == min(results.values())
    assert results[3] < results[4] and found.by == by
    assert record.tokens == report.tokens + found.tokens
    assert record.flops > report.flops


def test_a_trial_whose_result_is_no_number_is_named(monkeypatch):
    """Among numbers the smallest is chosen; of NaN it would depend on the order."""
    model, words = rigged(), tiny.ids(8, 10)
    chosen = recipe({"method": "additive_bias"}, {**TRIAL, "candidates": 2})
    scores = score_step(model, chosen, words)
    monkeypatch.setattr(rerank_module, "_turn", lambda *given: float("nan"))
    with pytest.raises(NumericsError, match="rerank: the trial of block 4 comes to nan by cosine"):
        fuse_step(model, chosen, scores, words)


@pytest.mark.parametrize("fold", [slow("each_step"), "at_end"])
def test_one_candidate_is_no_reranking_to_the_last_bit(fold):
    recovery = {**FUSION, "fold": fold}
    states = []
    for rerank in (None, {**TRIAL, "candidates": 1}):
        model = tiny.model("llama")
        steps = prune(model, recipe(recovery, rerank), 2, tiny.ids(4, 10), tiny.ids(8, 10))
        states.append(model.module.state_dict())
        assert not any("rerank" in step.to_json() for step in steps)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("fold", [slow("each_step"), "at_end"])
def test_trials_leave_no_trace_in_the_model(fold):
    """The step after the trials is that of the chosen unit, to the last bit."""
    tried = recipe({**FUSION, "fold": fold}, {**TRIAL, "candidates": 3})
    plain = recipe({**FUSION, "fold": fold})
    model, other = tiny.model("llama"), tiny.model("llama")
    for _ in range(2):
        scores = score_step(model, tried, tiny.ids(4, 10))
        record, _ = fuse_step(model, tried, scores, tiny.ids(8, 10))
        fuse_step(other, plain, scores.plus(selected=record.unit), tiny.ids(8, 10))
        assert len(record.rerank.candidates) == 3
    ours, theirs = model.module.state_dict(), other.module.state_dict()
    assert model.removed == other.removed
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_finished_trials_are_read_back(tmp_path, monkeypatch):
    tried = recipe(FUSION, {**TRIAL, "candidates": 3})
    windows, calls = tiny.ids(8, 10), []
    whole = tiny.model("llama")
    scores = score_step(whole, tried, windows)
    expected, _ = fuse_step(whole, tried, scores, windows)
    real = rerank_module._try

    def dies_in_the_third(*arguments):
        calls.append(arguments[2].index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments).plus(seconds=100.0)

    monkeypatch.setattr(rerank_module, "_try", dies_in_the_third)
    checkpoint = Checkpoint(tmp_path / "resume.safetensors", "one")
    with pytest.raises(KeyboardInterrupt):
        fuse_step(tiny.model("llama"), tried, scores, windows, checkpoint=checkpoint)
    assert len(read_json(tmp_path / "trials.json")["trials"]) == 2
    again = tiny.model("llama")
    record, _ = fuse_step(again, tried, scores, windows, checkpoint=checkpoint)
    assert len(calls) == 4 and calls[2] == calls[3]
    assert record.rerank.chosen == expected.rerank.chosen
    assert 200 < record.seconds < 300  # of the two that were read back, and what this run took
    pairs = zip(again.module.parameters(), whole.module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    calls.clear()
    other = Checkpoint(tmp_path / "resume.safetensors", "another")
    with pytest.raises(KeyboardInterrupt):
        fuse_step(tiny.model("llama"), tried, scores, windows, checkpoint=other)
    assert len(calls) == 3
    rerank_module.forget(other)
    assert not list(tmp_path.glob("trials.json"))


def test_a_recipe_without_reranking_is_what_it_was():
    plain = recipe(FUSION)
    assert "rerank" not in plain.to_json()
    assert recipe(FUSION, {**TRIAL, "candidates": 2}).id != plain.id
    assert load_recipe("fusegpt_reranked").rerank.candidates == 8
    assert (
        resolve("a", {**plain_settings(), "rerank": None}).id == resolve("a", plain_settings()).id
    )


def plain_settings():
    return {"importance": {"metric": "random"}, "recovery": {"method": "fusion"}}


def test_an_experiments_settings_go_to_the_recipes_that_rerank():
    over = {"rerank": {"candidates": 3}}
    assert load_recipe("fusegpt_reranked", over).rerank.candidates == 3
    assert load_recipe("fusegpt", over).rerank is None
    assert load_recipe("fusegpt", own=over).rerank.candidates == 3
    with pytest.raises(ConfigError, match=r"fusegpt.rerank: unknown setting 'candidate'; did you"):
        load_recipe("fusegpt", {"rerank": {"candidate": 3}})


def test_trials_need_their_own_windows():
    tried = recipe(FUSION, {**TRIAL, "candidates": 3})
    model = tiny.model("llama")
    scores = score_step(model, tried, tiny.ids(4, 10))
    with pytest.raises(DataError, match="6 sequences, but rerank needs 4 to try and 4 to judge on"):
        fuse_step(model, tried, scores, tiny.ids(6, 10))
    assert model.removed == []
