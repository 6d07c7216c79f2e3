"""Maps and biases in closed form, against numpy on states seen by plain hooks."""

import copy
import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from fusegpt.errors import ArchitectureError, ConfigError, DataError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.surgery.biases import give_bias
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.recipe import resolve
from fusegpt.recovery import closed_form
from fusegpt.recovery.additive_bias import additive_bias
from fusegpt.recovery.closed_form import fold, moments, ridge_map
from fusegpt.recovery.gap import find_gap
from fusegpt.recovery.least_squares import least_squares
from fusegpt.recovery.low_rank import low_rank, truncate
from fusegpt.recovery.magnitude import magnitude
from fusegpt.recovery.settings.maps import AdditiveBias, LeastSquares, LowRank, Magnitude
from fusegpt.units import Unit
from fusegpt.work import forward_rule, head_rule
from tests import tiny

UNIT = Unit("block", 2)
DOWN = "blocks.1.mlp.down_proj.weight"


@pytest.fixture
def windows():
    return tiny.ids(16, 12, seed=3)


@pytest.fixture
def always_folds(monkeypatch):
    """Random models gain nothing on held-out text; take the fit all the same."""
    losses = iter([1.0, 0.0] * 9)
    monkeypatch.setattr(closed_form, "next_token_loss", lambda *_: next(losses))


def states(module, windows, blocks, projection="mlp.down_proj"):
    """A: the projection's output in the first block. R: what the other blocks add after it."""
    seen = {}
    layers = module.model.layers
    handles = [
        layers[blocks[0]]
        .get_submodule(projection)
        .register_forward_hook(lambda _, args, output: seen.update(added=output)),
        layers[blocks[0]].register_forward_hook(lambda _, args, output: seen.update(before=output)),
        layers[blocks[-1]].register_forward_hook(lambda _, args, output: seen.update(after=output)),
    ]
    with torch.no_grad():
        module(windows)
    for handle in handles:
        handle.remove()
    width = seen["added"].shape[-1]
    missing = seen["after"] - seen["before"]
    return seen["added"].reshape(-1, width).numpy(), missing.reshape(-1, width).numpy()


def by_numpy(added, missing, ridge):
    """Ridge by least squares on rows stacked below: no normal equations."""
    level = ridge * (added**2).sum(0).mean()
    width = added.shape[1]
    rows = np.vstack([added, np.sqrt(level) * np.eye(width)])
    return np.linalg.lstsq(rows, np.vstack([missing, np.zeros((width, width))]), rcond=None)[0]


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_least_squares_equals_numpys(ridge, windows, always_folds):
    model = tiny.model("llama", dtype=torch.float64)
    added, missing = states(model.module, windows[:12], (1, 2))
    change = by_numpy(added, missing, ridge)
    weight = model.parameter(DOWN).clone()
    report = least_squares(model, UNIT, windows, LeastSquares(ridge=ridge, clip=0), seed=0)
    expected = weight + torch.from_numpy(change.T) @ weight
    torch.testing.assert_close(model.parameter(DOWN), expected, rtol=1e-7, atol=1e-8)
    assert report.changed == [DOWN] and report.rows[-1]["folded"] and not report.undone


def test_a_fitted_map_does_what_the_block_did_better_than_nothing(windows):
    model = tiny.model("llama", dtype=torch.float64)
    gap = find_gap(model, [UNIT], windows, "current", "x")
    change = ridge_map(moments(gap, windows, 0), 1e-3).numpy()
    added, missing = states(model.module, windows, (1, 2))
    assert ((added @ change - missing) ** 2).sum() < 0.9 * (missing**2).sum()


@pytest.mark.parametrize("family", ["gpt2", "granite", "llama"])
def test_the_folded_matrix_adds_the_mapped_output(family, windows):
    model = tiny.model(family, dtype=torch.float64)
    gap = find_gap(model, [UNIT], windows, "current", "x")
    change = torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    width = gap.projection.weight.shape[0 if gap.projection.transposed else 1]
    inputs = torch.randn(5, width, dtype=torch.float64)
    if gap.projection.bias is not None:
        gap.projection.bias.normal_()
    before = gap.projection.module(inputs)
    for name, value in fold(model, gap, change).items():
        model.parameter(name).copy_(value)
    expected = before + before @ change
    torch.testing.assert_close(gap.projection.module(inputs), expected, rtol=1e-9, atol=1e-9)
    assert gap.projection.factor == pytest.approx(0.5 if family == "granite" else 1.0)


@pytest.mark.parametrize("rank", [1, 5, 32])
def test_low_rank_equals_numpys_ridge_cut_by_its_singular_values(rank, windows, always_folds):
    model = tiny.model("llama", dtype=torch.float64)
    added, missing = states(model.module, windows[:12], (1, 2))
    left, values, right = np.linalg.svd(by_numpy(added, missing, 0.1))
    change = (left[:, :rank] * values[:rank]) @ right[:rank]
    weight = model.parameter(DOWN).clone()
    low_rank(model, UNIT, windows, LowRank(rank=rank, ridge=0.1, clip=0), seed=0)
    expected = weight + torch.from_numpy(change.T) @ weight
    torch.testing.assert_close(model.parameter(DOWN), expected, rtol=1e-7, atol=1e-8)
    assert torch.linalg.matrix_rank(truncate(torch.from_numpy(change), rank)) == rank


def test_a_learned_map_starts_from_plain_removal_and_lowers_its_loss(windows):
    model = tiny.model("llama", dtype=torch.float64)
    _, missing = states(model.module, windows, (1, 2))
    settings = {"fit": "learned", "rank": 4, "batch_size": 16, "epochs": 9, "learning_rate": 1e-2}
    report = low_rank(model, UNIT, windows, LowRank(**settings), seed=0)
    assert report.rows[0]["loss"] == pytest.approx((missing**2).mean(), rel=1e-9)
    assert report.rows[-1]["loss"] < report.rows[0]["loss"]
    assert report.trainable_parameters == 2 * 32 * 4
    assert report.changed == [DOWN]


def test_a_run_of_blocks_is_emulated_by_one_map(windows, always_folds):
    model = tiny.model("llama", dtype=torch.float64)
    added, missing = states(model.module, windows[:12], (1, 2, 3))
    weight = model.parameter(DOWN).clone()
    run = [Unit("block", 3), UNIT]
    least_squares(model, run, windows, LeastSquares(ridge=0.1, clip=0), seed=0)
    expected = weight + torch.from_numpy(by_numpy(added, missing, 0.1).T) @ weight
    torch.testing.assert_close(model.parameter(DOWN), expected, rtol=1e-7, atol=1e-8)
    assert model.kept == [0, 1, 4, 5]


def test_the_original_teacher_maps_the_whole_gap_anew(windows, always_folds, tmp_path):
    tiny.model("llama").module.save_pretrained(tmp_path)
    model = load(tmp_path, dtype="float64")
    whole = copy.deepcopy(model)
    for index in (3, 2):
        settings = {"teacher": "original", "ridge": 0.1}
        least_squares(model, Unit("block", index), windows, LeastSquares(**settings), seed=0)
    least_squares(whole, [UNIT, Unit("block", 3)], windows, LeastSquares(ridge=0.1), seed=0)
    found, expected = model.parameter(DOWN), whole.parameter(DOWN)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_one_huge_token_does_not_decide_a_clipped_fit(windows):
    model = tiny.model("llama", dtype=torch.float64)
    gap = find_gap(model, [UNIT], windows, "current", "x")
    plain = ridge_map(moments(gap, windows, 5.0), 0.1)
    model.module.model.embed_tokens.weight[windows[0, 0]] *= 1e4
    samples = closed_form._samples
    added, missing = next(iter(samples(gap, windows)))
    assert missing.norm(dim=1).max() >= 0 and added.shape == missing.shape
    spoiled = [(added.clone(), missing.clone())]
    spoiled[0][1][0] *= 1e6
    try:
        closed_form._samples = lambda *_: iter(spoiled)
        clipped = ridge_map(moments(gap, windows, 5.0), 0.1)
        open_ended = ridge_map(moments(gap, windows, 0), 0.1)
    finally:
        closed_form._samples = samples
    assert clipped.norm() < 10 * plain.norm() < open_ended.norm()


def test_a_fit_that_does_not_help_is_not_folded(windows):
    model = tiny.model("llama")
    weight = model.parameter(DOWN).clone()
    report = least_squares(model, UNIT, windows, LeastSquares(ridge=0.0, clip=0), seed=0)
    first, last = report.rows
    assert not last["folded"] and last["fitted_loss"] > first["loss"] == last["loss"]
    assert report.undone
    assert torch.equal(model.parameter(DOWN), weight)


def test_a_bias_adds_the_mean_update_and_loads_in_plain_transformers(
    windows, always_folds, tmp_path
):
    model = tiny.model("llama", dtype=torch.float64)
    _, missing = states(model.module, windows[:12], (1, 2))
    report = additive_bias(model, UNIT, windows, AdditiveBias(clip=0), seed=0)
    bias = model.parameter("blocks.1.mlp.down_proj.bias")
    np.testing.assert_allclose(bias.numpy(), missing.mean(0), rtol=1e-9)
    assert report.changed == ["blocks.1.mlp.down_proj.bias"] and model.module.config.mlp_bias
    model.module.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(again(windows).logits, model.module(windows).logits)


def test_a_learned_bias_approaches_the_mean_update(windows):
    model = tiny.model("gpt2", dtype=torch.float64)
    reference = copy.deepcopy(model)
    gap = find_gap(reference, [UNIT], windows, "current", "x")
    mean = moments(gap, windows, 0).update
    start = model.parameter("blocks.1.mlp.c_proj.bias").clone()
    settings = {"fit": "learned", "epochs": 60, "batch_size": 16, "learning_rate": 0.05}
    report = additive_bias(model, UNIT, windows, AdditiveBias(**settings), seed=0)
    moved = model.parameter("blocks.1.mlp.c_proj.bias") - start
    assert (moved - mean).norm() < 0.1 * mean.norm()
    assert report.rows[-1]["loss"] < report.rows[0]["loss"]


def test_new_biases_change_no_logit():
    model = tiny.model("llama")
    before = model.module(tiny.ids()).logits
    give_bias(model, "blocks.1.mlp.down_proj.bias")
    assert torch.equal(model.module(tiny.ids()).logits, before)
    remove(model, UNIT)  # the config followed: the config round-trip check holds


def test_a_model_whose_config_has_no_such_bias_is_refused(windows):
    model = tiny.model("qwen3")
    with pytest.raises(ArchitectureError, match=r"layers.1.mlp.down_proj.bias does not exist"):
        additive_bias(model, UNIT, windows, seed=0)
    assert model.module.config.attention_bias is False and len(model.kept) == 6


@pytest.mark.parametrize("family", ["gemma2", "mixtral"])
def test_blocks_without_a_matrix_before_the_gap_are_refused(family, windows):
    model = tiny.model(family)
    with pytest.raises(ArchitectureError, match="no matrix that writes straight"):
        least_squares(model, UNIT, windows, seed=0)


def test_what_cannot_work_is_refused_before_anything_runs(windows):
    settings = {"importance": {"metric": "macro_influence"}, "recovery": {"method": "low_rank"}}
    with pytest.raises(ConfigError, match=r"protect_first: must be at least 1, got 0; low_rank"):
        resolve("mine", settings)
    settings["importance"]["protect_first"] = 1
    with pytest.raises(ConfigError, match="sequences: must be at least 2"):
        resolve("mine", {**settings, "recovery": {"method": "least_squares"}},
                {"finetune": {"sequences": 1}})  # fmt: skip
    with pytest.raises(ArchitectureError, match="no block before block 0"):
        least_squares(tiny.model("llama"), Unit("block", 0), windows, seed=0)
    with pytest.raises(DataError, match="must have 2 sequences"):
        least_squares(tiny.model("llama"), UNIT, windows[:1], seed=0)
    with pytest.raises(ArchitectureError, match="must follow each other"):
        least_squares(tiny.model("llama"), [UNIT, Unit("block", 4)], windows, seed=0)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (least_squares, LeastSquares()),
        (least_squares, LeastSquares(clip=0.0)),
        (magnitude, Magnitude(scale="channel")),
    ],
)
def test_the_flops_are_those_of_the_passes_and_of_the_logits_that_are_compared(
    method, settings, windows
):
    model, tokens = tiny.model("llama"), Counter()
    for part in (*model.blocks, model.module.lm_head):
        part.register_forward_hook(
            lambda module, _, out: tokens.update({type(module): out.shape[:2].numel()})
        )
    values = sum(p.numel() for p in model.matrices(0).values())
    report = method(model, UNIT, windows, settings, seed=0)
    expected = forward_rule(values, 32, tokens[type(model.block(0))], 12)
    expected += head_rule(128, 32, tokens[torch.nn.Linear])
    assert report.flops == pytest.approx(expected, rel=0.1)  # finding the gap runs a few tokens


def test_the_count_of_flops_grows_with_the_depth_of_the_gap(windows):
    model = tiny.model("llama")
    gap = find_gap(model, [UNIT], windows, "current", "x")
    deeper = dataclasses.replace(gap, last=4)
    assert deeper.flops(windows) == pytest.approx(gap.flops(windows) * 5 / 3)
