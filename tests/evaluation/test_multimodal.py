"""lm-eval's engine for questions about images, on a tiny random LLaVA."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from fusegpt.errors import ArtifactError, ConfigError, DataError, UnknownNameError
from fusegpt.evaluation import EVALS
from fusegpt.evaluation.image_prompts import (
    ai2d_results,
    ai2d_text,
    cmmmu_images,
    cmmmu_results,
    cmmmu_text,
    gqa_results,
    gqa_text,
    mmmu_images,
    mmmu_results,
    mmmu_text,
    ok_vqa_results,
    ok_vqa_text,
)
from fusegpt.evaluation.multimodal import TASKS, multimodal, plan
from fusegpt.evaluation.settings import Multimodal
from fusegpt.methods import bind, defaults
from fusegpt.models.checkpoints.load import load
from tests.quick import each


def image(color: str):
    from PIL import Image

    return Image.new("RGB", (8, 8), color)


@pytest.fixture(scope="module")
def pictures(tiny_llava_dir):
    return {"pictures": {"splits": {"test": str(tiny_llava_dir / "questions-test.parquet")}}}


def asked(directory, entries, **settings):
    asked = {"tasks": ["pictures"], "chat_template": False, **settings}
    return plan(directory, entries, Multimodal(**asked))


def test_the_five_tasks_of_the_paper_are_the_default():
    assert defaults(EVALS["multimodal"])["tasks"] == [
        "mmmu_val",
        "cmmmu_val",
        "gqa",
        "ai2d",
        "ok_vqa",
    ]
    names = {path.stem for path in TASKS.glob("*.yaml")}
    assert names == {"mmmu_val", "cmmmu_val", "gqa", "ai2d", "ok_vqa", "pictures"}
    bind(EVALS["multimodal"], {"tasks": ["ai2d"], "limit": 3}, "evaluations.x")


def test_rows_by_kind_with_a_value_per_question(tiny_llava_dir, pictures):
    questions = asked(tiny_llava_dir, pictures)
    model = load(tiny_llava_dir, dtype="float32")
    rows = multimodal(model, questions, batch_size=5)

    kinds = pq.read_table(tiny_llava_dir / "questions-test.parquet")["kind"].to_pylist()
    assert rows[0]["task"] == "pictures"
    assert {row["task"]: row["num_samples"] for row in rows} == {
        "pictures": 12,
        **{f"pictures {kind}": kinds.count(kind) for kind in kinds},
    }
    for row in rows:
        assert row["metric"] == "exact_match" and 0 <= row["value"] <= 1
        assert len(row["items"]["values"].split()) == row["num_samples"]
        assert row["protocol"]["chat_template"] is False
        json.dumps(row)
    assert model.module.name_or_path == str(tiny_llava_dir)


@pytest.mark.slow
def test_the_batch_size_changes_no_answer(tiny_llava_dir, pictures):
    model = load(tiny_llava_dir, dtype="float32")
    questions = asked(tiny_llava_dir, pictures, limit=4, max_tokens=2)
    one, three = (multimodal(model, questions, batch_size=size) for size in (1, 3))
    assert one == three
    assert one[0]["num_samples"] == 4 and one[0]["protocol"]["limit"] == 4
    assert one[0]["protocol"]["generation"]["max_gen_toks"] == 2


@pytest.mark.slow
@pytest.mark.shared_data
def test_real_questions_with_their_images_run_to_the_end(tiny_llava_dir, shared_data):
    file = str(shared_data("mmmu_pro_tool/sample.parquet"))
    entries = {"mmmu_val": {"splits": {"test": file}}}
    asked = Multimodal(tasks=["mmmu_val"], chat_template=False, max_tokens=2)
    questions = plan(tiny_llava_dir, entries, asked)
    (row,) = multimodal(load(tiny_llava_dir, dtype="float32"), questions, batch_size=7)
    assert (row["task"], row["metric"], row["num_samples"]) == ("mmmu_val", "acc", 21)


@pytest.mark.parametrize(
    ("entries", "settings", "error", "message"),
    [
        (
            {"pictures": {"splits": {"test": "no.parquet"}}},
            {},
            DataError,
            "no.parquet: no such file",
        ),
        ({}, {}, DataError, "on no hub; name a parquet file with the images inside below tasks:"),
        ({}, {"tasks": ["ai2d"]}, DataError, "tasks.ai2d: lmms-lab-encoder/ai2d: HF_HUB_OFFLINE"),
        ({}, {"tasks": ["aid2"]}, UnknownNameError, "unknown multimodal task 'aid2'; did you mean"),
        ({}, {"chat_template": True}, ConfigError, "chat_template: the processor has none"),
        (
            {"pictures": {"splits": {"a": "x", "b": "y"}}},
            {},
            ConfigError,
            "tasks.pictures.splits: must name one file, got a, b",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(tiny_llava_dir, entries, settings, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        asked(tiny_llava_dir, entries, **settings)


def test_a_text_model_is_refused(tiny_llama_dir, pictures):
    with pytest.raises(ArtifactError, match="must hold an image-text model's processor"):
        asked(tiny_llama_dir, pictures)


def test_mmmu_asks_with_images_in_place_and_options_by_letter():
    doc = {
        "id": "v_1",
        "question": "Compare <image 2> with <image 1>.",
        "options": "['same', '<image 3>']",
        "answer": "B",
        **{f"image_{n}": image(color) for n, color in enumerate(("red", "green", "blue"), 1)},
    }
    assert mmmu_text(doc) == (
        "Compare <image> with <image>.\nA. same\nB. <image>\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert [one.getpixel((0, 0)) for one in mmmu_images(doc)] == [
        (0, 128, 0),
        (255, 0, 0),
        (0, 0, 255),
    ]
    assert mmmu_results(doc, ["(B)"]) == {"acc": 1.0}
    free = {"id": "v_2", "question": "How many?", "options": "[]", "answer": "['3', 'three']"}
    assert (
        mmmu_text(free)
        == "<image>\nHow many?\n\nAnswer the question using a single word or phrase."
    )
    assert mmmu_results(free, ["it is 3"]) == {"acc": 1.0}
    assert mmmu_results(free, ["4"]) == {"acc": 0.0}


def test_cmmmu_asks_by_kind():
    doc = {
        "id": 7,
        "type": "选择",
        "question": '图 <img="b.png"> 是什么?',
        **{f"option{n}": text for n, text in enumerate("一二三四", 1)},
        "answer": "AC",
        "image_1": image("red"),
        "image_1_filename": "a.png",
        "image_2": image("blue"),
        "image_2_filename": "b.png",
    }
    assert "图 <image> 是什么?\n选项:\n(A) 一\n(B) 二\n" in cmmmu_text(doc)
    assert [one.getpixel((0, 0)) for one in cmmmu_images(doc)] == [(0, 0, 255)]
    assert cmmmu_results(doc, ["AC"]) == {"acc": 1.0}
    assert cmmmu_results(doc, ["A"]) == {"acc": 0.0}
    assert cmmmu_results({**doc, "type": "判断", "answer": "错"}, ["不对"]) == {"acc": 1.0}
    assert cmmmu_results({**doc, "type": "填空", "answer": "12"}, ["等于12"]) == {"acc": 1.0}


def test_ai2d_gqa_and_ok_vqa_ask_as_published():
    ai2d = {"question": "What eats?", "options": ["fox", "hare"], "answer": "1", "image": None}
    assert ai2d_text(ai2d) == (
        "<image>\nWhat eats?\nA. fox\nB. hare\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert ai2d_results(ai2d, ["B. hare"]) == {"exact_match": 1.0}
    gqa = {"question": "Is it red?", "answer": "yes"}
    assert gqa_text(gqa).endswith("Is it red?\nAnswer the question using a single word or phrase.")
    assert gqa_results(gqa, [" Yes."]) == {"exact_match": 1.0}
    assert gqa_results(gqa, ["yes it is"]) == {"exact_match": 0.0}
    vqa = {"question": "What sport?", "answers": ["surfing"] * 2 + ["swimming"] * 8}
    assert ok_vqa_text(vqa).splitlines()[2] == (
        "When the provided information is insufficient, respond with 'Unanswerable'."
    )
    assert ok_vqa_results(vqa, ["surfing"]) == {"exact_match": pytest.approx(0.6)}


MADE_UP = {
    "ai2d": {"question": "What eats?", "options": ["fox", "hare"], "answer": "1"},
    "gqa": {"question": "Is it red?", "answer": "yes"},
    "ok_vqa": {"question": "What sport?", "answers": ["surfing"] * 10, "answer": "surfing"},
    "cmmmu_val": {
        "id": 1,
        "type": "判断",
        "question": '<img="a.png"> 对吗?',
        "answer": "对",
        "image_1_filename": "a.png",
    },
}


@pytest.mark.parametrize("task", each(MADE_UP, quick=("ai2d", "gqa")))
def test_every_task_runs_through_the_engine(tiny_llava_dir, tmp_path, task):
    import pyarrow as pa

    stored = pq.read_table(tiny_llava_dir / "questions-test.parquet")["image"].to_pylist()[:2]
    column = "image_1" if task == "cmmmu_val" else "image"
    rows = [{**MADE_UP[task], column: picture} for picture in stored]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")

    entries = {task: {"splits": {"test": str(tmp_path / "data.parquet")}}}
    questions = asked(tiny_llava_dir, entries, tasks=[task], max_tokens=2)
    rows = multimodal(load(tiny_llava_dir, dtype="float32"), questions, batch_size=2)
    assert rows[0]["task"] == task and rows[0]["num_samples"] == 2
