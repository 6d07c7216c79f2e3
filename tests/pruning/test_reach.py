"""What a model cannot do for a recipe is said before anything is scored or trained."""

import pytest
import torch

from fusegpt.errors import ArchitectureError, ConfigError
from fusegpt.importance import METRICS
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model
from fusegpt.pruning.loop import prune
from fusegpt.pruning.reach import check_reach
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.scoring import score_step
from tests import tiny


def recipe(importance, recovery=None, **more):
    settings = {"importance": importance, "recovery": recovery or {"method": "none"}, **more}
    return resolve("a", {"dtype": "float32", "finetune": {"sequences": 8}, **settings})


@pytest.mark.parametrize("selection", ["iterative", "one_shot", "contiguous"])
def test_protected_blocks_bound_the_removals_and_the_bound_is_reached(selection):
    chosen = recipe(
        {"metric": "block_influence", "protect_first": 2, "protect_last": 1}, selection=selection
    )
    check_reach(chosen, 6, 3, "here")
    model = tiny.model("llama")
    prune(model, chosen, 3, tiny.ids(2, 8))
    assert model.kept == [0, 1, 5]
    message = (
        r"here: 4 of 6 blocks are to go, but recipe 'a' protects the first 2 blocks and the last 1,"
    )
    with pytest.raises(ConfigError, match=message):
        check_reach(chosen, 6, 4, "here")
    with pytest.raises(ConfigError, match=r"leave none of 3 blocks|a run of 4 blocks must fit"):
        prune(tiny.model("llama"), chosen, 4, tiny.ids(2, 8))


def test_further_blocks_stay_by_their_numbers_in_the_dense_model():
    chosen = recipe({"metric": "last_blocks", "protect_last": 1, "protect": [0, "3-4"]})
    model = tiny.model("llama")

    prune(model, chosen, 2, tiny.ids(2, 8))

    assert model.kept == [0, 3, 4, 5]
    check_reach(chosen, 6, 2, "here")
    with pytest.raises(ConfigError, match=r"first 0 blocks and the last 1 and 0, 3, 4, which leav"):
        check_reach(chosen, 6, 3, "here")
    with pytest.raises(ConfigError, match=r"protect_last 1, protect \[0, 3, 4\] leave none of 4"):
        prune(model, chosen, 1, tiny.ids(2, 8))
    far = recipe({"metric": "last_blocks", "protect": ["5-6"]})
    for refuse in (
        lambda: check_reach(far, 6, 1, ""),
        lambda: prune(model, far, 1, tiny.ids(2, 8)),
    ):
        with pytest.raises(
            ConfigError, match="protect: must hold numbers of the model's blocks, 0"
        ):
            refuse()


def test_a_protected_block_keeps_its_attention_and_its_mlp():
    with pytest.raises(ConfigError, match="must hold blocks, whose sublayers stay with them, got"):
        recipe({"metric": "last_blocks", "protect": ["mlp 3"]})
    chosen = recipe({"metric": "last_blocks", "protect": ["1-5"]}, granularity="mixed")
    model = tiny.model("llama")
    prune(model, chosen, 2, tiny.ids(2, 8))
    assert {unit.index for unit in model.removed} == {0}


def test_what_is_protected_by_default_leaves_no_trace_in_ids():
    plain, more = (recipe({"metric": "random", "protect": x}) for x in ([], [1]))
    assert "protect" not in plain.to_json()["importance"]
    assert more.to_json()["importance"]["protect"] == [1] and plain.id != more.id


def test_drawn_sub_networks_that_cannot_tell_units_apart_are_refused():
    drawn = {"metric": "shapley", "subnetworks": "sampled"}

    def reach(count, sequences=1, **settings):
        data = {"sequences": sequences, "length": 8}
        check_reach(recipe({**drawn, **settings}, calibration=data), 6, count, "here")

    reach(3, samples=2)
    with pytest.raises(
        ConfigError, match=r"0.2 of the units, which is none of 4; raise importance"
    ):
        reach(3, kept=0.2, samples=9)
    with pytest.raises(ConfigError, match=r"1 of them do not do without each of 6 units once; rai"):
        reach(1, samples=1)
    reach(1, samples=1, sequences=2)


@pytest.mark.parametrize(
    ("family", "recovery", "message"),
    [
        ("gemma2", {"method": "least_squares"}, "no matrix that writes straight"),
        ("mixtral", {"method": "low_rank"}, "no matrix that writes straight"),
        ("gemma2", {"method": "magnitude", "scale": "channel"}, "no matrix that writes straight"),
        ("gemma2", {"method": "magnitude"}, "does not shrink"),
    ],
)
def test_a_model_that_nothing_folds_into_is_refused_before_it_is_scored(
    family, recovery, message, monkeypatch
):
    monkeypatch.setattr(type(METRICS["macro_influence"]), "load", lambda _: pytest.fail("scored"))
    model = tiny.model(family)
    chosen = recipe({"metric": "macro_influence", "protect_first": 1}, recovery)
    with pytest.raises(ArchitectureError, match=message):
        score_step(model, chosen, tiny.ids(4, 8))
    assert len(model.kept) == 6


def test_a_bias_that_no_switch_adds_is_missed_before_scoring(tmp_path):
    """The check asks a model without weights; the model itself gains nothing."""
    for family, refused in (("mistral_swa", True), ("llama", False), ("gpt2", False)):
        directory = tmp_path / family
        tiny.build(family).save_pretrained(directory)
        model = load(directory, dtype="float32")
        names = dict(model.module.named_parameters()).keys()
        chosen = recipe({"metric": "random", "protect_first": 1}, {"method": "additive_bias"})
        if refused:
            with pytest.raises(ArchitectureError, match="does not exist and no switch of the conf"):
                score_step(model, chosen, tiny.ids(4, 8))
        else:
            score_step(model, chosen, tiny.ids(4, 8))
        assert dict(model.module.named_parameters()).keys() == names


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "phi"])
@pytest.mark.parametrize("method", ["least_squares", "magnitude"])
def test_asking_changes_no_weight(family, method):
    model: Model = tiny.model(family)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    score_step(
        model, recipe({"metric": "random", "protect_first": 1}, {"method": method}), tiny.ids(4, 8)
    )
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
