"""Attentions and mlps through the whole pipeline: verbs, manifests, checkpoints, other programs."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

import fusegpt.models.sublayers  # noqa: F401 - as the model card says
from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.errors import ArchitectureError, ConfigError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.loop import prune
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.scoring import score_step
from fusegpt.pruning.select import candidates
from fusegpt.units import Unit
from fusegpt.workflow.describe import as_text, describe
from tests import tiny
from tests.quick import slow

FUSION = {"method": "fusion", "group_size": 3, "rank": 4, "lora_rank": 4, "epochs": 2}
FUSION |= {"batch_size": 4, "learning_rate": 1e-2, "coefficient_learning_rate": 3e-2}
BIAS = {"method": "additive_bias", "clip": 0.0}


def settings(granularity, recovery, **more):
    importance = {"metric": "macro_influence", "protect_first": 1}
    return {
        "importance": importance,
        "granularity": granularity,
        "recovery": recovery,
        "finetune": {"sequences": 8},
        "dtype": "float32",
        **more,
    }


def chain(strong_llama_dir, windows_file, tmp_path, recipe, steps):
    """Start, score and fuse as the workflow does; the last step's manifest."""
    record = tmp_path / "runs" / "recipe.json"
    manifest = tmp_path / "runs" / "step-000" / "manifest.json"
    assert not run(command, [
        "start", "--model", str(strong_llama_dir / "source.json"), "--recipe-settings",
        json.dumps(recipe.to_json()), "--output", str(manifest), "--recipe-output", str(record),
    ])  # fmt: skip
    first = []
    for step in range(1, steps + 1):
        folder = tmp_path / "runs" / f"step-00{step}"
        common = ["--model", str(manifest), "--recipe", str(record)]
        scores = ["--output", str(folder / "scores.json")]
        data = ["--calibration", str(windows_file)]
        assert not run(command, ["score", *common, *data, *first, *scores])
        if recipe.selection == "one_shot":
            first = ["--first-scores", str(tmp_path / "runs" / "step-001" / "scores.json")]
        data = ["--scores", str(folder / "scores.json"), "--finetune", str(windows_file)]
        assert not run(command, ["fuse", *common, *data, "--output", str(folder)])
        manifest = folder / "manifest.json"
    return manifest, record


@pytest.mark.parametrize(
    "granularity, recovery, more",
    [
        slow("attention", FUSION, {}),
        ("mixed", {**FUSION, "fold": "at_end"}, {}),
        slow("mixed", BIAS, {}),
        ("mlp", {"method": "none"}, {"selection": "one_shot"}),
    ],
)
def test_one_process_and_the_chain_of_verbs_leave_the_same_bits(
    strong_llama_dir, windows_file, tmp_path, granularity, recovery, more
):
    made = settings(granularity, recovery, **more)
    recipe = resolve("mine", made)
    (tmp_path / "mine.yaml").write_text(json.dumps(made))
    sparsity = "0.25" if granularity == "mixed" else "0.5"
    assert not run(command, [
        "prune", "--model", str(strong_llama_dir), "--recipe", str(tmp_path / "mine.yaml"),
        "--sparsity", sparsity, "--calibration", str(windows_file), "--finetune", str(windows_file),
        "--output", str(tmp_path / "whole"),
    ])  # fmt: skip
    manifest, record = chain(strong_llama_dir, windows_file, tmp_path, recipe, 3)
    merged = ["merge", "--model", str(manifest), "--recipe", str(record), "--output"]
    assert not run(command, [*merged, str(tmp_path / "cut")])
    assert not run(command, [*merged, str(tmp_path / "zeros"), "--zeroed"])

    notes = [json.loads((tmp_path / d / "fusegpt.json").read_text()) for d in ("whole", "cut")]
    for key in ("removed", "kept", "fused", "recipe_id", "parameters", "needs"):
        assert notes[0].get(key) == notes[1].get(key)
    assert notes[0]["kept"] == [0, 1, 2, 3, 4, 5] and len(notes[0]["removed"]) == 3
    one, other = (load(tmp_path / d, dtype="float32") for d in ("whole", "cut"))
    state, again = one.module.state_dict(), other.module.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    ids = tiny.ids()
    expected = one.module(ids).logits
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype=torch.float32)
    assert torch.equal(plain(ids).logits, expected)
    zeros = AutoModelForCausalLM.from_pretrained(tmp_path / "zeros", dtype=torch.float32)
    assert type(zeros).__name__ == "LlamaForCausalLM"
    assert torch.equal(zeros(ids).logits, expected)
    text = as_text(describe(manifest))
    assert all(f"{unit}" in text for unit in one.removed)


@pytest.mark.slow
def test_a_checkpoint_says_what_it_needs_and_no_other_program_reads_it_by_mistake(
    strong_llama_dir, windows_file, tmp_path
):
    model = load(strong_llama_dir, dtype="float32")
    recipe = resolve("mine", settings("attention", {"method": "none"}))
    steps = prune(model, recipe, 2, tiny.ids(8, 10))
    from fusegpt.pruning.publish import publish

    notes = publish(model, recipe, steps, tmp_path / "cut")
    assert notes.needs == "import fusegpt.models.sublayers"
    card = (tmp_path / "cut" / "README.md").read_text()
    assert "without 2 of 6 attentions" in card and "import fusegpt.models.sublayers" in card
    assert "2 of 6 attentions (33.3%) were removed" in card

    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "try: AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "except ValueError as error: print('refused', 'fusegpt_sublayers' in str(error))\n"
        "import fusegpt.models.sublayers\n"
        "print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__name__)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('fusegpt')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cut")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "refused True",
        "SublayersLlamaForCausalLM",
        "fusegpt fusegpt.models fusegpt.models.sublayers",  # it needs nothing else of the package
    ]


def test_there_is_nothing_to_zero_in_a_plain_checkpoint(
    strong_llama_dir, windows_file, tmp_path, capsys
):
    recipe = resolve("mine", {**settings("block", {"method": "none"}), "granularity": "block"})
    manifest, record = chain(strong_llama_dir, windows_file, tmp_path, recipe, 1)
    merge = ["merge", "--model", str(manifest), "--recipe", str(record), "--zeroed", "--output"]
    assert run(command, [*merge, str(tmp_path / "zeros")]) == 2
    assert "--zeroed: is for models without attentions or mlps" in capsys.readouterr().err
    assert not (tmp_path / "zeros").exists()


def test_protected_blocks_keep_both_halves_and_the_last_attention_is_no_candidate():
    model = tiny.model("llama")
    made = settings("mixed", {"method": "none"})
    made["importance"] |= {"protect_last": 2}
    units = candidates(model, resolve("mine", made), tiny.ids())
    assert units == [Unit(kind, i) for i in (1, 2, 3) for kind in ("attention", "mlp")]

    remove(model, *(Unit("attention", i) for i in (0, 1, 3, 4, 5)))
    made["importance"] |= {"protect_last": 0}
    units = candidates(model, resolve("mine", made), tiny.ids())
    assert Unit("attention", 2) not in units and Unit("mlp", 2) in units
    with pytest.raises(ConfigError, match="leave none of 1 units to remove"):
        candidates(model, resolve("mine", {**made, "granularity": "attention"}), tiny.ids())


def test_lora_at_the_end_tunes_what_is_left():
    model = tiny.model("llama")
    lora = {"method": "lora", "lora_rank": 2, "epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
    recipe = resolve("mine", settings("mixed", lora))
    steps = prune(model, recipe, 3, tiny.ids(8, 10), tiny.ids(8, 10))
    assert len(model.lacking) == 3
    assert steps[-1].finish.last_loss < steps[-1].finish.first_loss


def test_a_pruned_checkpoint_can_lose_more_sublayers_but_no_blocks(
    strong_llama_dir, windows_file, tmp_path
):
    first = load(strong_llama_dir, dtype="float32")
    recipe = resolve("mine", settings("attention", {"method": "none"}))
    steps = prune(first, recipe, 2, tiny.ids(8, 10))
    from fusegpt.pruning.publish import publish

    publish(first, recipe, steps, tmp_path / "cut")
    again: Model = load(tmp_path / "cut", dtype="float32")
    mixed = resolve("mine", settings("mixed", {"method": "none"}))
    prune(again, mixed, 2, tiny.ids(8, 10))
    prune(first, mixed, 2, tiny.ids(8, 10))
    assert again.lacking == first.lacking and len(again.lacking) == 4
    assert torch.equal(again.module(tiny.ids()).logits, first.module(tiny.ids()).logits)
    with pytest.raises(Exception, match="blocks can only go from a model whose blocks are whole"):
        remove(again, Unit("block", 2))


def test_candidates_of_both_kinds_are_tried_before_one_goes():
    made = settings("mixed", FUSION, rerank={"candidates": 3, "sequences": 4, "judged": 2})
    model = tiny.model("llama")
    (step,) = prune(model, resolve("mine", made), 1, tiny.ids(8, 10), tiny.ids(8, 10))
    tried = [trial.unit for trial in step.rerank.candidates]
    assert len(tried) == 3 and model.removed == [step.unit]
    assert model.removed[0] in tried and model.lacking == {*model.removed}


@pytest.mark.parametrize("granularity", ["attention", "mlp"])
def test_a_model_that_no_emulation_folds_into_is_refused_before_the_first_score(granularity):
    recipe = resolve("mine", settings(granularity, BIAS))
    with pytest.raises(ArchitectureError, match="nothing can be folded into it"):
        score_step(tiny.model("gemma2"), recipe, tiny.ids(8, 10))
