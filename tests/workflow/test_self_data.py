"""The recipes that learn what the dense model wrote, from conversations to finished models."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from fusegpt.config import builtin_config_dir
from fusegpt.data.streamed import stream_windows
from fusegpt.data.tokens import load_tokenizer
from fusegpt.pruning.recipe import load_recipe
from fusegpt.results import layout as at
from fusegpt.results.models import read_checkpoint
from tests.data.test_chats import TEMPLATE
from tests.planned import commands, fusegpt

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = builtin_config_dir() / "experiments" / "self_data.yaml"
FEW = {"sequences": 8, "length": 64}
HALVES = [{"name": "own_answers", "share": 0.5}, {"name": "zen", "share": 0.5}]


def study(model: Path) -> dict:
    """The library's experiment with few and short texts, and one recipe that mixes corpora."""
    found = yaml.safe_load(LIBRARY.read_text())
    for name in ("own_answers", "rewritten_answers"):
        found["corpora"][name]["generated"] |= {**FEW, "corpus": "conversations"}
    found["corpora"]["rewritten_answers"]["generated"]["accept"] = "all"
    found["corpora"]["conversations"] = {"splits": {"train": "chats.jsonl"}}
    for name in ("zen", "wikitext2"):
        found["corpora"][name] = {"splits": dict.fromkeys(("train", "test"), "zen.jsonl")}
    found["models"] = {"tiny": {"source": f"dir:{model}", "num_blocks": 6}}
    found["evaluations"] = {"speed": {"eval": "speed"}}  # named, and not asked for
    finish = {"windows": FEW, "batch_size": 4}
    found["recipes"] = {
        "mixed": {
            "chain": "angular_distance",
            "finish": {
                "method": "full",
                "epochs": 1,
                "windows": {"corpus": HALVES, "cut": "documents", "predict": "answers"},
            },
        }
    }
    found["experiments"]["self_data"] |= {
        "models": ["tiny"],
        "recipes": ["self_data_distillation", "self_generated", "mixed"],
        "sparsities": [0.3],
        "evaluations": ["speed"],
        "keep_checkpoints": True,
        "settings": {
            "dtype": "float32",
            "calibration": {**FEW, "sequences": 4},
            "finish": {**finish, "warmup_steps": 1},
        },
    }
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_llama_dir):
    """Everything, made from conversations by the commands of the workflow."""
    work = tmp_path_factory.mktemp("self data")
    shutil.copytree(tiny_llama_dir, work / "model")
    (work / "model" / "chat_template.jinja").write_text(TEMPLATE)
    chats = [{"prompt": f"{'now ' * (n % 5)}?", "completion": "never"} for n in range(8)]
    texts = [{"text": "Now is better than never. " * (n + 1)} for n in range(8)]
    for name, rows in (("chats", chats), ("zen", texts)):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "study.json").write_text(json.dumps(study(work / "model")))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        asked = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "study.json"]
        found = commands(work, "checkpoints", *asked, environment=os.environ)
        for words in found:
            fusegpt(*words)
        yield found


def windows_of(ran, start):
    """The file of windows that is cut from a corpus, and its windows."""
    (words,) = [x for x in ran if x[0] == "sample" and x[x.index("--corpus") + 1].startswith(start)]
    file = Path(words[-1])
    return file, stream_windows(Path("model"), file, file.parent)


@pytest.mark.slow
def test_the_model_writes_once_for_each_way_and_every_model_is_finished(ran):
    verbs = [words[0] for words in ran]
    assert verbs.count("generate") == 2 and verbs.count("finish") == 3
    published = [read_checkpoint(found.path) for found in at.checkpoint.found_in("results")]
    assert len(published) == 3


@pytest.mark.slow
def test_what_is_learned_of_a_rewritten_text_is_the_answer_behind_the_question(ran):
    _, windows = windows_of(ran, "rewritten_answers")
    tokenizer = load_tokenizer(Path("model"))
    for ids, learned in zip(windows.ids, windows.learned, strict=True):
        asked = tokenizer.decode(ids[: learned.argmax()])
        assert asked.startswith("<|user|>") and asked.endswith("?</s><|assistant|>")
        assert "reference answer" not in tokenizer.decode(ids)


@pytest.mark.slow
def test_a_mixture_learns_answers_of_conversations_and_all_of_a_text(ran):
    _, windows = windows_of(ran, "[")
    tokenizer = load_tokenizer(Path("model"))
    chats = ["<|user|>" in tokenizer.decode(ids) for ids in windows.ids]
    assert sum(chats) == 4
    for is_chat, learned in zip(chats, windows.learned, strict=True):
        assert learned[1] != is_chat and learned.any()


def test_the_published_rates_are_those_of_the_recipe():
    recipe = load_recipe("self_generated")
    settings = recipe.finish
    assert (settings.lora_rank, settings.lora_alpha, settings.learning_rate) == (16, 32, 2e-4)
    assert (settings.warmup_steps, settings.decay, settings.epochs) == (50, "constant", 1)
    assert recipe.windows("finish").predict == recipe.windows("calibration").predict == "answers"
    own = yaml.safe_load(LIBRARY.read_text())["corpora"]["own_answers"]["generated"]
    assert (own["temperature"], own["top_p"]) == (0.9, 0.95)
