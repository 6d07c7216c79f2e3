"""Weights are stored in the source's dtypes, whatever they were computed in (D46)."""

from __future__ import annotations

import functools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusegpt.errors import NumericsError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import save, write_delta
from fusegpt.models.checkpoints.storage import settle, source_storage
from fusegpt.models.model import Model
from fusegpt.models.suitability import check_structure
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny

UP = "model.layers.{}.mlp.up_proj.weight"
NORM = "model.layers.{}.input_layernorm.weight"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@pytest.fixture(scope="module")
def sources(tiny_llama_dir, tmp_path_factory):
    """The tiny Llama in each dtype, and in bfloat16 with norms in float32."""
    folder = tmp_path_factory.mktemp("sources")
    tensors = load_file(tiny_llama_dir / "model.safetensors")
    for name in (*DTYPES, "mixed"):
        directory = shutil.copytree(tiny_llama_dir, folder / name)
        dtype = DTYPES.get(name, torch.bfloat16)
        wide = torch.float32 if name == "mixed" else dtype
        cast = {k: v.to(wide if "norm" in k else dtype) for k, v in tensors.items()}
        save_file(cast, directory / "model.safetensors", {"format": "pt"})
        config = json.loads((directory / "config.json").read_text())
        config["dtype"] = str(dtype).removeprefix("torch.")
        (directory / "config.json").write_text(json.dumps(config))
    return folder


def stored(directory):
    return load_file(directory / "model.safetensors")


def same(one, other):
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def changed(model, block=3):
    """Change one matrix as a recovery does: to values that 16 bits do not hold."""
    model.block(block).mlp.up_proj.weight.data.mul_(1.2345)
    return f"blocks.{block}.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "source, dtype",
    [
        ("bfloat16", "float32"),
        ("bfloat16", "float16"),
        ("float16", "bfloat16"),
        ("float32", "bfloat16"),
        ("mixed", "float32"),
        ("mixed", "bfloat16"),
    ],
)
def test_each_tensor_has_the_sources_dtype_and_untouched_ones_its_bits(
    sources, tmp_path, source, dtype
):
    model = load(sources / source, dtype=dtype)
    remove(model, Unit("block", 1))
    name = changed(model)
    settle(model, "source", [name])

    save(model, tmp_path / "out", extra={})

    dense, out = stored(sources / source), stored(tmp_path / "out")
    for place, index in enumerate(model.kept):
        if index != 3:
            assert same(out[UP.format(place)], dense[UP.format(index)])
        assert same(out[NORM.format(place)], dense[NORM.format(index)])
    assert same(out["model.embed_tokens.weight"], dense["model.embed_tokens.weight"])
    assert out[UP.format(2)].dtype == dense[UP.format(3)].dtype
    size = [(d / "model.safetensors").stat().st_size for d in (tmp_path / "out", sources / source)]
    assert size[0] < size[1]
    again = load(tmp_path / "out", dtype=dtype).module.state_dict()
    assert all(torch.equal(again[k], v) for k, v in model.module.state_dict().items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == {"mixed": "bfloat16"}.get(source, source)


def test_old_deltas_were_not_rounded_and_are_stored_as_they_are(sources, tmp_path):
    model = load(sources / "bfloat16", dtype="float32")
    changed(model)

    save(model, tmp_path / "out", extra={})

    out = stored(tmp_path / "out")
    assert torch.equal(out[UP.format(3)], model.block(3).mlp.up_proj.weight)
    assert {out[name].dtype for name in out if name != UP.format(3)} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    record = json.loads((tmp_path / "out" / "fusegpt.json").read_text())
    assert record["stored_dtypes"] == ["bfloat16", "float32"]


@pytest.mark.parametrize("to", DTYPES)
def test_one_dtype_for_all_rounds_every_weight(sources, tmp_path, to):
    model = load(sources / "float32", dtype="float32")
    changed(model)
    settle(model, to, [])

    save(model, tmp_path / "out", extra={}, to=to)

    out, dense = stored(tmp_path / "out"), stored(sources / "float32")
    assert {tensor.dtype for tensor in out.values()} == {DTYPES[to]}
    assert torch.equal(out[UP.format(0)], dense[UP.format(0)].to(DTYPES[to]))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == to
    again = load(tmp_path / "out", dtype="float32").module.state_dict()
    assert all(torch.equal(again[k], v) for k, v in model.module.state_dict().items())


def test_a_value_that_the_stored_dtype_cannot_hold_is_refused(sources):
    model = load(sources / "float16", dtype="float32")
    model.block(3).mlp.up_proj.weight.data[0, 0] = 70000.0
    with pytest.raises(NumericsError, match=r"blocks\.3\.mlp\.up_proj.*into float16.*got 7e\+04"):
        settle(model, "source", ["blocks.3.mlp.up_proj.weight"])


def test_a_delta_has_the_dtypes_of_the_source_and_says_by_which_rule(sources, tmp_path):
    model = load(sources / "mixed", dtype="float32")
    remove(model, Unit("block", 1))
    names = [changed(model), "blocks.3.input_layernorm.weight"]
    settle(model, "source", names)
    write_delta(model, tmp_path / "d", names, {"fused/x": torch.ones(2)}, "source")
    tensors = load_file(tmp_path / "d")
    assert [tensors[name].dtype for name in names] == [torch.bfloat16, torch.float32]
    assert torch.equal(tensors[names[0]].float(), model.parameter(names[0]))
    assert tensors["fused/x"].dtype == torch.float32


@pytest.mark.parametrize("family", ["glm4_moe", "llava", "gpt2", "gemma3_text"])
def test_names_that_differ_on_disk_are_found(tmp_path, family):
    """Experts one by one, a decoder below a tower's side, blocks without the base model's name."""
    module = tiny.model(family).module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.bfloat16())
    module.save_pretrained(tmp_path / "wide")
    module.to(torch.bfloat16).save_pretrained(tmp_path / "source")
    if family == "gpt2":  # as it is published
        tensors = stored(tmp_path / "source")
        short = {k.removeprefix("transformer."): v for k, v in tensors.items()}
        save_file(short, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    model = load(tmp_path / "source", dtype="float16")  # narrower: only the source has the bits
    remove(model, Unit("block", 1))

    save(model, tmp_path / "out", extra={})

    storage = source_storage(model)
    out = stored(tmp_path / "out")
    originals = storage.originals(out, model.kept)
    assert originals.keys() == out.keys()
    assert all(same(out[name], storage.tensors[originals[name]].read()) for name in out)


def test_an_index_tells_the_size_on_disk(sources, tmp_path, monkeypatch):
    model = load(sources / "bfloat16", dtype="float32")
    write = functools.partialmethod(type(model.module).save_pretrained, max_shard_size="60KB")
    monkeypatch.setattr(type(model.module), "save_pretrained", write)
    save(model, tmp_path / "out", extra={})
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = [load_file(file) for file in sorted((tmp_path / "out").glob("*.safetensors"))]
    assert len(shards) > 1
    sizes = [tensor.nbytes for shard in shards for tensor in shard.values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert load(tmp_path / "out", dtype="float32").kept == list(range(6))


def test_a_pruned_checkpoint_is_a_source_as_well(sources, tmp_path):
    model = load(sources / "bfloat16", dtype="float32")
    remove(model, Unit("block", 1))
    save(model, tmp_path / "one", extra={})
    again = load(tmp_path / "one", dtype="float16")
    remove(again, Unit("block", 4))
    save(again, tmp_path / "two", extra={})
    dense, out = stored(sources / "bfloat16"), stored(tmp_path / "two")
    for place, index in enumerate([0, 2, 3, 5]):
        assert same(out[UP.format(place)], dense[UP.format(index)])


def test_a_model_without_a_source_is_stored_as_it_is(tmp_path):
    model = Model.dense(tiny.model("llama").module.to(torch.float16))
    settle(model, "source")
    save(model, tmp_path / "out", extra={})
    assert {tensor.dtype for tensor in stored(tmp_path / "out").values()} == {torch.float16}


def test_check_says_what_weights_are_stored_in(sources):
    model = load(sources / "mixed", dtype="float32")
    (finding,) = (one for one in check_structure(model) if one.name == "storage")
    assert finding.passed and "stored in bfloat16 and float32" in finding.text
