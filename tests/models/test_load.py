from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusegpt.data.directories import generation_settings, text_config
from fusegpt.data.tokens import load_tokenizer
from fusegpt.errors import ArchitectureError, ArtifactError, ConfigError
from fusegpt.models.checkpoints.directory import load_structure
from fusegpt.models.checkpoints.load import load
from tests import tiny


@pytest.fixture
def directory(tiny_llama_dir, tmp_path):
    return shutil.copytree(tiny_llama_dir, tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_plain_directory_is_dense(tiny_llama_dir):
    model = load(tiny_llama_dir)
    assert (model.kept, model.num_blocks, model.removed) == ([0, 1, 2, 3, 4, 5], 6, [])
    assert (model.dtype, model.device.type) == (torch.bfloat16, "cpu")
    assert model.source == tiny_llama_dir
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    assert model.text_config._attn_implementation == "sdpa"
    assert model.tokenizer.decode(model.tokenizer("Flat is better")["input_ids"])


def test_every_weight_is_aligned_and_equal_runs_are_equal(tiny_llama_dir):
    one, two = load(tiny_llama_dir, dtype="float32"), load(tiny_llama_dir, dtype="float32")
    tensors = [*one.module.parameters(), *one.module.buffers()]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)
    with torch.no_grad():
        assert torch.equal(one.module(tiny.ids()).logits, two.module(tiny.ids()).logits)


def test_loading_leaves_the_file_alone_and_says_nothing(tiny_llama_dir, capfd):
    before = (tiny_llama_dir / "model.safetensors").read_bytes()
    model = load(tiny_llama_dir, dtype="float32")
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.zero_()
    assert (tiny_llama_dir / "model.safetensors").read_bytes() == before
    assert capfd.readouterr() == ("", "")


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="absent: must be a model directory or a step manifest"):
        load(tmp_path / "absent")


def test_a_directory_without_config_is_refused(directory):
    (directory / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"must hold config\.json or manifest\.json"):
        load(directory)


@pytest.mark.parametrize("content", [None, b"", b"nonsense", "cut", "pickle"])
def test_missing_or_corrupt_weights_are_refused_in_one_line(directory, content):
    file = directory / "model.safetensors"
    if content is None:
        file.unlink()
    elif content == "pickle":
        file.rename(directory / "pytorch_model.bin")
    else:
        file.write_bytes(file.read_bytes()[:-100] if content == "cut" else content)
    with pytest.raises(ArtifactError, match=r"model: cannot be|model\.safetensors: ") as caught:
        load(directory)
    assert "\n" not in str(caught.value)


def test_a_corrupt_config_is_refused(directory):
    (directory / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"config\.json cannot be read"):
        load(directory)


def test_missing_weights_are_never_made_up(directory):
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.layers.5.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"1 weights are missing, 'model\.layers\.5\.mlp"):
        load(directory)


def test_weights_of_another_shape_are_refused(directory):
    edit(directory / "config.json", intermediate_size=48)
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load(directory)


def test_unused_weights_are_said(directory, caplog):
    edit(directory / "config.json", num_hidden_layers=5)
    with caplog.at_level(logging.WARNING, logger="fusegpt"):
        assert load(directory).num_blocks == 5
    assert "9 weights unused, 'model.layers.5" in caplog.text


@pytest.mark.parametrize("names", [[], ["NoSuchModel"], None])
def test_an_unknown_class_is_refused(directory, names):
    edit(directory / "config.json", architectures=names)
    with pytest.raises(ArchitectureError, match="architectures must name one model class"):
        load(directory)


def test_a_model_without_a_head_is_refused(directory):
    edit(directory / "config.json", architectures=["LlamaModel"])
    with pytest.raises(ArchitectureError, match=r"predicts the next token .* got LlamaModel"):
        load(directory)


@pytest.mark.parametrize("how", [load, load_structure])
def test_a_masked_language_model_is_refused(tmp_path, how):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"vocab_size": 99, "intermediate_size": 32, **sizes}
    tiny.from_class("BertForMaskedLM", config).save_pretrained(tmp_path)
    with pytest.raises(ArchitectureError, match=r"predicts the next token .* got BertForMaskedLM"):
        how(tmp_path)


@pytest.mark.parametrize("how", [load, load_structure])
def test_attention_by_a_kernel_that_is_absent_becomes_the_default_and_is_said(
    directory, how, caplog
):
    edit(directory / "config.json", attn_implementation="flash_attention_2")
    model = how(directory)
    assert model.text_config._attn_implementation == "sdpa"
    assert "attention by default, not by flash_attention_2, which is not installed" in caplog.text


def test_code_in_the_directory_runs_only_when_asked(directory, tmp_path):
    mark = tmp_path / "ran"
    (directory / "configuration_x.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    edit(
        directory / "config.json",
        model_type="x",
        auto_map={"AutoConfig": "configuration_x.XConfig"},
    )
    with pytest.raises(ArtifactError, match="trust_remote_code"):
        load(directory)
    assert not mark.exists()


@pytest.mark.parametrize(
    "notes, message",
    [
        ({}, "fusegpt.json of a checkpoint: num_blocks: is required"),
        ({"kept": [0, 1], "num_blocks": 8, "removed": []}, "must name 6 of 8 blocks in order"),
        (
            {"kept": [5, 0, 1, 2, 3, 4], "num_blocks": 8, "removed": []},
            "must name 6 of 8 blocks in order",
        ),
    ],
)
def test_notes_that_do_not_fit_the_weights_are_refused(directory, notes, message):
    (directory / "fusegpt.json").write_text(json.dumps(notes))
    with pytest.raises(ArtifactError, match=message):
        load(directory)


def test_how_float32_is_multiplied_is_said_wherever_a_model_is_loaded(tiny_llama_dir, monkeypatch):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setenv("FUSEGPT_TF32", "1")
    try:
        load(tiny_llama_dir, dtype="float32")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", ["potato", "cuda:999"])
def test_a_device_that_is_not_there_is_refused(device, tiny_llama_dir):
    with pytest.raises(ConfigError, match=f"device: .*{device}"):
        load(tiny_llama_dir, dtype="float32", device=device)


@pytest.mark.parametrize("read", [text_config, load_structure, load_tokenizer, load])
@pytest.mark.parametrize(
    "content", ["[1]", "5", '{"model_type": "llama", "hidden_size": "x"}', '{"model_type": []}']
)
def test_a_configuration_with_values_of_another_type_is_one_line(read, content, directory):
    """Whoever reads it: transformers has exceptions of its own for each of these."""
    (directory / "config.json").write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read(directory)
    assert str(caught.value).startswith(str(directory))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "must be a table of settings, got '"),
        ("{no", "not valid JSON"),
        ('{"eos_token_id": "x"}', "eos_token_id must be the number of a token or several, got 'x'"),
        ('{"eos_token_id": [1, 2.5]}', "eos_token_id must be the number of a token or several"),
    ],
)
def test_damaged_settings_of_generation_are_not_left_out_in_silence(content, said, directory):
    file = directory / "generation_config.json"
    file.write_text(content)
    with pytest.raises(ArtifactError, match=f"{file}: {said}"):
        load(directory, dtype="float32")
    with pytest.raises(ArtifactError, match=f"{file}: {said}"):
        generation_settings(directory)
