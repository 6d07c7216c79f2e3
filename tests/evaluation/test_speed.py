import json
import shutil

import pytest

from fusegpt.cli import fusegpt_command, run
from fusegpt.errors import ConfigError
from fusegpt.evaluation import inference
from fusegpt.evaluation import speed as speed_module
from fusegpt.evaluation.settings import Speed
from fusegpt.evaluation.speed import plan, speed
from fusegpt.models.checkpoints.load import load

SMALL = {"prompt": 16, "new_tokens": 2, "batch_sizes": [1, 2], "rounds": 3}


@pytest.fixture
def no_child(monkeypatch):
    monkeypatch.setattr(inference, "peak_in_child", lambda *_: 0.5)


def planned(directory, dense=None, **settings):
    places = {"model": directory, "dense": dense}
    return plan(directory, places, Speed(**{**SMALL, **settings}))


def by_name(rows):
    return {(row["task"], row["metric"]): row for row in rows}


def test_dense_and_pruned_are_timed_in_turn(tiny_llama_dir, pruned_dir, no_child, monkeypatch):
    seen = []

    def timed(model, ids, new_tokens):
        seen.append((len(model.kept), len(ids)))
        return 0.1 * len(model.kept), 0.2 * len(model.kept)

    monkeypatch.setattr(inference, "request", timed)
    rows = speed(load(pruned_dir, dtype="float32"), planned(pruned_dir, tiny_llama_dir))
    round_of_one = [(6, 1), (4, 1), (4, 1), (6, 1)]
    assert seen[:14] == [(4, 1), (6, 1), *round_of_one * 3]  # warm-up, then three rounds
    found = by_name(rows)
    assert found["batch 2", "prefill"]["value"] == pytest.approx(2 * 16 / 0.4)
    assert found["batch 2", "decode"]["value"] == pytest.approx(2 * 2 / 0.8)
    assert found["batch 1", "latency"]["value"] == pytest.approx(1.2)
    assert found["batch 1", "latency"]["spread"] == pytest.approx([1.2, 1.2])
    assert found["batch 1", "decode_speedup"]["value"] == pytest.approx(1.5)


def test_memory_is_measured_before_there_is_a_second_model(tiny_llama_dir, pruned_dir, monkeypatch):
    order = []
    monkeypatch.setattr(inference, "peak_in_child", lambda *_: order.append("peak") or 0.5)
    monkeypatch.setattr(inference, "request", lambda *_: (0.1, 0.1))
    monkeypatch.setattr(speed_module, "load", lambda *a, **b: order.append("load") or load(*a, **b))
    speed(load(pruned_dir, dtype="float32"), planned(pruned_dir, tiny_llama_dir))
    assert order == ["peak", "load"]


def test_a_ratio_above_the_ideal_is_noise(tiny_llama_dir, pruned_dir, no_child, monkeypatch):
    for ratio, flagged in ((3, True), (1.01, False)):
        monkeypatch.setattr(
            inference, "request", lambda m, *_, r=ratio: (r, r) if len(m.kept) == 6 else (1, 1)
        )
        rows = speed(load(pruned_dir, dtype="float32"), planned(pruned_dir, tiny_llama_dir))
        row = by_name(rows)["batch 1", "prefill_speedup"]
        assert ("noise" in row.get("note", "")) == flagged


def test_the_ideal_follows_from_counting(tiny_llama_dir, pruned_dir):
    dense, pruned = (load(path, dtype="float32") for path in (tiny_llama_dir, pruned_dir))
    block = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64  # q, o; k, v; gate, up, down
    head = dense.text_config.vocab_size * 32
    expected = [16 * n * (2 * block + 2 * 16 * 32) + 2 * head for n in (6, 4)]
    assert [inference.prefill_flops(m, 16) for m in (dense, pruned)] == expected
    norms = 2 * 32
    read = [4 * (n * (block + norms) + head) + 3 * 8 * 10 for n in (6, 4)]
    assert [inference.decode_bytes(m, 3, 8, 10) for m in (dense, pruned)] == read
    assert expected[0] / expected[1] < 6 / 4


def test_the_cache_is_measured(tiny_llama_dir, pruned_dir):
    sizes = [
        inference.cache_bytes(load(p, dtype="float32"), 8) for p in (tiny_llama_dir, pruned_dir)
    ]
    assert sizes == [n * 2 * 2 * 8 * 4 for n in (6, 4)]  # keys, values; heads; head_dim; float32


def test_decoding_follows_the_models_own_generation(tiny_llama_dir):
    import torch

    model = load(tiny_llama_dir, dtype="float32")
    ids = inference.prompt_ids(model, 2, 7)
    token, cache = inference._forward(model, ids, None)
    tokens = [token]
    for _ in range(4):
        token, cache = inference._forward(model, token, cache)
        tokens.append(token)
    theirs = model.module.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False,
        eos_token_id=None,
    )  # fmt: skip
    assert torch.equal(torch.cat(tokens, dim=1), theirs[:, 7:])


def test_a_dense_model_has_no_ratios(tiny_llama_dir, no_child):
    found = by_name(speed(load(tiny_llama_dir, dtype="float32"), planned(tiny_llama_dir)))
    assert ("batch 1", "prefill") in found and ("batch 1", "prefill_speedup") not in found
    assert found["model", "parameters"]["value"] * 4 / 2**20 == found["model", "file_size"]["value"]


@pytest.mark.slow
def test_the_verb_measures_memory_in_a_process_of_its_own(tiny_llama_dir, pruned_dir, tmp_path):
    arguments = ["evaluate", "--model", str(pruned_dir), "--eval", "speed", "--dtype", "float32"]
    arguments += ["--dense", str(tiny_llama_dir), "--output", str(tmp_path / "e.json")]
    settings = {**SMALL, "rounds": 1, "batch_sizes": [1]}
    assert run(fusegpt_command, [*arguments, "--settings", json.dumps(settings)]) == 0
    found = by_name(json.loads((tmp_path / "e.json").read_text())["rows"])
    assert 0.05 < found["model", "peak_memory"]["value"] < 4
    assert found["batch 1", "decode_speedup_ideal"]["value"] < 1.5


def test_what_cannot_work_is_refused_before_the_weights_are_read(pruned_dir, tmp_path):
    directory = tmp_path / "m"
    shutil.copytree(pruned_dir, directory)
    (directory / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="speed needs the dense model beside it; name it with"):
        planned(directory)
    with pytest.raises(ConfigError, match=r"at most 512, the model's positions, got 511 \+ 2"):
        planned(directory, pruned_dir, prompt=511)


def test_a_failing_child_is_said_in_one_line(tmp_path, monkeypatch):
    from fusegpt.errors import ArtifactError

    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho 'Traceback' >&2\necho 'MemoryError: all is full' >&2\nexit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(ArtifactError, match=r"measuring its memory failed \(MemoryError: all is"):
        inference.peak_in_child(tmp_path / "nowhere", "float32", 1, 4, 1)
    assert speed_module.BATCH_SIZES == (1, 4)


def test_a_dense_model_of_another_depth_is_refused(tiny_llama_dir, pruned_dir):
    with pytest.raises(ConfigError, match=r"--dense: must be the dense model of .*, of 6 blocks"):
        planned(pruned_dir, pruned_dir)
