"""What docs/after.md tells one to do next, done on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

import fusegpt
from fusegpt.cli import fusegpt_command, run
from fusegpt.pruning.recipe import resolve
from tests.test_docs import FENCE, ROOT

PLAIN = {"importance": {"metric": "last_blocks"}, "recovery": {"method": "none"}}


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs/after.md").read_text()
    return [block for found, block in FENCE.findall(text) if found == language]


@pytest.fixture
def work(tiny_llama_dir, tmp_path, monkeypatch):
    """A directory with the models that the page begins with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/model").symlink_to(tiny_llama_dir)
    recipe = resolve("plain", {**PLAIN, "dtype": "float32"})
    fusegpt.prune_model(tiny_llama_dir, recipe, 0.25, None, tmp_path / "work/pruned")
    return tmp_path / "work"


@pytest.mark.filterwarnings("ignore")  # of transformers and PEFT
def test_the_pages_python_trains_adapts_and_drafts_as_it_stands(work):
    code = "".join(block for block in blocks("python") if "from trl" not in block)
    names: dict = {}
    exec(code.replace("length=128", "length=16"), names)

    before = AutoModelForCausalLM.from_pretrained(work / "pruned").state_dict()
    for trained in ("trained", "adapted"):
        after = AutoModelForCausalLM.from_pretrained(work / trained).state_dict()
        assert after.keys() == before.keys()
        assert any(not torch.equal(after[name], before[name].float()) for name in before)
    assert json.loads((work / "adapter/adapter_config.json").read_text())["r"] == 16


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="pip install trl==1.16.0")
@pytest.mark.filterwarnings("ignore")  # of transformers and TRL
def test_the_pages_sft_trainer_learns_conversations(work, tiny_llama_dir):
    (code,) = (block for block in blocks("python") if "from trl" in block)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    (work / "pruned/chat_template.jinja").write_text(template)
    asked, said = {"role": "user", "content": "now?"}, {"role": "assistant", "content": "later"}
    Path("chats.jsonl").write_text(f"{json.dumps({'messages': [asked, said]})}\n" * 8)

    exec(code.replace("max_steps=100", "max_steps=2").replace("size=8", "size=2"), {})

    before, after = (
        AutoModelForCausalLM.from_pretrained(work / name).state_dict()
        for name in ("pruned", "chatting")
    )
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name].float()) for name in before)


def test_a_draft_changes_no_token_and_its_passes_are_counted(work, capsys, monkeypatch):
    measured = runpy.run_path(str(ROOT / "benchmarks/draft.py"))
    line = ["draft.py", "work/model", "work/pruned", "--tokens", "6", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*line, "--output", "work/draft.json"])
    measured["main"]()

    found = json.loads((work / "draft.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["equal"] == f"{len(measured['PROMPTS'])} of {len(measured['PROMPTS'])}"
    assert 0 <= found["accepted"] <= 1 and found["tokens_per_dense_pass"] >= 1
    # the dense model as its own draft: all is taken
    monkeypatch.setattr(sys, "argv", ["draft.py", "work/model", *line[1:2], *line[3:]])
    measured["main"]()
    assert json.loads(capsys.readouterr().out)["accepted"] > 0.9


def test_the_card_that_is_published_has_the_dense_value_beside_the_pruned_one(work):
    measure = ["evaluate", "--data", "python_docs", "--split", "test", "--length", "16"]
    measure += ["--windows", "2", "--dtype", "float32"]
    for model, output in (("model", "dense.json"), ("pruned", "pruned.json")):
        line = [*measure, "--model", f"work/{model}", "--output", f"work/{output}"]
        assert run(fusegpt_command, line) == 0
    (card, _push) = (line for line in "".join(blocks("sh")).splitlines() if "fusegpt" in line)

    assert run(fusegpt_command, card.split()[1:]) == 0

    written = ModelCard.load(work / "pruned/README.md", ignore_metadata_errors=True)
    dense, pruned = (
        json.loads((work / f"{name}.json").read_text())["rows"][0]["value"]
        for name in ("dense", "pruned")
    )
    assert f"| {pruned:.4g} | {dense:.4g} |" in written.text
    (result,) = written.data.eval_results
    assert result.metric_value == pytest.approx(pruned, rel=1e-5)
