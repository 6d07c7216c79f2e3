"""Rotation changes nothing, slicing is what a computation by hand says, components are the best."""

from __future__ import annotations

import pytest
import torch

from fusegpt.errors import ArchitectureError, ConfigError, NumericsError
from fusegpt.models.surgery.removal import Unit, remove
from fusegpt.models.surgery.round_trip import check_round_trip
from fusegpt.slicegpt.rotation import basis
from fusegpt.slicegpt.rotation import slicegpt as slice_it
from fusegpt.slicegpt.settings import SliceGpt
from tests import tiny
from tests.quick import slow
from tests.slicegpt import naive

FAMILIES = {
    "llama": 1e-6,
    "llama_tied": 1e-6,
    "mistral_swa": 1e-6,
    "qwen2_swa": 1e-6,
    "qwen3": 1e-6,
    "phi3": 1e-6,
    "phi": 1e-12,
    "opt": 1e-12,
}
"""How far logits may move; the RMSNorm of transformers rounds to float32 whatever the dtype."""

CALIBRATION = [tiny.ids(4, 16, seed=1), tiny.ids(2, 16, seed=2)]


def slicegpt(model, batches, sparsity, settings=SliceGpt(), seed=0):
    return slice_it(model, batches, sparsity, settings, seed=seed)


def model(family: str, **changes):
    """In float64, with scales and biases that are not one and zero."""
    made = tiny.model(family, dtype=torch.float64, **changes)
    generator = torch.Generator().manual_seed(3)
    for parameter in made.module.parameters():
        if parameter.dim() == 1:
            parameter.copy_(0.5 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def far(one, two) -> float:
    return ((one - two).abs().max() / two.abs().max()).item()


@pytest.mark.parametrize("signal", ["residual", slow("normed")])
@pytest.mark.parametrize("family", FAMILIES)
def test_rotating_without_slicing_changes_no_logit(family, signal):
    dense = model(family)
    expected = dense.module(tiny.ids()).logits

    rotated, record = slicegpt(dense, CALIBRATION, 0, SliceGpt(signal=signal))

    assert far(rotated.module(tiny.ids()).logits, expected) < FAMILIES[family]
    assert record["width"] == record["head_width"] == tiny.HIDDEN
    assert min(record["kept_energy"].values()) == pytest.approx(1)


@pytest.mark.parametrize("slice_head", [False, True])
@pytest.mark.parametrize(("family", "most"), [("opt", 1e-9), ("llama", 1e-5)])
def test_slicing_is_a_projection_of_every_signal(family, most, slice_head):
    dense = model(family)
    whole = torch.cat(CALIBRATION)
    expected = naive.logits(dense.module, tiny.ids(2, 16), whole, 24, slice_head=slice_head)
    unsliced = dense.module(tiny.ids(2, 16)).logits

    sliced, record = slicegpt(dense, CALIBRATION, 0.25, SliceGpt(slice_head=slice_head))

    got = sliced.module(tiny.ids(2, 16)).logits
    assert far(got, expected) < most
    assert far(got, unsliced) > 0.01
    assert record["width"] == 24 and record["head_width"] == (24 if slice_head else 32)


@pytest.mark.parametrize("family", ["llama", slow("phi"), slow("opt")])
def test_orientation_and_batches_change_nothing(family):
    logits = [
        slicegpt(model(family), batches, 0.25, settings, seed)[0].module(tiny.ids()).logits
        for batches, settings, seed in (
            (CALIBRATION, SliceGpt(), 0),
            (CALIBRATION, SliceGpt(orientation="pca"), 0),
            (CALIBRATION, SliceGpt(), 1),
            (list(torch.cat(CALIBRATION).split(1)), SliceGpt(), 0),
        )
    ]
    assert all(far(other, logits[0]) < 1e-6 for other in logits[1:])


def test_no_other_basis_keeps_more_of_a_signal():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(20, 20, dtype=torch.float64, generator=generator)
    signal = torch.randn(3, 50, 20, dtype=torch.float64, generator=generator) @ mixing

    found, share = basis([signal[:2], signal[2:]], 8)

    def kept(columns):
        return ((signal @ columns).square().sum() / signal.square().sum()).item()

    assert kept(found) == pytest.approx(share)
    assert torch.allclose(found.T @ found, torch.eye(8, dtype=torch.float64))
    for _ in range(50):
        random = torch.randn(20, 8, dtype=torch.float64, generator=generator)
        assert kept(torch.linalg.qr(random)[0]) < share


def test_components_lose_less_than_random_directions(monkeypatch):
    dense = model("llama").module(tiny.ids()).logits
    by_components = slicegpt(model("llama"), CALIBRATION, 0.25)[0].module(tiny.ids()).logits
    generator = torch.Generator().manual_seed(0)

    def random(signals, width, name):
        columns = torch.randn(signals[0].shape[-1], width, dtype=torch.float64, generator=generator)
        return torch.linalg.qr(columns)[0], 0.0

    monkeypatch.setattr("fusegpt.slicegpt.rotation.basis", random)
    at_random = slicegpt(model("llama"), CALIBRATION, 0.25)[0].module(tiny.ids()).logits

    assert (by_components - dense).square().mean() < 0.7 * (at_random - dense).square().mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sliced_model_is_what_its_config_says_and_generates_with_a_cache(family):
    sliced, _ = slicegpt(tiny.model(family), CALIBRATION, 0.25)
    ids = tiny.ids(2, 8)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}

    cached, uncached = (
        sliced.module.generate(
            ids, attention_mask=torch.ones_like(ids), use_cache=use_cache, **options
        )
        for use_cache in (True, False)
    )

    assert torch.equal(cached, uncached) and cached.shape == (2, 14)
    check_round_trip(sliced.module)
    states = sliced.module(ids, output_hidden_states=True).hidden_states
    assert [state.shape[-1] for state in states] == [24] * 6 + [32]
    assert not any(parameter.requires_grad for parameter in sliced.module.parameters())


def test_no_block_of_a_sliced_model_can_go():
    sliced, _ = slicegpt(tiny.model("llama"), CALIBRATION, 0.25)

    with pytest.raises(ArchitectureError, match="remove blocks first, slice then"):
        remove(sliced, Unit("block", 2))

    assert sliced.kept == [0, 1, 2, 3, 4, 5]


def test_blocks_removed_before_keep_their_numbers():
    dense = tiny.model("llama")
    remove(dense, Unit("block", 2))

    sliced, _ = slicegpt(dense, CALIBRATION, 0.25)

    assert sliced.kept == [0, 1, 3, 4, 5] and sliced.num_blocks == 6
    assert sliced.module(tiny.ids()).logits.isfinite().all()


def test_bad_input_is_one_line():
    with pytest.raises(ArchitectureError, match="GPT2LMHeadModel: slicegpt cannot slice 'gpt2'"):
        slicegpt(tiny.model("gpt2"), CALIBRATION, 0.25)
    with pytest.raises(ConfigError, match="leaves nothing that is a multiple of 8"):
        slicegpt(tiny.model("llama"), CALIBRATION, 0.9)
    broken = tiny.model("llama")
    broken.matrices(3)["mlp.down_proj.weight"][0, 0] = float("nan")
    with pytest.raises(NumericsError, match="the signal of block 3 output is NaN or infinite"):
        slicegpt(broken, CALIBRATION, 0.25)
