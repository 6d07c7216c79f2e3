"""Blocks that share all matrices with the one before: chosen, tuned, stored once."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
import torch

from fusegpt.errors import ArchitectureError, ConfigError
from fusegpt.importance.gates import gates
from fusegpt.models.checkpoints.load import load
from fusegpt.models.flops import forward_flops
from fusegpt.models.model import Model
from fusegpt.sharing.foldgpt import _closed, children, foldgpt
from fusegpt.sharing.settings import FoldGpt
from tests import tiny
from tests.fresh import loads_after
from tests.sharing.conftest import write

SHARED = FoldGpt(removed=0, epochs=0)
TUNED = FoldGpt(removed=0, epochs=6, rank=4, learning_rate=3e-3)


def by_hand(model: Model, shared: dict[str, int]):
    """The family's own model, with the matrices and biases of shared blocks copied over."""
    module = model.module
    values = module.state_dict()
    for index, source in shared.items():
        for name in values:
            own, at = f".{index}.", name.find(f"layers.{index}.")
            if at >= 0 and "norm" not in name:
                values[name] = values[name.replace(own, f".{source}.", 1)]
    module.load_state_dict(values)
    return module


@pytest.mark.parametrize("group_size", [2, 3, 7])
def test_the_shared_blocks_are_those_of_least_influence_that_fit_into_groups(group_size):
    influence = torch.rand(7, generator=torch.Generator().manual_seed(group_size)).tolist()

    def fits(places):
        runs = "".join("x" if place in places else " " for place in range(7)).split()
        return 0 not in places and max(map(len, runs)) < group_size

    for count in (1, 2, 3):
        allowed = [places for places in combinations(range(7), count) if fits(places)]
        best = min(allowed, key=lambda places: sum(influence[place] for place in places))
        assert children(influence, count, group_size) == list(best)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama_tied", "qwen2"])
def test_a_shared_block_computes_with_the_sources_matrices_and_its_own_norms(family, batches):
    model, record = foldgpt(tiny.model(family), batches, "0.5", SHARED, seed=0)
    assert len(record["shared"]) == 3 and model.kept == [0, 1, 2, 3, 4, 5]
    wanted = by_hand(tiny.model(family), record["shared"])
    for batch in batches:
        torch.testing.assert_close(model.module(batch).logits, wanted(batch).logits)


def test_groups_longer_than_two_share_the_first_blocks_weights(batches):
    settings = FoldGpt(removed=0, epochs=0, group_size=6)
    _, record = foldgpt(tiny.model(), batches, "0.7", settings, seed=0)
    assert len(record["shared"]) == 5 and set(record["shared"].values()) == {0}


def test_a_part_of_the_blocks_goes_by_the_gates():
    model, batches = tiny.model(), [tiny.ids(1, 6, seed=3)]
    order = gates(model, batches, model.units()).argsort(stable=True).tolist()
    found, record = foldgpt(tiny.model(), batches, "0.5", FoldGpt(epochs=0), seed=0)
    assert [unit.index for unit in found.removed] == order[:1]
    assert len(found.kept) == 5 and len(record["shared"]) == 2
    assert not {order[0]} & {*map(int, record["shared"]), *record["shared"].values()}


def test_parameters_fall_by_the_matrices_of_shared_blocks(batches):
    model, record = foldgpt(tiny.model(), batches, "0.3", SHARED, seed=0)
    dense = tiny.model()
    matrices = sum(p.numel() for p in dense.matrices(0).values())
    saved = dense.module.num_parameters() - model.module.num_parameters()
    assert saved == len(record["shared"]) * matrices


def test_a_shared_matrix_gets_the_gradients_of_all_its_blocks(batches):
    settings = FoldGpt(removed=0, epochs=0, group_size=3)
    model, record = foldgpt(tiny.model(), batches, "0.6", settings, seed=0)
    apart = Model.dense(by_hand(tiny.model(), record["shared"]))
    for source in set(record["shared"].values()):
        group = [source, *(int(i) for i, j in record["shared"].items() if j == source)]
        matrices = [apart.block(index).mlp.up_proj.weight for index in group]
        shared = model.block(source).mlp.up_proj.weight
        for module, weights in ((model.module, [shared]), (apart.module, matrices)):
            for weight in weights:
                weight.requires_grad_(True)
            module(batches[0]).logits.square().mean().backward()
        wanted = torch.stack([weight.grad for weight in matrices]).sum(0)
        torch.testing.assert_close(shared.grad, wanted)


@torch.no_grad()
def test_tuning_teaches_the_last_states_and_touches_nothing_outside_the_groups(batches):
    dense, distances = tiny.model(), []
    wanted = dense.module(batches[0], output_hidden_states=True).hidden_states
    for settings in (SHARED, TUNED):
        model, record = foldgpt(tiny.model(), batches, "0.3", settings, seed=0)
        out = model.module(batches[0], output_hidden_states=True).hidden_states
        distances.append((out[-1] - wanted[-1]).square().mean().item())
    assert distances[1] < 0.9 * distances[0]
    group = {*map(int, record["shared"]), *record["shared"].values()}
    for index in set(model.kept) - group:
        for name, value in dense.block(index).named_parameters():
            assert torch.equal(model.block(index).get_parameter(name), value)
    (child, source) = next((int(i), j) for i, j in record["shared"].items())
    for index in (child, source):
        name = "input_layernorm.weight"
        own = model.block(index).get_parameter(name)
        assert not torch.equal(own, dense.block(index).get_parameter(name))


@torch.no_grad()
def test_expanded_it_is_the_familys_own_model_and_computes_the_same(batches):
    compact, _ = foldgpt(tiny.model(), batches, "0.5", TUNED, seed=0)
    settings = TUNED.model_copy(update={"stored": "expanded"})
    expanded, record = foldgpt(tiny.model(), batches, "0.5", settings, seed=0)
    assert type(expanded.module).__name__ == "LlamaForCausalLM" and record["needs"] is None
    assert expanded.module.num_parameters() == tiny.model().module.num_parameters()
    torch.testing.assert_close(
        compact.module(batches[0]).logits, expanded.module(batches[0]).logits
    )
    for index, source in record["shared"].items():
        one, other = (expanded.block(i).mlp.up_proj.weight for i in (int(index), source))
        assert torch.equal(one, other) and one is not other


def test_what_tuning_took_is_on_record_and_sharing_saves_no_arithmetic(batches):
    model, record = foldgpt(tiny.model(), batches, "0.3", TUNED, seed=0)
    assert record["spent"]["optimizer_steps"] == 6 * len(batches)
    assert record["trainings"] == 1 and "undone" not in record
    assert record["spent"]["tokens"] == 6 * sum(batch.numel() for batch in batches)
    assert record["spent"]["flops"] > forward_flops(model, model.kept, 6 * 48, 12)
    dense = tiny.model()
    assert forward_flops(model, model.kept, 24, 12) == forward_flops(dense, dense.kept, 24, 12)


def test_what_cannot_be_shared_is_refused(batches):
    with pytest.raises(ConfigError, match=r"4 of 6 blocks .* groups of 2 have room for 3"):
        foldgpt(tiny.model(), batches, "0.6", SHARED, seed=0)
    with pytest.raises(ArchitectureError, match="no linear layers of equal shapes"):
        foldgpt(tiny.model("qwen3_5"), batches, "0.5", SHARED, seed=0)


def test_the_part_that_goes_is_rounded_down_in_decimals():
    assert FoldGpt(removed=0.58).counts(100, "0.5") == (29, 21)  # 0.58 * 50 is below 29 in floats


def test_the_last_block_of_a_kind_stays(batches, monkeypatch):
    def closing(model, batches, units):  # full attention first, which blocks 1 and 3 have
        return torch.tensor([5.0, 0.0, 4.0, 1.0, 3.0, 2.0])

    monkeypatch.setattr("fusegpt.sharing.foldgpt.gates", closing)
    settings = FoldGpt(removed=0.7, epochs=0)
    found, _ = foldgpt(tiny.model("gemma3_text"), batches, "0.6", settings, seed=0)
    assert [unit.index for unit in found.removed] == [1, 5]
    with pytest.raises(ArchitectureError, match="5 blocks: at most 4 can go, as the last one of"):
        _closed(tiny.model("gemma3_text"), batches, 5)


@pytest.fixture(scope="module")
def written(tiny_llama_dir, tmp_path_factory):
    return write("foldgpt", "0.5", tiny_llama_dir, tmp_path_factory.mktemp("foldgpt"))


def test_a_compact_checkpoint_says_what_went_and_what_is_shared(written, tiny_llama_dir):
    notes = json.loads((written / "fusegpt.json").read_text())
    model, dense = load(written, dtype="float32"), load(tiny_llama_dir, dtype="float32")
    assert len(notes["shared"]) == 2 and len(notes["kept"]) == 5 and len(notes["removed"]) == 1
    assert model.kept == notes["kept"]
    assert notes["parameters"] == model.module.num_parameters() < dense.module.num_parameters()
    sizes = [(place / "model.safetensors").stat().st_size for place in (written, tiny_llama_dir)]
    assert sizes[0] < 0.7 * sizes[1]
    card = (written / "README.md").read_text()
    assert "1 of 6 blocks is gone, and 2 compute with the weights of another" in card
    assert "import fusegpt.sharing.modeling\nfrom transformers" in card


@pytest.mark.slow
def test_plain_transformers_loads_it_after_one_import(written):
    loads_after("import fusegpt.sharing.modeling", written)
