"""Blocks that compute with another block's weights: chosen, adapted, stored once."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal

import pytest
import torch

from fusegpt.data.window_files import write_windows
from fusegpt.errors import ArchitectureError, ConfigError
from fusegpt.importance.block_influence import block_influence
from fusegpt.models.checkpoints.load import load
from fusegpt.models.flops import forward_flops
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.recipe import load_recipe
from fusegpt.pruning.slicing import slice_model
from fusegpt.recovery import fit
from fusegpt.results.models import read_checkpoint
from fusegpt.sharing.flexigpt import _look, closest, flexigpt, left_behind
from fusegpt.sharing.foldgpt import foldgpt
from fusegpt.sharing.modeling import SharedLinear, linear_layers
from fusegpt.sharing.settings import FlexiGpt, FoldGpt
from fusegpt.units import Unit
from tests import tiny
from tests.fresh import loads_after
from tests.planned import refused
from tests.sharing.conftest import write

UNTUNED = FlexiGpt(rank=4, epochs=0)
EXACT = FlexiGpt(rank=32, epochs=0)


def shared_blocks(model):
    return [i for i, block in enumerate(model.blocks) if "up" in dict(_leaves(block))]


def _leaves(block):
    return ((name.rpartition(".")[2], value) for name, value in block.named_parameters())


def test_the_blocks_of_least_influence_are_replaced(batches):
    scores = block_influence(tiny.model(), batches, tiny.model().units())
    model, record = flexigpt(tiny.model(), batches, "0.3", UNTUNED, seed=0)
    assert sorted(map(int, record["shared"])) == sorted(scores.argsort()[:2].tolist())
    assert not set(record["shared"].values()) & set(map(int, record["shared"]))
    assert model.kept == [0, 1, 2, 3, 4, 5]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama_tied", "qwen2", "gpt_neox"])
def test_an_adapter_of_full_rank_gives_the_dense_model(family, batches):
    dense = tiny.model(family).module(batches[0]).logits
    model, _ = flexigpt(tiny.model(family), batches, "0.3", EXACT, seed=0)
    torch.testing.assert_close(model.module(batches[0]).logits, dense, rtol=1e-4, atol=1e-4)


def test_the_source_is_the_block_with_the_least_left_behind_the_rank():
    model = tiny.model()
    near, far = model.block(1), model.block(3)
    for name, module in linear_layers(model.block(5)):
        own = module.weight
        draw = torch.Generator().manual_seed(len(name))
        left, right = (torch.randn(n, 3, generator=draw) for n in own.shape)
        near.get_submodule(name).weight.copy_(own + left @ right.T)  # far, but of rank 3
        far.get_submodule(name).weight.copy_(own + 0.1 * torch.randn(own.shape, generator=draw))
    assert closest(model, [5], 3) == {5: 1}
    assert closest(model, [5], 1) == {5: 3}


def test_what_a_rank_leaves_is_what_the_singular_values_behind_it_say():
    one, other = (torch.randn(40, 60, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    sizes = torch.linalg.svdvals((one - other).double()).square()
    for rank in (1, 8, 39):
        assert left_behind(one, other, rank) == pytest.approx(sizes[rank:].sum().item(), rel=0.03)
    assert left_behind(one, other, 40) == 0


@torch.no_grad()
def test_the_adapter_is_the_best_of_its_rank_and_the_scale_gives_the_spread_back(batches):
    model, dense = tiny.model(), tiny.model()
    model, record = flexigpt(model, batches, "0.1", UNTUNED, seed=0)
    ((index, source),) = ((int(i), j) for i, j in record["shared"].items())
    own, base = (dense.block(i).mlp.down_proj.weight for i in (index, source))
    shared = model.block(index).mlp.down_proj
    assert isinstance(shared, SharedLinear)
    left, sizes, right = torch.linalg.svd((own - base).double())
    best = left[:, :4] * sizes[:4] @ right[:4]
    torch.testing.assert_close((shared.up @ shared.down).double(), best, rtol=1e-4, atol=1e-5)
    seen = []
    dense.block(index).mlp.down_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    for batch in batches:
        dense.module(batch)
    inputs = torch.cat([x.flatten(0, 1) for x in seen]).double()
    spread = (inputs @ own.double().T).std(0), (inputs @ (base.double() + best).T).std(0)
    torch.testing.assert_close(shared.scale.double(), spread[0] / spread[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tuning_brings_the_states_nearer_and_leaves_the_source_alone(batches):
    dense = tiny.model()
    wanted, distances = dense.module(batches[0], output_hidden_states=True).hidden_states[-1], []
    for settings in (UNTUNED, FlexiGpt(rank=4, epochs=8, learning_rate=3e-3)):
        model, record = flexigpt(tiny.model(), batches, "0.1", settings, seed=0)
        out = model.module(batches[0], output_hidden_states=True).hidden_states[-1]
        distances.append((out - wanted).square().mean().item())
        (source,) = record["shared"].values()
        for name, value in dense.block(source).named_parameters():
            assert torch.equal(model.block(source).get_parameter(name), value)
    assert distances[1] < distances[0]


@torch.no_grad()
def test_expanded_it_is_the_familys_own_model_and_computes_the_same(batches):
    compact, _ = flexigpt(tiny.model(), batches, "0.3", UNTUNED, seed=0)
    settings = FlexiGpt(rank=4, epochs=0, stored="expanded")
    expanded, record = flexigpt(tiny.model(), batches, "0.3", settings, seed=0)
    assert type(expanded.module).__name__ == "LlamaForCausalLM" and record["needs"] is None
    assert expanded.module.num_parameters() == tiny.model().module.num_parameters()
    assert compact.module.num_parameters() < expanded.module.num_parameters()
    logits = [model.module(batches[0]).logits for model in (compact, expanded)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_no_block_of_a_shared_model_can_go(batches):
    model, _ = flexigpt(tiny.model(), batches, "0.3", UNTUNED, seed=0)
    with pytest.raises(ArchitectureError, match="compute with each other's weights"):
        remove(model, Unit("block", 0))


def test_what_tuning_took_is_on_record_and_sharing_saves_no_arithmetic(batches):
    settings = FlexiGpt(rank=4, epochs=2)
    model, record = flexigpt(tiny.model(), batches, "0.3", settings, seed=0)
    assert record["spent"]["optimizer_steps"] == 2 * 2 * len(batches)
    assert record["spent"]["tokens"] == 2 * 2 * sum(batch.numel() for batch in batches)
    assert record["trainings"] == 2 and not {"undone"} & {*record, *record["spent"]}
    dense, adapters = (
        tiny.model(),
        sum(
            parameter.numel()
            for block in model.blocks
            for name, parameter in block.named_parameters()
            if name.endswith((".up", ".down"))
        ),
    )
    wanted = forward_flops(dense, dense.kept, 24, 12) + 2 * 24 * adapters
    assert forward_flops(model, model.kept, 24, 12) == wanted


@pytest.mark.parametrize(("method", "trainings"), [("flexigpt", 2), ("foldgpt", 1)])
def test_a_tuning_that_was_undone_is_counted_on_the_card(
    method, trainings, tiny_llama_dir, tmp_path, caplog, monkeypatch
):
    caplog.set_level("INFO", "fusegpt")
    rising = itertools.count()
    monkeypatch.setattr(fit, "total_loss", lambda *_: float(next(rising)))
    write_windows(tmp_path / "w.parquet", tiny.ids(4, 12).numpy(), {})
    recipe = load_recipe(method, {"width": {"rank": 4, "epochs": 2}, "dtype": "float32"})
    given = (recipe, Decimal("0.3"), tmp_path / "w.parquet", tmp_path / "out")

    slice_model(tiny_llama_dir, *given)

    record = read_checkpoint(tmp_path / "out/fusegpt.json")
    assert (record.trainings, record.undone) == (trainings, trainings)
    card = (tmp_path / "out/README.md").read_text()
    assert f"undone because their loss rose: {trainings} of {trainings}\n" in card
    assert len([line for line in caplog.messages if line.endswith(" (undone)")]) == trainings


def test_what_cannot_be_shared_is_refused(batches):
    with pytest.raises(ConfigError, match=r"0\.9 of 6 blocks leaves none"):
        flexigpt(tiny.model(), batches, "0.9", UNTUNED, seed=0)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("gpt2", r"attn\.c_attn\.weight of block 0 is in no linear layer"),
        ("mixtral", r"mlp\.gate\.weight of block 0 is in no linear layer"),
        ("phimoe", r"mlp\.experts\.gate_up_proj of block 0 is in no linear layer"),
        ("mamba", r"mixer\.dt_proj of block 0 is never called with this text"),
    ],
)
@pytest.mark.parametrize("method", [flexigpt, foldgpt])
def test_matrices_that_no_layer_of_another_block_can_stand_for_are_refused(
    method, family, why, batches
):
    untuned = UNTUNED if method is flexigpt else FoldGpt(epochs=0)
    with pytest.raises(ArchitectureError, match=why):
        method(tiny.model(family), batches, "0.3", untuned, seed=0)


@pytest.mark.parametrize("method", [flexigpt, foldgpt])
def test_an_image_text_model_has_no_compact_form(method, batches):
    untuned = UNTUNED if method is flexigpt else FoldGpt(epochs=0)
    with pytest.raises(ArchitectureError, match=r"^Llava.* give --set width\.stored=expanded"):
        method(tiny.model("llava"), batches, "0.3", untuned, seed=0)


def test_a_block_is_taught_on_the_states_that_shared_blocks_before_it_give(batches, monkeypatch):
    entered = {}

    def noted(model, place, batch):
        entered[place] = _look(model, place, batch).entering
        return _look(model, place, batch)

    monkeypatch.setattr("fusegpt.sharing.flexigpt._look", noted)
    model, record = flexigpt(tiny.model(), batches[:1], "0.3", UNTUNED, seed=0)
    last = max(map(int, record["shared"]))
    assert torch.equal(entered[last], record_states(model, batches[0], last))
    assert not torch.allclose(entered[last], record_states(tiny.model(), batches[0], last))


def record_states(model, batch, place):
    with torch.no_grad():
        return model.module(batch, output_hidden_states=True).hidden_states[place]


@pytest.fixture(scope="module")
def written(tiny_llama_dir, tmp_path_factory):
    return write("flexigpt", "0.3", tiny_llama_dir, tmp_path_factory.mktemp("flexigpt"))


def test_a_compact_checkpoint_says_what_it_is_and_stores_each_matrix_once(written, tiny_llama_dir):
    notes = json.loads((written / "fusegpt.json").read_text())
    model, dense = load(written, dtype="float32"), load(tiny_llama_dir, dtype="float32")
    assert len(notes["shared"]) == 2 and notes["kept"] == [0, 1, 2, 3, 4, 5]
    assert shared_blocks(model) == sorted(map(int, notes["shared"]))
    assert notes["parameters"] == model.module.num_parameters() < dense.module.num_parameters()
    sizes = [(place / "model.safetensors").stat().st_size for place in (written, tiny_llama_dir)]
    assert sizes[0] < sizes[1]
    card = (written / "README.md").read_text()
    assert "2 of 6 blocks compute with the weights of another" in card
    assert "import fusegpt.sharing.modeling\nfrom transformers" in card


@pytest.mark.slow
def test_plain_transformers_loads_it_after_one_import(written):
    loads_after("import fusegpt.sharing.modeling", written)


def test_streamed_weights_are_refused_in_one_line(written, tmp_path):
    flags = ("--eval", "perplexity", "--set", "corpus=python_docs", "--set", "length=16")
    flags += ("--set", "windows=1", "--weights", "streamed", "--output", tmp_path / "p.json")
    assert "give --weights resident" in refused("evaluate", "--model", written, *flags)
