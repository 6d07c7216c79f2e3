"""Blocks that are read when they run: the same bits, and each weight read as often as it must."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from fusegpt.errors import ArchitectureError
from fusegpt.evaluation.perplexity import window_losses
from fusegpt.importance.block_influence import block_influence
from fusegpt.importance.drawn import Shapley
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.importance.shapley import shapley
from fusegpt.importance.sleb import sleb
from fusegpt.models.checkpoints.chain import rest_on
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import write_delta
from fusegpt.models.stored import stored_in
from fusegpt.models.structure.calls import same_calls
from fusegpt.models.structure.replay import record
from fusegpt.models.structure.visits import calls_of, recordings, visits
from fusegpt.models.surgery.removal import remove
from fusegpt.runtime import quiet
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow

BATCHES = [tiny.ids(2, 12, seed=seed) for seed in range(3)]
STATE = 2 * 12 * tiny.HIDDEN * 4
"""Bytes of the hidden states of one of these batches."""


@pytest.fixture(autouse=True)
def quietly():
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, e.g. about slow kernels
        yield


@pytest.fixture
def both(tmp_path):
    """A function that saves a family and loads it twice: resident, and streamed."""

    def load_both(family, dtype="float32"):
        tiny.build(family).save_pretrained(tmp_path)
        return load(tmp_path, dtype=dtype), load(tmp_path, dtype=dtype, weights="streamed")

    return load_both


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llama")
    tiny.build("llama").save_pretrained(directory)
    return directory


def block_bytes(directory):
    stored = stored_in([directory / "model.safetensors"])
    return sum(place.nbytes for name, place in stored.items() if ".layers." in name)


@pytest.mark.parametrize(
    "family, states",
    [
        ("llama", 0),
        *((name, 20) if name in tiny.REPRESENTATIVES else slow(name, 20) for name in tiny.FAMILIES),
        *(slow(name, 0) for name in tiny.FAMILIES if name != "llama"),
    ],
)
def test_scores_are_those_of_resident_weights_to_the_last_bit(family, states, both):
    resident, streamed = both(family)
    streamed.streamed.memory = states * STATE
    for metric in (macro_influence, sleb, block_influence):
        one, other = (metric(model, BATCHES, model.units()) for model in (resident, streamed))
        assert torch.equal(one, other), metric.__name__
    assert all(tensor.device.type == "meta" for tensor in streamed.blocks[0].parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sublayers_subsets_and_losses_of_windows_are_the_same(dtype, both):
    resident, streamed = both("llama", dtype)
    streamed.streamed.memory = 20 * STATE
    settings = Shapley(subnetworks="sampled", samples=8, kept=0.5, target="logits")
    for model in (resident, streamed):
        remove(model, Unit("block", 2))
    found = [
        (
            macro_influence(model, BATCHES, model.units("mixed")),
            block_influence(model, BATCHES, model.units("attention")),
            shapley(model, BATCHES, model.units(), settings, seed=1),
            window_losses(model, tiny.ids(5, 12), batch_size=2),
        )
        for model in (resident, streamed)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_recordings_are_those_of_one_batch_at_a_time(both):
    resident, streamed = both("gemma2")
    several = recordings(streamed, BATCHES, 1, 3, keep_states=True)
    for found, batch in zip(several, BATCHES, strict=True):
        plain = record(resident, batch, 1, 3, keep_states=True)
        assert torch.equal(found.hidden_in, plain.hidden_in)
        assert torch.equal(found.hidden_out, plain.hidden_out)
        assert all(map(torch.equal, found.states, plain.states))
        assert same_calls(found.calls, plain.calls)


@pytest.mark.parametrize("states, chunks", [(8 * 3, 1), (8 * 2, 2), (0, 3)])
def test_scoring_reads_the_blocks_once_for_each_chunk_of_batches(llama, states, chunks):
    model = load(llama, dtype="float32", weights="streamed")
    model.streamed.memory = states * STATE
    calls_of(model, BATCHES[0])  # which runs one block, to see what a block returns
    before = model.streamed.bytes_read
    macro_influence(model, BATCHES, model.units())
    assert model.streamed.bytes_read - before == chunks * block_bytes(llama)


def test_recording_reads_no_block_behind_the_last_one(llama):
    model = load(llama, dtype="float32", weights="streamed")
    calls_of(model, BATCHES[0])
    before = model.streamed.bytes_read
    list(recordings(model, BATCHES, 1, 2))
    assert model.streamed.bytes_read - before == block_bytes(llama) // 2


def test_blocks_that_are_held_are_read_once_and_stay(llama):
    model = load(llama, dtype="float32", weights="streamed")
    model.hold([1, 2])
    before, weight = model.streamed.bytes_read, model.parameter("blocks.1.mlp.up_proj.weight")
    plain = load(llama, dtype="float32").parameter("blocks.1.mlp.up_proj.weight")
    assert torch.equal(weight, plain)
    list(recordings(model, BATCHES, 1, 2))
    assert model.parameter("blocks.1.mlp.up_proj.weight") is weight
    assert model.streamed.bytes_read - before == block_bytes(llama) // 6  # block 0


def test_what_a_pass_that_broke_off_read_ahead_is_not_used_when_it_has_changed(llama, tmp_path):
    changed, model = load(llama, dtype="float32"), load(llama, dtype="float32", weights="streamed")
    name = "blocks.1.mlp.up_proj.weight"
    changed.parameter(name).zero_()
    write_delta(changed, tmp_path / "delta.safetensors", [name])
    passing = visits(model, BATCHES, 2)
    next(passing)
    passing.close()
    rest_on(model, [tmp_path / "delta.safetensors"])
    with model.present(1):
        assert not model.parameter(name).any()


def test_blocks_that_hand_each_other_more_than_hidden_states_are_refused(llama):
    model = load(llama, dtype="float32", weights="streamed")
    decoder = model.module.model

    def forward(input_ids, **_):
        hidden = decoder.embed_tokens(input_ids)
        places = torch.arange(input_ids.shape[1])[None]
        for layer in decoder.layers:
            turn = decoder.rotary_emb(hidden, position_ids=places)
            hidden = layer(hidden, position_embeddings=turn, seen=hidden.abs().mean())
        return BaseModelOutputWithPast(last_hidden_state=hidden)

    decoder.forward = forward
    with pytest.raises(ArchitectureError, match="more from each other than hidden states"):
        calls_of(model, BATCHES[0])


@pytest.mark.gpu
def test_on_a_gpu_blocks_that_are_copied_ahead_score_as_resident_ones(llama):
    scores = [
        macro_influence(model, BATCHES, model.units())
        for weights in ("resident", "streamed")
        for model in [load(llama, dtype="float32", device="cuda", weights=weights)]
    ]
    assert torch.equal(*scores)
