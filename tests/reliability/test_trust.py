"""Nothing written earlier is trusted blindly: it is compared, or made again with a line."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusegpt.cli import fusegpt_command, run
from fusegpt.errors import ArtifactError
from fusegpt.evaluation.store import Store
from fusegpt.models.checkpoints.load import load
from fusegpt.recovery.resume import Checkpoint
from fusegpt.results.unfinished import check_unfinished

IDENTITY = {"key": "0" * 32}


@pytest.fixture
def stored(tmp_path):
    """A store with one entry, and its file."""
    store = Store(tmp_path, "m" * 32)
    store.put(IDENTITY, {"rows": [1.5]})
    (file,) = tmp_path.glob("*/*.json")
    return store, file


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace("1.5", "1.6"), "must be what was written"),
        (lambda text: text[:-9], "not valid JSON"),
        (lambda text: "[]", "must be a stored part"),
        (lambda text: '{"identity": {"key": "1"}, "result": 1}', "belongs to another model"),
        (lambda text: json.dumps({"identity": IDENTITY, "result": 1, "model": "n"}), "to another"),
    ],
)
def test_a_stored_part_that_is_not_what_was_measured_is_measured_again(
    stored, damage, said, caplog
):
    store, file = stored
    file.write_text(damage(file.read_text()))

    assert store.get(IDENTITY) is None

    assert said in caplog.text and "measured again" in caplog.text and str(file) in caplog.text


def test_a_stored_part_of_before_digests_is_taken(stored):
    store, file = stored
    file.write_text(json.dumps({"identity": IDENTITY, "result": 7}))

    assert store.get(IDENTITY) == 7


def test_a_stored_part_of_another_model_is_measured_again(stored, tmp_path):
    _, file = stored
    (tmp_path / ("n" * 32)).mkdir()
    file.rename(tmp_path / ("n" * 32) / file.name)

    assert Store(tmp_path, "n" * 32).get(IDENTITY) is None


def optimizer(value: float) -> torch.optim.Optimizer:
    """An optimiser that made one step on two parameters of different types."""
    parameters = [
        torch.nn.Parameter(torch.full((3, 5), value)),
        torch.nn.Parameter(torch.full((4,), value, dtype=torch.bfloat16)),
    ]
    made = torch.optim.Adam(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    return made


@pytest.fixture
def resume(tmp_path):
    """The resume file of a tuning after its first step."""
    file = tmp_path / "resume.safetensors"
    Checkpoint(file, "mine").save(optimizer(1.0), [{"step": 0, "loss": 0.5}], 9)
    return file


def rows_of(file, caplog) -> list[dict]:
    caplog.set_level(logging.INFO)
    later = optimizer(2.0)
    rows = Checkpoint(file, "mine").resume(later)
    (first, _) = later.param_groups[0]["params"]
    assert bool((first < 1.5).all()) == bool(rows)  # taken over, or left as it was
    return rows


def test_a_whole_resume_file_is_taken(resume, caplog):
    assert check_unfinished(resume)
    assert rows_of(resume, caplog) == [{"step": 0, "loss": 0.5}]


@pytest.mark.parametrize("place", [0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_a_flipped_bit_in_a_resume_file_starts_the_tuning_again(place, resume, caplog):
    content = bytearray(resume.read_bytes())
    content[int(place * len(content))] ^= 4
    resume.write_bytes(content)

    rows = rows_of(resume, caplog)

    if b'"digest"' in content:
        assert rows == [] and f"{resume}: " in caplog.text
        assert "the tuning starts again" in caplog.text
    else:  # the bit was in this word, and all else is what was written
        assert rows and "no digest recorded" in caplog.text


@pytest.mark.parametrize("text", [b"", b"\x00" * 8, b"\xff" * 30, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_resume_file_that_is_none_starts_the_tuning_again(text, resume, caplog):
    resume.write_bytes(text)

    assert rows_of(resume, caplog) == []
    assert "not a readable safetensors file" in caplog.text


def test_a_resume_file_of_before_digests_is_taken_and_said(resume, caplog):
    about = {"fingerprint": "mine", "rows": json.dumps([{"step": 0, "loss": 0.5}])}
    save_file(load_file(resume), resume, metadata=about)

    assert rows_of(resume, caplog)
    assert "no digest recorded" in caplog.text


def test_an_old_resume_file_of_another_shape_starts_the_tuning_again(resume, caplog):
    about = {"fingerprint": "mine", "rows": "[]"}
    tensors = load_file(resume)
    save_file(tensors | {"0.value": torch.zeros(2)}, resume, metadata=about)

    assert rows_of(resume, caplog) == []
    assert "the tuning starts again" in caplog.text


@pytest.fixture
def fetched(tiny_llama_dir, tmp_path):
    """A fetched model, of its own files."""
    place = tmp_path / "m"
    given = ["--model", f"dir:{tiny_llama_dir}", "--output", str(place)]
    assert run(fusegpt_command, ["-q", "fetch", *given]) == 0
    return place


def flip(file, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.unlink()  # it may be a link to the source's
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda m: (m / "tokenizer.json").unlink(), "tokenizer.json: missing, though"),
        (
            lambda m: flip(m / "model.safetensors", 9),
            "model.safetensors: not a readable safetensors file",
        ),
        (lambda m: flip(m / "model.safetensors", 1), "model.safetensors: "),
        (lambda m: flip(m / "config.json", 60), "config.json: checksum must be"),
        (lambda m: flip(m / "source.json", 60), "source.json: "),
    ],
)
def test_a_dense_model_is_compared_with_its_record_at_each_load(fetched, damage, said):
    assert load(fetched).num_blocks == 6
    damage(fetched)

    with pytest.raises(ArtifactError) as caught:
        load(fetched)

    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [-4, 4])
def test_weights_of_another_size_are_not_loaded(fetched, change):
    weights = fetched / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:change] if change < 0 else content + bytes(change))

    with pytest.raises(ArtifactError, match=r"model\.safetensors: must have \d+ bytes, got"):
        load(fetched)


@pytest.mark.parametrize("length", [0, 1, 2**63])
def test_a_header_that_is_none_is_one_line(fetched, length):
    (fetched / "source.json").unlink()
    weights = fetched / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(length.to_bytes(8, "little") + content[8:])

    with pytest.raises(ArtifactError, match=r"model\.safetensors: not a readable safetensors file"):
        load(fetched)
