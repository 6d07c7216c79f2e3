"""Attentions and mlps taken out of every architecture that allows it: exact, cached, reloadable."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from fusegpt.errors import ArchitectureError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import save
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import bypass, find_branches
from fusegpt.models.surgery.removal import remove, skip
from fusegpt.runtime import quiet
from fusegpt.units import Unit
from tests import tiny
from tests.quick import each

GONE = [Unit("attention", 0), Unit("mlp", 1), Unit("attention", 4), Unit("mlp", 4)]
"""The first attention, of which caches are asked; one sublayer of a block; both of another one."""

ADDS_INSIDE = "a norm after the addition, or an addition inside a part"
REFUSED = {
    "opt_proj": ADDS_INSIDE,
    "openai_gpt": ADDS_INSIDE,
    "bloom": ADDS_INSIDE,
    "mpt": ADDS_INSIDE,
    "mamba": "it has no mlp",
    "falcon_mamba": "it has no mlp",
    "mllama": r"text does not run through blocks \[2, 5\]",
}
WITH_SUBLAYERS = [name for name in tiny.FAMILIES if name not in REFUSED]
UNCACHED_DIFFERS = {"paligemma"}
"""Here even the dense model generates otherwise without a cache: its prompt attends both ways."""


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, e.g. about slow kernels
        yield


def logits(module: torch.nn.Module) -> torch.Tensor:
    return module(tiny.ids(), use_cache=False).logits


def silenced(model: Model) -> torch.Tensor:
    """The logits when hooks turn what the sublayers add into zeros; they still compute."""
    handles = [
        model.block(unit.index)
        .get_submodule(name)
        .register_forward_hook(
            lambda _, args, out: (
                (out[0] * 0, *out[1:]) if isinstance(out, (tuple, list)) else out * 0
            )
        )
        for unit in GONE
        for name in find_branches(model, unit.index).sublayers[unit.kind].zero
    ]
    try:
        return logits(model.module)
    finally:
        for handle in handles:
            handle.remove()


def generated(model: Model, use_cache: bool) -> torch.Tensor:
    ids = tiny.ids()
    return model.module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=7,
        min_new_tokens=7,
        do_sample=False,
        use_cache=use_cache,
    )


@pytest.mark.parametrize(
    "family",
    each(WITH_SUBLAYERS, quick=("llama", "gpt_neox", "gemma3_text", "deepseek_v3", "llava")),
)
def test_removed_sublayers_add_nothing_here_and_wherever_the_checkpoint_is_read(family, tmp_path):
    model = tiny.model(family)
    dense, config = logits(model.module), model.module.config.to_json_string()
    expected = silenced(model)
    with bypass(model, GONE):
        assert torch.equal(logits(model.module), expected)
    with skip(model, GONE):
        assert torch.equal(logits(model.module), expected)
    assert torch.equal(logits(model.module), dense)
    assert model.module.config.to_json_string() == config

    weights = model.module.num_parameters()
    remove(model, *GONE)
    assert torch.equal(logits(model.module), expected)
    assert not torch.allclose(expected, dense, atol=1e-3)
    assert model.module.num_parameters() < weights
    assert (model.kept, model.removed, model.lacking) == ([0, 1, 2, 3, 4, 5], GONE, {*GONE})
    if family not in UNCACHED_DIFFERS:
        assert torch.equal(generated(model, True), generated(model, False))

    auto = AutoModelForImageTextToText if family in tiny.IMAGE_TEXT else AutoModelForCausalLM
    save(model, tmp_path / "cut", extra={})
    again = load(tmp_path / "cut", dtype="float32")
    assert (again.removed, again.lacking) == (model.removed, model.lacking)
    assert torch.equal(logits(again.module), expected)
    plain = auto.from_pretrained(tmp_path / "cut", dtype=torch.float32).eval()
    assert type(plain) is type(model.module) is type(again.module)
    assert torch.equal(logits(plain), expected)

    save(model, tmp_path / "zeros", extra={}, zeros=True)
    plain = auto.from_pretrained(tmp_path / "zeros", dtype=torch.float32).eval()
    assert type(plain).__module__.startswith("transformers.models.")
    assert plain.num_parameters() == weights
    assert torch.equal(logits(plain), expected)


@pytest.mark.parametrize("family", REFUSED)
def test_where_the_halves_do_not_just_add_only_whole_blocks_can_go(family):
    model = tiny.model(family)
    dense = logits(model.module)
    with pytest.raises(ArchitectureError, match=REFUSED[family]) as error:
        remove(model, *GONE)
    assert "only whole blocks can go" in str(error.value)
    assert torch.equal(logits(model.module), dense) and not model.removed


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_next"])
def test_every_attention_but_the_last_of_its_kind_can_go(family):
    model = tiny.model(family)
    kinds = getattr(model.text_config, "layer_types", None) or ["only"] * 6
    last = {kind: max(i for i in range(6) if kinds[i] == kind) for kind in kinds}
    gone = [Unit("attention", i) for i in range(6) if i not in last.values()]
    remove(model, *gone)
    assert torch.equal(generated(model, True), generated(model, False))
    for index in last.values():
        with pytest.raises(ArchitectureError, match="the last attention of its kind must stay"):
            remove(model, Unit("attention", index))


def test_the_cache_of_a_model_without_attentions_is_smaller():
    model = tiny.model("llama")
    remove(model, Unit("attention", 0), Unit("attention", 3))
    cache = model.module(tiny.ids(), use_cache=True).past_key_values
    assert [layer.get_seq_length() for layer in cache.layers] == [12, 12, 12, 12, 0, 0]


def test_one_after_the_other_ends_as_all_at_once():
    one, other = tiny.model("gemma3_text"), tiny.model("gemma3_text")
    for unit in GONE:
        remove(one, unit)
    remove(other, *GONE[::-1])
    assert one.module.config.to_dict() == other.module.config.to_dict()
    assert torch.equal(logits(one.module), logits(other.module))
    assert torch.equal(generated(one, True), generated(other, True))


def test_a_copy_is_as_good_as_the_original():
    model = tiny.model("llama")
    remove(model, *GONE)
    assert torch.equal(logits(copy.deepcopy(model.module)), logits(model.module))
