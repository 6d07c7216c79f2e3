"""The jobs of a run as functions: what they refuse before weights are loaded; shared scores."""

import dataclasses
import json

import pytest

from fusegpt import finish_model, fuse_model, merge_model, prune_model, score_model
from fusegpt.cli import fusegpt_command, run
from fusegpt.errors import ArtifactError, ConfigError, DataError
from fusegpt.pruning import jobs
from fusegpt.pruning.quality import Bound
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.start import take_scores, write_start
from fusegpt.results.base import read, write
from fusegpt.results.records import Scores


def recipe(method="none", metric="macro_influence", **settings):
    sections = {"importance": {"metric": metric}, "recovery": {"method": method}}
    return resolve("mine", {**sections, "dtype": "float32", **settings})


@pytest.fixture
def start(strong_llama_dir, tmp_path):
    """The manifest of step 000 of a run."""
    manifest = tmp_path / "run/step-000/manifest.json"
    write_start(manifest, strong_llama_dir / "source.json", recipe())
    return manifest


def test_pruning_is_refused_without_windows_and_into_a_directory_with_contents(
    strong_llama_dir, windows_file, tmp_path
):
    output = tmp_path / "out"
    with pytest.raises(DataError, match="recipe 'mine' trains: give its windows"):
        prune_model(strong_llama_dir, recipe("fusion"), 0.2, windows_file, output)
    with pytest.raises(ConfigError, match=r"sparsity: must be a fraction of units in \[0, 1\)"):
        prune_model(strong_llama_dir, recipe(), 25, windows_file, output)
    assert not output.exists()

    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="out: must not exist or be empty"):
        prune_model(strong_llama_dir, recipe(), 0.2, windows_file, output)


def test_merging_is_refused_without_the_windows_of_a_recovery_at_the_end(
    start, strong_llama_dir, tmp_path
):
    write_start(start, strong_llama_dir / "source.json", recipe("lora"))
    with pytest.raises(DataError, match="recipe 'mine' trains: give its windows"):
        merge_model(start, recipe("lora"), tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_recovery_at_the_end_needs_a_removal_before_it(
    start, strong_llama_dir, windows_file, tmp_path
):
    output, lora = tmp_path / "out", recipe("lora", finetune={"sequences": 64})
    write_start(start, strong_llama_dir / "source.json", lora)
    with pytest.raises(ConfigError, match="must be a step that removed something, is the dense"):
        merge_model(start, lora, output, finetune=windows_file)
    given = {"calibration": windows_file, "output": output, "finetune": windows_file}
    full = recipe(finish={"method": "full", "batch_size": 4}, finetune={"sequences": 8})
    for chosen, name in ((lora, "lora"), (full, "full")):
        with pytest.raises(ConfigError, match=f"{name} trains what a removal leaves, but nothing"):
            prune_model(strong_llama_dir, chosen, 0, **given)
    assert not output.exists()


def test_a_sparsity_below_what_is_gone_already_is_refused(strong_llama_dir, windows_file, tmp_path):
    half = tmp_path / "half"
    prune_model(strong_llama_dir, recipe(), 0.5, windows_file, half)
    with pytest.raises(ConfigError, match=r"must take the 3 of 6 .* gone already, 0.2 takes 2$"):
        prune_model(half, recipe(), 0.2, windows_file, tmp_path / "out")
    five = recipe(importance={"metric": "macro_influence", "protect_first": 3})
    bound = Bound(1e9, windows_file)
    with pytest.raises(ConfigError, match="'mine' lets 3 units go and 3 are gone already"):
        prune_model(half, five, bound, windows_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_of_the_dense_model_serve_every_recipe_that_scores_alike(
    start, strong_llama_dir, windows_file, tmp_path
):
    shared, own = tmp_path / "shared.json", tmp_path / "run/step-001/scores.json"
    scored = score_model(strong_llama_dir, recipe(), windows_file, shared)

    taken = take_scores(shared, recipe("lora"), start, own)

    assert taken.units == scored.units and taken.selected == scored.selected
    assert taken.recipe == recipe("lora").id != scored.recipe
    assert taken.parent.path == "../step-000/manifest.json"
    own.unlink()
    with pytest.raises(ArtifactError, match="must be scores by sleb, got those by macro_influence"):
        take_scores(shared, recipe(metric="sleb"), start, own)
    other = tmp_path / "other/step-000/manifest.json"
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"kind": "model", "num_blocks": 6, "base_model": "another"}))
    write_start(other, source, recipe())
    with pytest.raises(ArtifactError, match=r"of the model of .*, got those of another one"):
        take_scores(shared, recipe(), other, own)
    assert not own.exists()


def test_scores_that_select_what_the_recipe_protects_are_not_taken(
    start, strong_llama_dir, windows_file, tmp_path
):
    shared, own = tmp_path / "shared.json", tmp_path / "run/step-001/scores.json"
    selected = score_model(strong_llama_dir, recipe(), windows_file, shared).selected
    importance = {"metric": "macro_influence", "protect": [selected.index]}
    protecting = recipe(importance=importance)
    with pytest.raises(ArtifactError, match=f"'mine' lets go, got {selected}, which it protects"):
        take_scores(shared, protecting, start, own)


def test_a_step_goes_on_with_the_recipe_that_made_it_and_no_other(
    start, strong_llama_dir, windows_file, tmp_path
):
    scores, step = tmp_path / "run/step-001/scores.json", tmp_path / "run/step-001"
    other, healed = recipe(seed=1), recipe(finish={"method": "full"}, finetune={"sequences": 64})
    score_model(start, recipe(), windows_file, scores)
    fuse_model(start, recipe(), scores, step)
    manifest, output = step / "manifest.json", tmp_path / "out"
    of_another = rf"{step}/manifest.json: must be a step of recipe {other.id}, is one of mine-"
    with pytest.raises(ConfigError, match=of_another):
        merge_model(manifest, other, output)
    score_model(manifest, other, windows_file, tmp_path / "scores.json")  # to look at
    with pytest.raises(ConfigError, match=of_another):
        fuse_model(manifest, other, tmp_path / "scores.json", output)
    write_start(start, strong_llama_dir / "source.json", healed)
    with pytest.raises(ConfigError, match=r"recipes\.mine: has a finish; use fusegpt finish"):
        merge_model(start, healed, output)
    with pytest.raises(ConfigError, match=f"must be a step of recipe {other.id}, is one of"):
        finish_model(manifest, dataclasses.replace(healed, seed=1), output, windows=windows_file)
    assert not output.exists()


def test_scores_of_another_run_are_not_kept_by_a_selection_that_scores_once(
    start, strong_llama_dir, windows_file, tmp_path
):
    once = recipe(selection="one_shot")
    manifest, first = tmp_path / "once/step-000/manifest.json", tmp_path / "first.json"
    write_start(manifest, strong_llama_dir / "source.json", once)
    score_model(start, recipe(), windows_file, first)
    given = {"first_scores": first}
    with pytest.raises(ArtifactError, match=f"must be scores for recipe {once.id}, got those for"):
        score_model(manifest, once, windows_file, tmp_path / "out.json", **given)
    record = read(first, Scores).plus(recipe=once.id, parent={"path": "x", "sha256": "00"})
    write(first, record)
    with pytest.raises(ArtifactError, match="of the first step of this run, got those of x"):
        score_model(manifest, once, windows_file, tmp_path / "out.json", **given)
    assert not (tmp_path / "out.json").exists()


def test_first_scores_are_taken_by_nothing_but_a_later_step_of_their_run(
    start, strong_llama_dir, windows_file, tmp_path
):
    """A model's directory took those of any other model, and other selections passed them over."""
    once, first = recipe(selection="one_shot"), tmp_path / "first.json"
    score_model(start, recipe(), windows_file, first)
    given = {"first_scores": first}
    with pytest.raises(ConfigError, match="must be the manifest of a later step to take --first"):
        score_model(strong_llama_dir, once, windows_file, tmp_path / "out.json", **given)
    with pytest.raises(ConfigError, match="scores every step, by selection 'iterative'; leave out"):
        score_model(start, recipe(), windows_file, tmp_path / "out.json", **given)
    assert not (tmp_path / "out.json").exists()


def test_a_count_of_blocks_is_for_runs_of_neighbours(
    strong_llama_dir, windows_file, tmp_path, capsys
):
    line = ["score", "--model", strong_llama_dir, "--calibration", windows_file, "--count", 3]
    line += ["--metric", "block_influence", "--output", tmp_path / "out.json"]
    assert run(fusegpt_command, list(map(str, line))) == 2
    assert "--count is for contiguous selections, got 'iterative'" in capsys.readouterr().err


def test_a_compiled_step_is_not_gone_on_with_uncompiled(
    start, strong_llama_dir, windows_file, tmp_path, monkeypatch
):
    scores, known = tmp_path / "run/step-001/scores.json", []
    score_model(start, recipe(), windows_file, scores)

    def resume(path, fingerprint, **more):
        known.append(fingerprint)
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "Resume", resume)
    for compiled in (False, True):
        with pytest.raises(KeyboardInterrupt):
            fuse_model(start, recipe(), scores, tmp_path / "run/step-001", compiled=compiled)
    assert known[1] == f"{known[0]} compiled"
