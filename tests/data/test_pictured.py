"""Windows of image-question sequences keep their pictures wherever windows go."""

from __future__ import annotations

import pytest
import torch

from fusegpt.cli import main
from fusegpt.data.pictured import Pictured, sample_questions
from fusegpt.data.window_files import read_windows, write_windows
from fusegpt.data.windows import batches, full_batches, read_meta
from fusegpt.errors import ArtifactError, DataError

LENGTH = 40


@pytest.fixture(scope="module")
def windows(tiny_llava_dir):
    file = tiny_llava_dir / "questions-train.parquet"
    return sample_questions(tiny_llava_dir, file, 6, LENGTH, seed=0)[0]


def test_sequences_hold_image_question_and_answer_without_padding(windows, tiny_llava_dir):
    from transformers import AutoProcessor

    tokenizer = AutoProcessor.from_pretrained(tiny_llava_dir).tokenizer
    assert windows.shape == (6, LENGTH) and windows.dtype == torch.int64
    text = tokenizer.decode(windows.plain()[0])
    assert text.startswith("<image>" * 16 + "\nQuestion: ")
    assert windows.inputs()["pixel_values"].shape == (6, 3, 32, 32)
    assert set(windows.inputs()) == {"input_ids", "pixel_values"}


def test_slices_and_batches_keep_the_pictures_and_other_operations_give_ids(windows):
    pieces = batches(windows, 4)
    assert [len(piece) for piece in pieces] == [4, 2]
    assert all(isinstance(piece, Pictured) for piece in pieces)
    pixels = windows.inputs()["pixel_values"]
    assert torch.equal(pieces[1].inputs()["pixel_values"], pixels[4:])
    assert torch.equal(windows[1:3].inputs()["pixel_values"], pixels[1:3])
    assert len(full_batches(windows, 4)) == 1
    for ids in (windows[:, 1:], windows[0, 1:], windows.int(), windows == 3, windows + 1):
        assert not isinstance(ids, Pictured)


def test_methods_that_read_one_window_at_a_time_are_refused(windows):
    with pytest.raises(DataError, match="this method reads text only; use text windows"):
        list(windows)


def test_a_file_gives_back_every_bit(windows, tmp_path):
    write_windows(tmp_path / "w.parquet", windows, {"corpus": "x"})
    again = read_windows(tmp_path / "w.parquet")
    assert torch.equal(again.plain(), windows.plain())
    one, other = again.inputs(), windows.inputs()
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert read_meta(tmp_path / "w.parquet").corpus == "x"


def test_draws_are_prefix_stable(windows, tiny_llava_dir):
    file = tiny_llava_dir / "questions-train.parquet"
    fewer = sample_questions(tiny_llava_dir, file, 3, LENGTH, seed=0)[0]
    assert torch.equal(fewer.plain(), windows.plain()[:3])


@pytest.mark.parametrize(
    ("length", "message"),
    [(8, "an image reaches beyond 8 tokens; raise the length"), (400, "tokens; lower the length")],
)
def test_a_length_that_does_not_fit_is_refused(tiny_llava_dir, length, message):
    file = tiny_llava_dir / "questions-train.parquet"
    with pytest.raises(DataError, match=message):
        sample_questions(tiny_llava_dir, file, 2, length, seed=0)


def test_a_text_model_has_no_processor_for_them(tiny_llama_dir, tiny_llava_dir):
    with pytest.raises(ArtifactError, match="must hold an image-text model's processor"):
        sample_questions(tiny_llama_dir, tiny_llava_dir / "questions-train.parquet", 2, 30, seed=0)


def test_the_verb_samples_them_from_a_parquet_with_images(tiny_llava_dir, tmp_path):
    file = tiny_llava_dir / "questions-train.parquet"
    arguments = ["--model", str(tiny_llava_dir), "--corpus", str(file), "--sequences", "4"]
    with pytest.raises(SystemExit) as stop:
        main(
            ["sample", *arguments, "--length", str(LENGTH), "--output", str(tmp_path / "w.parquet")]
        )
    assert stop.value.code == 0
    assert isinstance(read_windows(tmp_path / "w.parquet"), Pictured)
    meta = read_meta(tmp_path / "w.parquet").to_json()
    assert (meta["variant"], meta["sequences"], meta["length"]) == ("image_text", 4, LENGTH)
