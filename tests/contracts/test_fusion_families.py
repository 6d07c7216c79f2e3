"""One step of FuseGPT on every architecture: score, fuse, fold, save, reload."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fusegpt.errors import ArchitectureError
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import save
from fusegpt.models.model import Model
from fusegpt.models.structure.reached import reached
from fusegpt.models.surgery.removal import skip
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.settings.group import Fusion
from fusegpt.runtime import quiet
from fusegpt.units import Unit
from tests import tiny
from tests.quick import each

WINDOWS = tiny.ids(4, 8)
SETTINGS = {
    "group_size": 3,
    "rank": 2,
    "lora_rank": 2,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "coefficient_learning_rate": 1e-2,
}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, e.g. about slow kernels
        yield


def selected(model: Model) -> Unit:
    """The least important unit, among those that text reaches and the config lets go."""
    seen = reached(model, WINDOWS)
    units = [unit for unit in model.units() if unit.index in seen and removable(model, unit)]
    scores = macro_influence(model, [WINDOWS], units)
    assert torch.isfinite(scores).all() and (scores > 0).all()
    return units[int(scores.argmin())]


def removable(model: Model, unit: Unit) -> bool:
    try:
        with skip(model, [unit]):
            return True
    except ArchitectureError:
        return False


def composed(model: Model, donor: torch.nn.Module) -> dict[str, Tensor]:
    """Every fused weight by its name in the module, put together here from its parts."""
    names = {id(p): name for name, p in model.module.named_parameters()}
    found = {}
    for name, weight in model.fused.items():
        state = weight.state()
        value = weight.base.double()
        for key in ["update", *(f"coefficients.{key}" for key in weight.donors)]:
            left, right = state.get(f"{key}.left"), state.get(f"{key}.right")
            term = (
                state[f"{key}.scale"].double() if left is None else left.double() @ right.double()
            )
            if key != "update":
                term = term * donor.get_parameter(name.split(".", 2)[2]).double()
            value = value + term
        found[names[id(model.parameter(name))]] = value.float()
    return found


def logits(model: Model) -> Tensor:
    return model.module(tiny.ids(), use_cache=False).logits


@pytest.mark.parametrize(
    "family", each(tiny.FAMILIES, quick=("llama", "gpt2", "gpt_neox", "deepseek_v3", "mllama"))
)
def test_a_step_scores_fuses_folds_saves_and_reloads(family, tmp_path):
    open_ended, folded = tiny.model(family), tiny.model(family)
    unit = selected(open_ended)
    donor = copy.deepcopy(open_ended.block(unit.index))
    dense = {index: copy.deepcopy(open_ended.block(index)) for index in open_ended.kept}

    report = fusion(open_ended, unit, WINDOWS, Fusion(fold="at_end", **SETTINGS), seed=0)
    fusion(folded, unit, WINDOWS, Fusion(fold="each_step", **SETTINGS), seed=0)

    assert open_ended.removed == [unit] and len(open_ended.kept) == 5
    assert report.rows and all(row["loss"] >= 0 for row in report.rows)
    assert set(open_ended.fused) == set(report.changed) and not folded.fused
    moved = [
        name
        for name in report.changed
        if not torch.equal(
            open_ended.parameter(name),
            dense[int(name.split(".")[1])].get_parameter(name.split(".", 2)[2]),
        )
    ]
    assert moved
    assert any(weight.donors for weight in open_ended.fused.values())

    # folding: logits through weights put together from base, update, coefficients and donor
    parts = composed(open_ended, donor)
    unfolded = functional_call(
        open_ended.module, parts, (tiny.ids(),), {"use_cache": False}, tie_weights=False
    ).logits
    assert torch.allclose(logits(folded), unfolded, atol=1e-4, rtol=1e-3)
    one, other = open_ended.module.state_dict(), folded.module.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)

    save(folded, tmp_path / "pruned", extra={})
    again = load(tmp_path / "pruned", dtype="float32")
    assert again.kept == folded.kept and again.removed == [unit]
    assert torch.equal(logits(again), logits(folded))


def test_a_donor_of_another_kind_lends_what_matches_and_the_log_says_so_once(caplog):
    model = tiny.model("qwen3_next")  # linear, linear, full attention, twice
    with caplog.at_level("INFO", logger="fusegpt.recovery.fusion"):
        fusion(model, Unit("block", 5), WINDOWS, Fusion(fold="at_end", **SETTINGS), seed=0)

    alone = [name for name, weight in model.fused.items() if not weight.donors]
    assert {name.split(".")[1] for name in alone} == {"3", "4"}  # linear attention
    assert all(".linear_attn." in name for name in alone)
    assert all(model.fused[name].donors for name in model.fused if ".mlp." in name)
    assert model.fused["blocks.2.self_attn.q_proj.weight"].donors
    (line,) = [record.message for record in caplog.records if "counterpart" in record.message]
    assert line.startswith(f"fusion of block 5: {len(alone)} of {len(model.fused)} weights")


@pytest.mark.parametrize("family", ["mamba", "bamba", "lfm2", "granitemoehybrid", "qwen3_next"])
def test_convolutions_and_rates_of_recurrences_are_not_fused(family):
    model = tiny.model(family)
    for index in model.kept:
        fused = {**model.matrices(index), **model.biases(index)}
        assert not any("conv1d" in name or name.endswith(("A_log", ".D")) for name in fused)
        assert any(p.dim() >= 2 for p in fused.values())
    rest = set().union(*(model.norms(index) for index in model.kept))
    assert any("conv" in name for name in rest)


def test_blocks_that_text_passes_over_stay_as_they_are(caplog):
    model = tiny.model("mllama")  # blocks 2 and 5 look at images
    before = copy.deepcopy(model.block(2).state_dict())
    assert reached(model, WINDOWS) == {0, 1, 3, 4}

    with caplog.at_level("INFO", logger="fusegpt.recovery.tuning"):
        report = fusion(model, Unit("block", 1), WINDOWS, Fusion(**SETTINGS), seed=0)

    assert 2 in report.group and not any(n.startswith("blocks.2.") for n in report.changed)
    assert all(torch.equal(model.block(2).state_dict()[name], before[name]) for name in before)
    assert "do not run through blocks 2; they stay as they are" in caplog.text


def test_a_group_of_blocks_that_text_passes_over_is_refused():
    with pytest.raises(ArchitectureError, match=r"the data run through none of blocks \[2\]"):
        fusion(
            tiny.model("mllama"),
            Unit("block", 3),
            WINDOWS,
            Fusion(**SETTINGS | {"group_size": 1}),
            seed=0,
        )
