"""Pruning an image-text model, calibrated with text or with questions about images."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from fusegpt.data.pictured import sample_questions
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.checkpoints.load import load
from fusegpt.pruning.loop import prune
from fusegpt.pruning.publish import publish
from fusegpt.pruning.recipe import resolve
from tests import tiny
from tests.quick import slow

RECOVERY = {"method": "fusion", "rank": 2, "lora_rank": 2, "epochs": 2, "batch_size": 4}
RECIPE = resolve(
    "fusegpt",
    {
        "importance": {"metric": "macro_influence"},
        "recovery": {**RECOVERY, "coefficient_learning_rate": 1e-2},
        "finetune": {"sequences": 8},
        "dtype": "float32",
    },
)


@pytest.fixture(scope="module")
def questions(tiny_llava_dir):
    file = tiny_llava_dir / "questions-train.parquet"
    return sample_questions(tiny_llava_dir, file, 8, 40, seed=0)[0]


@pytest.mark.parametrize("calibration", [slow("text"), "image_text"])
def test_vision_tower_and_projector_stay_and_the_whole_model_reloads(
    tiny_llava_dir, questions, tmp_path, calibration
):
    windows = tiny.ids(8, 24) if calibration == "text" else questions
    model = load(tiny_llava_dir, dtype="float32")
    steps = prune(model, RECIPE, 2, windows, windows)
    publish(model, RECIPE, steps, tmp_path / "pruned")

    dense = AutoModelForImageTextToText.from_pretrained(tiny_llava_dir, dtype=torch.float32)
    pruned = AutoModelForImageTextToText.from_pretrained(tmp_path / "pruned", dtype=torch.float32)
    assert len(pruned.model.language_model.layers) == 4
    before, after = dense.state_dict(), pruned.state_dict()
    seeing = [name for name in before if ".language_model.layers." not in name]
    assert any("vision_tower" in name for name in seeing)
    assert any("multi_modal_projector" in name for name in seeing)
    assert all(torch.equal(before[name], after[name]) for name in seeing)

    processors = [AutoProcessor.from_pretrained(p) for p in (tiny_llava_dir, tmp_path / "pruned")]
    one, other = (processor.to_dict() for processor in processors)
    assert {**one, "name_or_path": ""} == {**other, "name_or_path": ""}
    with torch.no_grad():
        inputs = questions[:2].inputs()
        logits = pruned.eval()(**inputs, use_cache=False).logits
        assert torch.allclose(logits, model.module(**inputs, use_cache=False).logits, atol=1e-5)


def test_scores_from_questions_see_the_images(tiny_llava_dir, questions):
    model = load(tiny_llava_dir, dtype="float32")
    seen = macro_influence(model, [questions], model.units())
    other = questions[:]
    other.extras = [{"pixel_values": -extra["pixel_values"]} for extra in questions.extras]
    assert not torch.equal(seen, macro_influence(model, [other], model.units()))
    naive = macro_influence(model, list(questions.split(3)), model.units())
    assert torch.allclose(seen, naive, atol=1e-6)
