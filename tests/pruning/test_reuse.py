"""Scorings that go on from the hidden states of the one before: the same bits, fewer passes."""

from __future__ import annotations

import pytest
import torch

from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.structure import kept_states
from fusegpt.models.structure.passes import counting_passes
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning import loop
from fusegpt.pruning.loop import prune
from fusegpt.pruning.recipe import resolve
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.group import neighbours
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow

WINDOWS = tiny.ids(4, 10)
TUNED = {"method": "finetune", "epochs": 1, "batch_size": 4, "group_size": 2}
SLEB_ORDER = [14, 23, 11, 24, 10, 27, 15]
"""Published removals from LLaMA-2-7B."""


def recipe(metric="macro_influence", recovery=None, protect_first=0, protect_last=0, **more):
    importance = {"metric": metric, "protect_first": protect_first, "protect_last": protect_last}
    sections = {"importance": importance, "recovery": recovery or {"method": "none"}}
    more |= {"dtype": "float32", "calibration": {"batch_size": 2}}
    return resolve("by_hand", sections | more)


def scored(family, reuse, chosen, count):
    model = tiny.model(family)
    steps = prune(model, chosen, count, WINDOWS, WINDOWS, reuse=reuse)
    scores = [(step.gone, step.scores.units) for step in steps]
    return scores, model.module.state_dict()


@pytest.fixture
def starts(monkeypatch):
    """The blocks that scorings began with."""
    found = []
    begin = kept_states.KeptStates.begin

    def noted(self, *given):
        begin(self, *given)
        found.append(self.start)

    monkeypatch.setattr(kept_states.KeptStates, "begin", noted)
    return found


@pytest.mark.parametrize(
    "metric, more",
    [
        ("macro_influence", {"recovery": TUNED}),
        slow("sleb", {}),
        ("perplexity", {"granularity": "mixed"}),
        slow("macro_influence", {"granularity": "attention", "recovery": TUNED}),
    ],
)
def test_scores_and_weights_are_those_of_scorings_from_the_first_block(metric, more, starts):
    chosen = recipe(metric, **more)
    one = scored("llama", "auto", chosen, 3)
    assert any(starts), "nothing was gone on from"
    other = scored("llama", "never", chosen, 3)
    assert one[0] == other[0]
    assert all(torch.equal(one[1][name], value) for name, value in other[1].items())


@pytest.mark.parametrize("family", [slow(name) for name in tiny.FAMILIES])
def test_so_are_those_of_every_family(family):
    chosen = recipe(protect_last=2 if family == "gemma4_text" else 0)  # its last kinds stay
    one, other = (scored(family, reuse, chosen, 3)[0] for reuse in ("auto", "never"))
    assert one == other


@pytest.mark.parametrize("method", [slow(name) for name in RECOVERIES])
def test_so_are_those_after_every_recovery(method, starts):
    known = RECOVERIES[method].schema.model_fields
    small = {"lora_rank": 2, "rank": 2, **{k: v for k, v in TUNED.items() if k != "method"}}
    recovery = {"method": method, **{k: v for k, v in small.items() if k in known}}
    chosen = recipe(recovery=recovery, protect_first=1)  # some fold into the block before
    one, other = (scored("llama", reuse, chosen, 3) for reuse in ("auto", "never"))
    assert any(starts)
    assert one[0] == other[0]
    assert all(torch.equal(one[1][name], value) for name, value in other[1].items())


def test_where_the_last_block_went_the_next_scoring_begins_with_the_new_last_one():
    kept = kept_states.keeps(model := tiny.model("llama"), WINDOWS.numel(), WINDOWS, model.units())
    for index, start in ((5, 0), (4, 4)):
        kept.begin(model, 1, model.units())
        assert kept.start == start
        found = macro_influence(model, [WINDOWS], model.units(), kept_states=kept)
        assert torch.equal(found, macro_influence(model, [WINDOWS], model.units()))
        kept.cut(model.position(index))
        remove(model, Unit("block", index))


def test_states_behind_a_unit_that_goes_are_not_held_while_it_is_recovered(monkeypatch):
    kept, held = [], []
    make, fuse = loop._kept_states, loop.fuse_step

    def noting(model, chosen, scores, *rest, **more):
        first = min(model.position(unit.index) for unit in scores.chosen)
        held.append(max(kept[0]._known, default=0) <= first < len(model.kept) - 1)
        return fuse(model, chosen, scores, *rest, **more)

    monkeypatch.setattr(loop, "_kept_states", lambda *given: kept.append(make(*given)) or kept[0])
    monkeypatch.setattr(loop, "fuse_step", noting)
    prune(tiny.model("llama"), recipe(protect_last=1), 2, WINDOWS)
    assert held == [True, True]


def test_states_of_blocks_that_changed_are_forgotten():
    kept = kept_states.KeptStates(2, torch.device("cpu"))
    for place in range(1, 7):
        kept.put(place, 0, (), torch.zeros(1))
    model = tiny.model("llama", num_hidden_layers=7)
    kept.begin(model, 1, [])
    assert kept.start == 6
    kept.cut(5)
    kept.begin(model, 1, [])
    assert kept.start == 4
    kept.begin(model, 2, [])  # nothing is known of a second batch
    assert kept.start == 0


@pytest.mark.parametrize("share, spacing", [(1, 1), (0.6, 2), (0.3, 4), (0.1, None)])
def test_states_are_kept_at_fewer_blocks_where_memory_is_short(share, spacing, monkeypatch):
    model = tiny.model("llama")
    whole = 15 + 5  # streams and references that enter blocks 1 to 5
    needed = whole * WINDOWS.numel() * tiny.HIDDEN * 4
    free = share * needed / kept_states.SHARE
    monkeypatch.setattr(kept_states, "free_bytes", lambda device: free)
    kept = kept_states.keeps(model, WINDOWS.numel(), WINDOWS, model.units())
    assert (kept and kept.spacing) == spacing


@pytest.mark.parametrize("spacing, passes", [(1, 2749), (4, 2884)])
def test_eight_scorings_of_32_blocks_make_2_2_times_fewer_passes(spacing, passes, monkeypatch):
    """The published order, the published group of seven counted as changed; blocks add 1."""
    monkeypatch.setattr(kept_states, "SPACINGS", (spacing,))
    model = tiny.model("llama", num_hidden_layers=32)
    for block in model.blocks:
        block.forward = lambda hidden_states, **_: hidden_states + 1
    ids = tiny.ids(1, 3)
    kept = kept_states.keeps(model, ids.numel(), ids, model.units())
    plain = done = 0
    for index in [*SLEB_ORDER, 12]:
        plain += len(model.kept) ** 2
        kept.begin(model, 1, model.units())
        with counting_passes(model, "scoring", None) as pace:
            macro_influence(model, [ids], model.units(), kept_states=kept)
        n = len(model.kept)
        assert pace.done == n * (n + 1) // 2 - kept.spared(model, model.units())
        done += pace.done
        changed = [index, *neighbours(model.kept, index, 7)]
        place = model.position(min(changed))
        remove(model, Unit("block", index))
        kept.cut(place)
    assert done == passes
    assert plain / done > 2.2
