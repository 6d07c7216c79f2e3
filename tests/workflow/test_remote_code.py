"""A model's own code runs when its entry says ``trust_remote_code: true``, and never else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusegpt import cli
from fusegpt.data.sources import fetch, parse_source
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.models.checkpoints.load import load
from fusegpt.runtime import allow_remote_code, remote_code_is_allowed


@pytest.fixture
def remote(tmp_path):
    """A model whose class is in a file beside its weights; importing that leaves a mark."""
    folder = tmp_path / "remote"
    folder.mkdir()
    config = {
        "model_type": "marked",
        "architectures": ["MarkedForCausalLM"],
        **{"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 8, "vocab_size": 8},
        **{"num_attention_heads": 1, "num_key_value_heads": 1},
        "auto_map": {
            "AutoConfig": "marked.MarkedConfig",
            "AutoModelForCausalLM": "marked.MarkedForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "mark"
    (folder / "marked.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class MarkedConfig(LlamaConfig):\n    model_type = 'marked'\n"
        "class MarkedForCausalLM(LlamaForCausalLM):\n    config_class = MarkedConfig\n"
    )
    import torch
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    return folder, mark


@pytest.fixture(autouse=True)
def _forbidden_again():
    yield
    allow_remote_code(False)


def test_loading_runs_no_code_of_the_model(remote):
    folder, mark = remote

    with pytest.raises(ArtifactError):
        load(folder, dtype="float32")

    assert not mark.exists()


def test_the_command_line_allows_it(remote, monkeypatch, tmp_path):
    folder, mark = remote
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    allow_remote_code(True)

    with pytest.raises(ArtifactError, match=r"weights are missing|cannot be loaded"):
        load(folder, dtype="float32")

    assert mark.exists()


def test_code_is_fetched_only_with_the_key(tmp_path, monkeypatch):
    from fusegpt.data import sources
    from fusegpt.results.base import Record

    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "modeling.py"):
        (folder / name).write_text("{}")
    monkeypatch.setattr(sources, "weight_files", lambda path: [Path(path) / "model.safetensors"])
    monkeypatch.setattr(sources, "_record", lambda *_: Record())
    entry = {"source": f"dir:{folder}"}

    fetch(entry, tmp_path / "plain")
    fetch({**entry, "trust_remote_code": True}, tmp_path / "trusted")

    assert not (tmp_path / "plain/modeling.py").exists()
    assert (tmp_path / "trusted/modeling.py").exists()


@pytest.mark.parametrize("value", ["false", 1, None])
def test_the_key_is_true_or_false(value):
    with pytest.raises(ConfigError, match="trust_remote_code: must be true or false"):
        parse_source({"source": "hub:a/b@c", "trust_remote_code": value})


def test_each_call_starts_without_leave(capsys):
    allow_remote_code(True)

    cli.run(cli.fusegpt_command, ["info", "nowhere"])

    assert not remote_code_is_allowed()


def test_the_rules_say_it_for_the_models_that_do(project):
    project.config["models"]["other"] = {**project.config["models"]["tiny"]}
    project.config["models"]["other"]["trust_remote_code"] = True
    project.study["models"] = ["tiny", "other"]

    said = project.snakemake("-n", "-p").stdout

    lines = [
        line for line in said.splitlines() if line.strip().startswith("Shell command: fusegpt")
    ]
    calls = [line for line in lines if any(f" {verb} " in line for verb in VERBS)]
    assert len(calls) > 20
    for line in calls:
        loads = "--dense-scores" not in line  # taking scores over needs no model
        trusted = "/other/" in line and loads
        assert ("fusegpt --trust-remote-code" in line) == trusted, line


VERBS = ("sample", "score", "fuse", "merge", "evaluate")
