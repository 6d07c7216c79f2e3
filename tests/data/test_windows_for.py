"""Windows are checked against the model that they are for, wherever both come together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fusegpt import prune_model, sample, score_model, slice_model
from fusegpt.data.window_files import read_windows, windows_for, write_windows
from fusegpt.errors import ArtifactError, DataError
from fusegpt.evaluation.perplexity import plan
from fusegpt.evaluation.settings import Perplexity
from fusegpt.pruning.jobs import fuse_model, merge_model
from fusegpt.pruning.recipe import load_recipe, resolve
from fusegpt.pruning.start import write_start
from tests import tiny


def recipe(method="none"):
    sections = {"importance": {"metric": "macro_influence"}, "recovery": {"method": method}}
    return resolve("mine", {**sections, "dtype": "float32"})


def score(model, windows, out):
    score_model(model, recipe(), windows, out / "scores.json")


def prune(model, windows, out):
    prune_model(model, recipe(), 0.2, windows, out / "m")


def cut(model, windows, out):
    slice_model(model, load_recipe("slicegpt", {"dtype": "float32"}), 0.25, windows, out / "m")


def evaluate(model, windows, out):
    plan(model, {}, Perplexity(corpus=str(windows)))


def started(model, method, out):
    source = model / "source.json"
    source.write_text(json.dumps({"kind": "model", "num_blocks": 6}))
    write_start(out / "step-000/manifest.json", source, recipe(method))
    return out / "step-000/manifest.json"


def scored(model, method, out):
    manifest, mine = started(model, method, out), out / "mine.parquet"
    write_windows(mine, tiny.ids(2, 8).numpy(), {})
    score_model(manifest, recipe(method), mine, out / "scores.json")
    return manifest, out / "scores.json"


def fuse(model, windows, out):
    manifest, scores = scored(model, "fusion", out)
    fuse_model(manifest, recipe("fusion"), scores, out / "step", finetune=windows)


def merge(model, windows, out):
    manifest, scores = scored(model, "lora", out)
    fuse_model(manifest, recipe("lora"), scores, out / "step-001")
    merge_model(out / "step-001/manifest.json", recipe("lora"), out / "m", finetune=windows)


WAYS = {
    "score": score,
    "prune": prune,
    "slice": cut,
    "evaluate": evaluate,
    "fuse": fuse,
    "merge": merge,
}
BAD = {
    "tokenizer": (tiny.ids(4, 8), {"tokenizer_sha256": "0" * 64}, "tokens of another tokenizer"),
    "ids": (torch.full((4, 8), 9999), {}, "token ids must be from 0 to .* got 9999"),
    "negative": (torch.full((4, 8), -1), {}, "token ids must be from 0 to .* got -1"),
    "length": (tiny.ids(4, 600), {}, "at most 512 tokens long, the model's positions, got 600"),
}


@pytest.fixture
def model(tiny_llama_dir, tmp_path):
    return shutil.copytree(tiny_llama_dir, tmp_path / "model")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", BAD)
def test_windows_that_are_not_for_the_model_are_refused(model, tmp_path, way, bad):
    ids, meta, message = BAD[bad]
    write_windows(tmp_path / "w.parquet", ids.numpy(), meta)
    with pytest.raises(DataError, match=message):
        WAYS[way](model, tmp_path / "w.parquet", tmp_path)
    assert not list(tmp_path.glob("m")) and not list(tmp_path.glob("step/*"))


@pytest.mark.parametrize("way", ["score", "prune", "slice", "evaluate"])
@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint16()])
def test_token_ids_of_another_program_are_welcome_with_a_line(model, tmp_path, way, kind, caplog):
    rows = pa.array(tiny.ids(4, 8).tolist(), pa.list_(kind))
    pq.write_table(pa.table({"input_ids": rows}), tmp_path / "w.parquet")
    with caplog.at_level("INFO", logger="fusegpt"):
        WAYS[way](model, tmp_path / "w.parquet", tmp_path)
    assert "was not checked: the file does not name their tokenizer" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pa.array([[1.0, 2.0]], pa.list_(pa.float32())), "must be lists of whole numbers, got"),
        (pa.array([1, 2]), "must be lists of whole numbers, got int64"),
        (pa.array(["a b"]), "must be lists of whole numbers, got string"),
        (pa.array([[1, None], [1, 2]]), "a token id in every place, got nulls"),
        (pa.array([[1, 2], None]), "a token id in every place, got nulls"),
        (pa.array([[1, 2], [1]]), r"must have one length of at least one token, got \[1, 2\]"),
        (pa.array([[], []], pa.list_(pa.int32())), r"at least one token, got \[0\]"),
        (pa.array([], pa.list_(pa.int32())), r"at least one token, got \[\]"),
    ],
)
def test_what_are_no_windows_is_refused(tmp_path, rows, message):
    pq.write_table(pa.table({"input_ids": rows}), tmp_path / "w.parquet")
    with pytest.raises(ArtifactError, match=message):
        read_windows(tmp_path / "w.parquet")


def test_a_sample_with_tokens_beyond_the_embedding_is_refused(model, tmp_path):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 50}))
    with pytest.raises(DataError, match=r"python_docs for .* must be from 0 to 49, .* got"):
        sample(model, "python_docs", length=8, sequences=2, output=tmp_path / "w.parquet")
    assert not (tmp_path / "w.parquet").exists()


def test_a_model_without_a_tokenizer_takes_windows_with_a_line(model, tmp_path, caplog):
    for file in Path(model).glob("token*"):
        file.unlink()
    write_windows(tmp_path / "w.parquet", tiny.ids(2, 8).numpy(), {"tokenizer_sha256": "0" * 64})
    with caplog.at_level("INFO", logger="fusegpt"):
        assert windows_for(model, tmp_path / "w.parquet").shape == (2, 8)
    assert "was not checked" in caplog.text and "no tokenizer here" in caplog.text
