"""A pruned and fused checkpoint in programs that have never heard of this project."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

import fusegpt
from benchmarks.export import TOKENS, ask, check_gguf, check_vllm, compare, convert, read_back
from fusegpt.data.kinds import pattern_of
from fusegpt.models.checkpoints.save import save
from fusegpt.models.surgery.removal import remove
from fusegpt.results.base import read
from fusegpt.results.exports import Export, weight_bytes
from fusegpt.results.models import Evaluation
from fusegpt.units import Unit
from tests import planned, tiny
from tests.conftest import EXPORT_TOOLS

BLOCKS, REMOVED = 6, 2
SETTINGS = {
    "dtype": "float32",
    "recovery": {"epochs": 2, "batch_size": 2, "group_size": 2, "rank": 2, "lora_rank": 2},
}


def pruned(dense: Path, directory: Path) -> Path:
    """Two blocks removed, each fused into its neighbours."""
    model = fusegpt.load(str(dense), dtype="float32")
    windows = torch.randint(3, 300, (4, 16), generator=torch.Generator().manual_seed(0))
    recipe = fusegpt.load_recipe("fusegpt", SETTINGS)
    steps = fusegpt.prune(model, recipe, REMOVED, windows, windows)
    fusegpt.publish(model, recipe, steps, directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The tokenizer of SmolLM2, which the converter knows."""
    from transformers import AutoTokenizer

    from fusegpt.data.sources import find_entry

    directory = tmp_path_factory.mktemp("real") / "smollm2"
    fusegpt.fetch(find_entry("smollm2-135m"), directory)
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory) -> Path:
    """A checkpoint of a tiny Llama with that tokenizer."""
    directory = tmp_path_factory.mktemp("export")
    tiny.save_llama(
        directory / "dense",
        tokenizer,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=BLOCKS,
        num_attention_heads=2,  # 32 values each, the least that vLLM takes
        num_key_value_heads=1,
    )
    return pruned(directory / "dense", directory / "pruned")


@pytest.mark.slow
def test_plain_transformers_continues_as_we_do_where_fusegpt_cannot_be_imported(
    tiny_llama_dir, tmp_path
):
    directory = pruned(tiny_llama_dir, tmp_path / "pruned")
    plain = ask("transformers", directory)

    from transformers import AutoTokenizer

    model = fusegpt.load(str(directory), dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    asked = dict(max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    with torch.no_grad():
        ours = model.module.generate(ids, **asked)[0, ids.shape[1] :].tolist()
    assert plain[0]["ids"] == ours


@pytest.mark.export
@pytest.mark.index
def test_llama_cpps_converter_takes_it_and_llama_cpp_says_the_same(checkpoint, tmp_path):
    found = check_gguf(checkpoint, EXPORT_TOOLS, tmp_path / "pruned.gguf")
    assert found["architecture"] == "llama" and found["outtype"] == "f32"
    assert found["blocks"] == found["blocks_of_checkpoint"] == BLOCKS - REMOVED
    assert found["different"] == []
    assert found["same"] == found["tokens"] == 3 * TOKENS
    assert found["largest_logprob_difference"] < 1e-3


@pytest.mark.export
@pytest.mark.index
@pytest.mark.parametrize("family, blocks", [("smollm3", 8), ("gemma3_text_default", 12)])
def test_a_pattern_that_is_kept_is_what_llama_cpp_computes(tokenizer, tmp_path, family, blocks):
    """And one that is broken is not: the same number of blocks, other tokens."""
    sizes = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    if family.startswith("gemma3"):
        sizes["query_pre_attn_scalar"] = 32  # llama.cpp scales by the heads' size
    dense = tiny.model(family, num_hidden_layers=blocks, vocab_size=len(tokenizer), **sizes)
    dense.module.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    period = pattern_of(dense.text_config).period
    same = {}
    for kind in ("kept", "broken"):
        model = fusegpt.load(tmp_path / "dense", dtype="float32")
        if kind == "kept":
            recipe = fusegpt.load_recipe(
                "macro_influence", {"dtype": "float32", "keep_pattern": True}
            )
            fusegpt.prune(model, recipe, period, tiny.ids(2, 16))
        else:
            remove(model, *(Unit("block", index) for index in (*range(period - 1), period)))
        save(model, tmp_path / kind, extra={})
        convert(tmp_path / kind, EXPORT_TOOLS, tmp_path / f"{kind}.gguf")
        answers = ask("llama_cpp", tmp_path / f"{kind}.gguf", tools=EXPORT_TOOLS)
        same[kind] = compare(answers, ask("transformers", tmp_path / kind))
    assert same["kept"]["same"] == same["kept"]["tokens"] == 3 * TOKENS
    assert same["kept"]["largest_logprob_difference"] < 1e-2
    assert same["broken"]["same"] < 3 * TOKENS


@pytest.mark.export
@pytest.mark.index
def test_a_value_that_differs_is_found(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    convert(checkpoint, EXPORT_TOOLS, tmp_path / "pruned.gguf")
    other = shutil.copytree(checkpoint, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    weights[name][3, 5] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert read_back(other, tmp_path / "pruned.gguf")["different"] == [name]


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """The checkpoint as f16 and as q8_0, by the verb."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEGPT_EXPORT_TOOLS", str(EXPORT_TOOLS))
        for kind in ("f16", "q8_0"):
            planned.fusegpt(
                "export", str(checkpoint), "--to", f"gguf:{kind}", "--output", folder / kind
            )
        yield folder


@pytest.mark.export
@pytest.mark.index
def test_an_export_was_loaded_and_says_what_it_is(exported):
    plain, small = (read(exported / kind / "export.json", Export) for kind in ("f16", "q8_0"))

    assert plain.checks["same_tokens"] == plain.checks["tokens"] > 50
    assert plain.checks["largest_difference"] < 1e-2
    assert abs(small.checks["quantised_nats"] - small.checks["nats"]) < 0.05
    sizes = [weight_bytes(record.files) for record in (plain, small)]
    assert sizes[1] < 0.7 * sizes[0]
    assert sorted(small.files) == ["model-q8_0.gguf"] and "cyllama" in small.tools
    assert (len(small.kept), len(small.removed)) == (BLOCKS - REMOVED, REMOVED)
    assert "exported to gguf:q8_0" in " ".join(planned.fusegpt("info", exported / "q8_0").split())


@pytest.mark.export
@pytest.mark.index
def test_llama_cpp_measures_the_perplexity_of_the_same_windows(checkpoint, exported, tmp_path):
    asked = ["--data", "python_docs", "--length", "32", "--windows", "2", "--dtype", "float32"]
    values, protocols = {}, {}
    for name, model in (
        ("own", checkpoint),
        ("f16", exported / "f16"),
        ("q8_0", exported / "q8_0"),
    ):
        file = tmp_path / f"{name}.json"
        planned.fusegpt("evaluate", "--model", model, *asked, "--output", file)
        (row,) = read(file, Evaluation).rows
        values[name], protocols[name] = row.value, row.protocol
    assert values["f16"] == pytest.approx(values["own"], rel=1e-3)
    assert values["q8_0"] == pytest.approx(values["own"], rel=2e-2)
    assert values["q8_0"] != values["own"]
    assert {x.pop("dtype") for x in protocols.values()} == {"float32", "f16", "q8_0"}
    assert protocols["own"] == protocols["f16"] == protocols["q8_0"]
    line = ["evaluate", "--model", exported / "f16", "--eval", "speed"]
    said = planned.refused(*line, "--output", tmp_path / "speed.json")
    assert "must be measured by perplexity" in said


@pytest.mark.export
@pytest.mark.index
def test_vllm_loads_it_and_says_the_same(checkpoint):
    python = os.environ.get("FUSEGPT_VLLM")
    if not python:
        pytest.skip("FUSEGPT_VLLM names no python of an environment with vLLM (docs/models.md)")
    found = check_vllm(checkpoint, python)
    assert found["same"] == found["tokens"] == 3 * TOKENS
    assert found["largest_logprob_difference"] < 1e-3
