"""`fusegpt check` says yes, or why not."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer

from fusegpt.cli import main
from fusegpt.models import suitability
from fusegpt.units import Unit
from tests import tiny


def said(capsys, *arguments) -> tuple[int, list[str], str]:
    with pytest.raises(SystemExit) as stop:
        main(["check", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stop.value.code, out.splitlines(), err


@pytest.fixture
def saved(tmp_path, tiny_llama_dir):
    def save(name, settings):
        tiny.from_class(name, settings).save_pretrained(tmp_path / "model")
        AutoTokenizer.from_pretrained(tiny_llama_dir).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.mark.parametrize("kind", ["llama", "llava"])
def test_yes_with_every_check(capsys, tiny_llama_dir, tiny_llava_dir, kind):
    directory = {"llama": tiny_llama_dir, "llava": tiny_llava_dir}[kind]
    code, lines, _ = said(capsys, directory)
    assert code == 0
    assert [line.split()[1] for line in lines[:-1]] == [
        *("blocks:", "config:", "removal:", "fusion:"),
        *("storage:", "replay:", "bypass:", "generation:", "sublayers:"),
    ]
    assert all(line.startswith("yes ") for line in lines[:-1])
    assert "6 of LlamaDecoderLayer in model." in lines[0]
    assert "6 blocks with 7 weights (mlp.down_proj.weight" in lines[3]
    assert "attention is self_attn; mlp is mlp; without attention 0, attention 3, mlp 3" in lines[8]
    assert lines[-1] == f"{directory}: yes"


def test_a_model_whose_halves_cannot_be_told_apart_is_fit_for_whole_blocks(capsys, saved):
    code, lines, _ = said(capsys, saved("BloomForCausalLM", tiny.TEXT["bloom"][1]))
    assert code == 0
    assert lines[-2].startswith("yes sublayers:  granularity block only; BloomForCausalLM: block 0")


def test_a_config_alone_is_enough_for_the_structure(capsys, tiny_llama_dir, tmp_path):
    shutil.copyfile(tiny_llama_dir / "config.json", tmp_path / "config.json")
    code, lines, _ = said(capsys, tmp_path)
    assert code == 0 and len(lines) == 5
    assert lines[-1].endswith(": yes, by its config; what it computes was not run")


def test_a_config_of_70b_parameters_takes_no_memory(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(suitability, "_spread", lambda units: units[:2] + units[-1:])
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192}
    config |= {"intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 8}))
    code, lines, _ = said(capsys, tmp_path, "--config-only")
    assert code == 0 and "80 of LlamaDecoderLayer" in lines[0]
    assert "each of 3 blocks can go" in lines[2]


def test_no_and_what_does_not_follow(capsys, saved):
    directory = saved("GPT2LMHeadModel", {**tiny.GPT2, "scale_attn_by_inverse_layer_idx": True})
    code, lines, err = said(capsys, directory)
    assert code == 2
    assert lines[2].startswith("no  removal:") and "attn.scaling" in lines[2]
    assert err == f"fusegpt: {directory}: cannot be pruned faithfully (removal)\n"


def test_a_last_block_that_must_stay_is_a_yes_with_a_setting(capsys, saved):
    prefix, settings = tiny.TEXT["gemma4_text"]
    code, lines, _ = said(capsys, saved(f"{prefix}ForCausalLM", settings))
    assert code == 0
    assert "only with {protect_first: 0, protect_last: 1}; without block 5:" in lines[2]


def test_blocks_that_only_the_config_counts_are_said(capsys, saved):
    prefix, settings = tiny.TEXT["glm4_moe"]
    directory = saved(f"{prefix}ForCausalLM", {**settings, "num_nextn_predict_layers": 1})
    code, lines, _ = said(capsys, directory)
    assert code == 0
    (line,) = [line for line in lines if line.startswith("yes differs:")]
    assert "num_nextn_predict_layers is 0, not 1" in line


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothere", "no such directory, no model in results/models, and no hub id like ORG/NAME"),
        ("org/name", "not in the hub's cache, and HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_not_there_is_said(capsys, model, message):
    code, _, err = said(capsys, model)
    assert code == 2 and message in err


def test_of_many_blocks_the_ends_and_an_even_spread_are_tried():
    units = [Unit("block", index) for index in range(80)]
    tried = [unit.index for unit in suitability._spread(units)]
    assert len(tried) == suitability.MOST and tried == sorted(set(tried))
    assert tried[:5] == [0, 1, 2, 3, 4] and tried[-4:] == [76, 77, 78, 79]
    assert suitability._spread(units[:40]) == units[:40]
