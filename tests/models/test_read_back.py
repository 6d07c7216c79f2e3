"""A checkpoint that is not what is in memory never appears."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusegpt.errors import ArtifactError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.read_back import check_tokenizer
from fusegpt.models.checkpoints.save import save
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny

UP = "model.layers.3.mlp.up_proj.weight"


def rewritten(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def edited(directory, **changes):
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def one_bit(tensors, name=UP):
    tensors[name].view(torch.uint8)[0, 0] ^= 1


TAMPERED = {
    "one bit": (lambda d: rewritten(d, one_bit), f"{UP} has other values on disk"),
    "dtype": (
        lambda d: rewritten(d, lambda t: t.update({UP: t[UP].int()})),
        r"is torch.int32 \[64, 32\] on disk, not torch.float32",
    ),
    "shape": (
        lambda d: rewritten(d, lambda t: t.update({UP: t[UP][:-1].clone()})),
        r"is torch.float32 \[63, 32\] on disk",
    ),
    "missing": (lambda d: rewritten(d, lambda t: t.pop(UP)), f"missing keys: {UP}"),
    "name": (
        lambda d: rewritten(d, lambda t: t.update({"model.other": t.pop(UP)})),
        "missing keys|unexpected keys",
    ),
    "count": (lambda d: edited(d, num_hidden_layers=4), "num_hidden_layers in config.json is 4"),
    "epsilon": (lambda d: edited(d, rms_norm_eps=0.5), "rms_norm_eps in config.json is 0.5, not"),
    "untied": (lambda d: edited(d, tie_word_embeddings=False), "tie_word_embeddings"),
    "no config": (lambda d: (d / "config.json").unlink(), "in config.json is None, not"),
    "no weights": (lambda d: (d / "model.safetensors").write_bytes(b""), "cannot be read"),
}


@pytest.fixture
def pruned(tiny_llama_dir):
    model = load(tiny_llama_dir, dtype="float32")
    remove(model, Unit("block", 4))
    return model


def tamper(monkeypatch, module, change):
    write = type(module).save_pretrained

    def written(self, directory, **options):
        write(self, directory, **options)
        change(directory)

    monkeypatch.setattr(type(module), "save_pretrained", written)


@pytest.mark.parametrize("case", TAMPERED)
def test_what_is_written_otherwise_is_refused_and_nothing_stays(
    pruned, tmp_path, monkeypatch, case
):
    change, message = TAMPERED[case]
    tamper(monkeypatch, pruned.module, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        save(pruned, tmp_path / "out", extra={})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mlp.experts.1.down_proj.weight", "input_layernorm.weight"])
def test_experts_that_are_stored_one_by_one_are_compared_too(tmp_path, monkeypatch, name):
    model = tiny.model("glm4_moe", dtype=torch.bfloat16)
    name = f"model.layers.4.{name}"

    def change(directory):
        rewritten(directory, lambda tensors: tensors[name].flatten()[:1].add_(1))

    tamper(monkeypatch, model.module, change)
    with pytest.raises(ArtifactError, match="has other values on disk"):
        save(model, tmp_path / "out", extra={})
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_equal_themselves(pruned, tmp_path):
    pruned.block(3).mlp.up_proj.weight[0, 0] = float("nan")
    save(pruned, tmp_path / "out", extra={})
    assert (tmp_path / "out" / "fusegpt.json").is_file()


def test_zeroed_sublayers_are_read_back(tiny_llama_dir, tmp_path, monkeypatch):
    model = load(tiny_llama_dir)
    remove(model, Unit("attention", 3))
    save(model, tmp_path / "out", extra={}, zeros=True)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert not tensors["model.layers.3.self_attn.q_proj.weight"].any()


def test_several_chat_templates_travel(tiny_llama_dir, tmp_path):
    from transformers import AutoTokenizer

    from fusegpt.data.sources import fetch

    source = shutil.copytree(tiny_llama_dir, tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}", "rag": "{{ 3 }}"}
    tokenizer.save_pretrained(source)
    fetch(f"dir:{source}", tmp_path / "fetched")
    model = load(tmp_path / "fetched")
    remove(model, Unit("block", 4))
    save(model, tmp_path / "out", extra={})
    for directory in ("fetched", "out"):
        there = AutoTokenizer.from_pretrained(tmp_path / directory)
        assert there.chat_template == tokenizer.chat_template
    record = json.loads((tmp_path / "out" / "fusegpt.json").read_text())
    assert "additional_chat_templates/rag.jinja" in record["files"]


def test_a_tokenizer_that_lost_a_template_is_refused(tiny_llama_dir, tmp_path):
    source = shutil.copytree(tiny_llama_dir, tmp_path / "source")
    (source / "chat_template.jinja").write_text("{{ 1 }}")
    with pytest.raises(ArtifactError, match="chat templates are not those of"):
        check_tokenizer(source, tiny_llama_dir)


@pytest.mark.parametrize("family", ["glm4_moe", "deepseek_v3"])
def test_blocks_that_only_the_config_counts_are_counted_no_more(tmp_path, family):
    model = tiny.model(family, num_nextn_predict_layers=1)
    remove(model, Unit("block", 3))
    save(model, tmp_path / "out", extra={})
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == 0
    assert model.text_config.num_nextn_predict_layers == 1
