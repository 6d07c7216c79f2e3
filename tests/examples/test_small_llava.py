"""The recipe of the small image-text model, in a few steps on a tiny language model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForImageTextToText, AutoProcessor

from answering import Adapted, accuracy, prompt, train_answering
from assembly import IMAGE_TOKEN, IMAGE_TOKENS, assemble
from fusegpt.cli import fusegpt_command
from fusegpt.workflow.files import plan_of
from pictures import COLORS, DIGITS, SHAPES, _digit_split, draw_pictures
from tests import forked
from tests.planned import commands, fusegpt
from tower import pixels, probe, train_tower

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/small_llava"
MODEL = "results/models/llava-135m"


def test_a_seed_draws_the_same_pictures_and_digits_are_split():
    one, other = (draw_pictures(30, 3, "training") for _ in range(2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, other, strict=True))
    assert [p.answer for p in one] == [p.answer for p in other]
    kinds = [p.kind for p in draw_pictures(900, 1, "training")]
    assert 250 < kinds.count("color") < 350  # a third
    assert 300 < kinds.count("shape") < 500 and 170 < kinds.count("digit") < 310
    split = _digit_split()
    assert len(split["training"]) == 1400 and len(split["held_out"]) == 397
    assert not set(split["training"]) & set(split["held_out"])


def test_a_picture_shows_its_color_on_a_dark_ground():
    for picture in draw_pictures(50, 0, "held_out"):
        if "digit" in picture.labels:
            continue  # drawn through a soft mask
        values = np.asarray(picture.image, dtype=int)
        assert values.shape == (32, 32, 3)
        distance = np.abs(values - np.array(COLORS[picture.labels["color"]])).max(axis=-1)
        assert (distance <= 20).sum() >= 20  # the paint, jittered by at most 20


def test_answers_are_single_words_of_the_kind_asked():
    for picture in draw_pictures(50, 0, "held_out"):
        words = {"color": COLORS, "shape": SHAPES, "digit": DIGITS}[picture.kind]
        assert picture.answer in words and " " not in picture.answer


def test_pixels_are_what_the_processor_makes_of_the_pictures(tiny_llava_dir):
    pictures = draw_pictures(3, 0, "training")
    processor = AutoProcessor.from_pretrained(tiny_llava_dir)
    made = processor(
        images=[p.image for p in pictures],
        text=[prompt(p.question) for p in pictures],
        return_tensors="pt",
        padding=True,
    )
    assert torch.allclose(made["pixel_values"], pixels(pictures), atol=1e-6)
    image = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert ((made["input_ids"] == image).sum(dim=1) == IMAGE_TOKENS).all()


def test_a_trained_tower_beats_chance():
    model = train_tower(12)
    assert probe(model, 200)["color"] > 0.3  # chance is 0.17


def test_a_seed_trains_the_same_tower():
    one, other = (train_tower(2).state_dict() for _ in range(2))
    assert all(torch.equal(other[name], value) for name, value in one.items())


@pytest.fixture
def assembled(tiny_llama_dir):
    return assemble(tiny_llama_dir, train_tower(1).tower)


def test_assembly_keeps_every_weight_and_makes_only_the_projector(assembled, tiny_llama_dir):
    from transformers import AutoModelForCausalLM

    model, processor = assembled
    language = AutoModelForCausalLM.from_pretrained(tiny_llama_dir).get_decoder().state_dict()
    state = model.model.language_model.state_dict()
    rows = len(language["embed_tokens.weight"])
    for name, value in language.items():
        assert torch.equal(
            state[name][:rows] if name == "embed_tokens.weight" else state[name], value
        )
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight.data_ptr() == embeddings.weight.data_ptr()
    assert len(head.weight) == len(processor.tokenizer) == rows + 1
    again, _ = assemble(tiny_llama_dir, model.model.vision_tower)
    assert all(torch.equal(again.state_dict()[n], value) for n, value in model.state_dict().items())


def test_training_lowers_the_loss_and_leaves_a_plain_model(assembled):
    model, processor = assembled
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = train_answering(model, processor.tokenizer, 12)
    after = model.state_dict()

    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert before.keys() == after.keys()  # updates are merged
    assert not any(isinstance(module, Adapted) for module in model.modules())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        name
        for name in before
        if ".multi_modal_projector." in name
        or (
            name.endswith(("q_proj.weight", "v_proj.weight", "o_proj.weight"))
            and ".language_model." in name
        )
    }
    found = accuracy(model, processor.tokenizer, draw_pictures(20, 1, "held_out"))
    assert set(found) == {"color", "shape", "digit", "all"}
    assert all(0 <= value <= 1 for value in found.values())


@pytest.fixture(scope="module")
def built(tiny_llama_dir, tmp_path_factory):
    """A directory where the workflow made the model, in two steps and from the tiny Llama."""
    directory = tmp_path_factory.mktemp("a wörk dir")
    models = {
        "smollm2-135m": {"source": f"dir:{tiny_llama_dir}", "num_blocks": 6, "licence": "mit"},
        "llava-135m": {"num_blocks": 6, "config": {"tower_steps": 2, "steps": 2}},
    }
    (directory / "tiny.json").write_text(json.dumps({"models": models}))
    asked = ["--snakefile", str(EXAMPLE / "Snakefile"), "--configfile", "tiny.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for words in commands(directory, "results/models/smollm2-135m/source.json", *asked):
            fusegpt(*words)
    done = snakemake(directory, f"{MODEL}/source.json")
    assert done.returncode == 0, done.stderr[-3000:]
    return directory


def snakemake(directory, *arguments):
    snakefile = ["--snakefile", str(EXAMPLE / "Snakefile")]
    tiny = ["--configfile", "tiny.json"] if (directory / "tiny.json").exists() else []
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE.parents[1])}
    return forked.run([*snakefile, *tiny, "--cores", "1", *arguments], directory, environment)


def jobs(done):
    """The job table of a dry run."""
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", done.stdout, re.M)}


@pytest.mark.slow
def test_the_workflow_leaves_a_model_that_transformers_loads_with_questions(built):
    AutoModelForImageTextToText.from_pretrained(built / MODEL)
    AutoProcessor.from_pretrained(built / MODEL)
    notes = json.loads((built / MODEL / "source.json").read_text())
    assert (notes["num_blocks"], notes["licence"]) == (6, "mit")
    assert notes["source"].startswith("made:dir:")
    assert set(notes["training"]["accuracy"]) == {"color", "shape", "digit", "all"}
    test = pq.read_table(built / MODEL / "questions-test.parquet").to_pylist()
    assert len(test) == 192 and test[0]["text"].startswith("<image>\nQuestion: ")


@pytest.mark.slow
def test_a_model_that_is_there_is_pruned_and_not_made_again(built):
    planned = jobs(snakemake(built, "--dry-run", "multimodal"))
    assert not {"fetch", "build_llava"} & set(planned)
    assert planned["fuse"] > 0 and planned["table"] == 1


def test_from_nothing_the_language_model_is_fetched_and_the_other_built_once(tmp_path):
    planned = jobs(snakemake(tmp_path, "--dry-run"))
    assert (planned["fetch"], planned["build_llava"], planned["fuse"]) == (1, 1, 27)


@pytest.mark.slow
def test_the_plan_counts_the_jobs_of_a_workflow_that_imports_ours(tmp_path):
    files = [str(EXAMPLE / "experiments.yaml"), "--snakefile", str(EXAMPLE / "Snakefile")]
    done = CliRunner().invoke(fusegpt_command, ["plan", *files, "--directory", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert re.search(r"^build_llava +1 +0$", done.output, re.M)


def test_the_small_table_3_is_a_part_of_the_experiment_and_has_the_papers_rows():
    plan = plan_of([str(EXAMPLE / "experiments.yaml"), "table3"])
    assert set(plan.points["table3-small"]) <= set(plan.points["multimodal"])
    named = {name: plan.experiments[name] for name in ("table3", "table3-small", "multimodal")}
    assert set(named["table3-small"].evaluations) <= set(named["multimodal"].evaluations)
    assert len(named["table3-small"].recipes) >= len(named["table3"].recipes) - 1


@pytest.mark.slow
def test_collecting_garbage_leaves_the_model_that_another_is_made_from(built):
    arguments = [str(EXAMPLE / "experiments.yaml"), "--directory", str(built)]
    done = CliRunner().invoke(fusegpt_command, ["gc", *arguments])
    assert done.output == "nothing to remove\n", done.output
