from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from fusegpt.errors import ArchitectureError
from fusegpt.importance.block_influence import block_influence
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.model import Model
from fusegpt.models.structure.calls import Call, same_calls, share_calls
from fusegpt.models.structure.replay import head_logits, record, run_blocks
from fusegpt.models.structure.visits import traced
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def test_recording_stops_before_the_next_block_and_leaves_no_hooks():
    model = tiny.model()
    ran = []
    handles = [
        b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(model.blocks)
    ]
    handles.append(model.module.lm_head.register_forward_hook(lambda *_: ran.append("head")))
    record(model, tiny.ids(), 1, 3)
    assert ran == [0, 1, 2, 3]

    for handle in handles:
        handle.remove()
    for block in model.blocks:
        assert not block._forward_hooks and not block._forward_pre_hooks


def test_calls_hold_no_hidden_states():
    model = tiny.model()
    recording = record(model, tiny.ids())
    entered = weakref.ref(recording.hidden_in)
    calls = recording.calls
    del recording
    gc.collect()
    assert entered() is None
    assert [call.hidden_key for call in calls] == [0] * 6


def test_positions_count_living_blocks():
    model = tiny.model()
    remove(model, Unit("block", 2))
    recording = record(model, tiny.ids(), 2, 4)
    replayed = run_blocks(model.blocks[2:5], recording.calls, recording.hidden_in)
    assert len(recording.calls) == 3
    assert torch.equal(replayed, recording.hidden_out)


def test_images_reach_the_decoder():
    model = tiny.model("llava")
    tokens = tiny.ids()
    tokens[:, 2:6] = tiny.IMAGE_TOKEN  # 16x16 pixels in patches of 8
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens, "pixel_values": images}
    seen = record(model, batch)
    blank = record(model, {**batch, "pixel_values": images * 0})

    assert not torch.allclose(seen.hidden_in, blank.hidden_in)
    logits = model.module(**batch).logits
    assert torch.equal(head_logits(model, batch, seen.hidden_out), logits)


def test_a_block_the_model_passes_over_passes_on_its_input():
    model = tiny.model("mllama")  # block 2 is for images, and there is none
    recording = record(model, tiny.ids(), 1, 3)
    assert [call.hidden_key is None for call in recording.calls] == [False, True, False]
    alone = record(model, tiny.ids(), 2, 2 + 1)
    assert torch.equal(
        run_blocks(model.blocks[2:4], alone.calls, alone.hidden_in), alone.hidden_out
    )
    with pytest.raises(ArchitectureError, match=r"block 2 to .*block 2 never ran"):
        record(model, tiny.ids(), 2, 2)


def test_a_model_that_works_between_its_blocks_is_refused():
    model = tiny.model()

    handle = model.blocks[3].register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
    with pytest.raises(ArchitectureError, match="block 3 does not read what the block before"):
        record(model, tiny.ids())
    handle.remove()


def test_a_block_that_runs_twice_is_refused():
    model = tiny.model()
    model.block_list[3] = model.block_list[2]
    with pytest.raises(ArchitectureError, match="runs twice"):
        record(model, tiny.ids())


def test_hidden_states_may_come_as_a_keyword():
    class Block(nn.Module):
        def forward(self, *, hidden_states, scale):
            return (hidden_states * scale, None)

    call = Call((), {"hidden_states": None, "scale": 3}, "hidden_states")
    assert torch.equal(call.run(Block(), torch.ones(2)), torch.full((2,), 3.0))


def test_equal_batches_share_their_masks():
    model = tiny.model("gemma3_text")
    one, two = (record(model, tiny.ids(seed=seed)).calls for seed in (0, 1))
    longer = record(model, tiny.ids(seq=14)).calls
    assert same_calls(one, two)
    assert share_calls(two, one) is one
    assert share_calls(one, None) is one
    assert not same_calls(one, longer)
    assert share_calls(longer, one) is longer


def test_calls_that_differ_in_a_mask_are_not_shared():
    model = tiny.model()
    mask = torch.ones_like(tiny.ids())
    one = record(model, {"input_ids": tiny.ids(), "attention_mask": mask}).calls
    mask[0, :3] = 0
    two = record(model, {"input_ids": tiny.ids(), "attention_mask": mask}).calls
    assert not same_calls(one, two)


@pytest.mark.parametrize("family", ["llama", "mpt", "gpt_neo"])
def test_the_heads_logits_follow_the_hidden_states(family):
    model = tiny.model(family)
    with torch.enable_grad():
        hidden = record(model, tiny.ids()).hidden_out.detach().requires_grad_(True)
        head_logits(model, tiny.ids(), hidden).square().sum().backward()
    assert hidden.grad.abs().sum() > 0
    before = model.blocks
    assert all(type(block) is type(before[0]) for block in model.blocks)


SPARSE = {
    **tiny.MODERN,
    **tiny.DEEPSEEK,
    "index_topk": 2,
    "index_n_heads": 2,
    "index_head_dim": 8,
}


def sparse(*kinds: str) -> Model:
    """A model some of whose blocks attend to the tokens that the block before chose."""
    return Model.dense(
        tiny.from_class("GlmMoeDsaForCausalLM", {**SPARSE, "indexer_types": [*kinds] * 3})
    )


def test_blocks_that_get_more_than_hidden_states_are_not_run_alone():
    model = sparse("full", "shared")
    whole = record(model, tiny.ids())
    assert [call.fed for call in whole.calls] == [(), *[("prev_topk_indices",)] * 5]

    with pytest.raises(ArchitectureError, match="blocks get more from each other"):
        run_blocks(model.blocks, whole.calls, whole.hidden_in)
    with pytest.raises(ArchitectureError, match="blocks get more from each other"):
        macro_influence(model, [tiny.ids()], model.units())
    with pytest.raises(ArchitectureError, match="blocks get more from each other"):
        traced(model, tiny.ids())
    assert block_influence(model, [tiny.ids()], model.units()).isfinite().all()


def test_blocks_that_ignore_what_the_one_before_found_are_run_alone():
    model = sparse("full", "full")
    whole = record(model, tiny.ids(), 2, 4)
    assert all(call.fed for call in whole.calls)
    assert torch.equal(
        run_blocks(model.blocks[2:5], whole.calls, whole.hidden_in), whole.hidden_out
    )
