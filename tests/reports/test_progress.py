"""How far runs are: steps, losses and time left from files and locks alone."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusegpt.cli import fusegpt_command, run
from fusegpt.locks import sole_writer
from fusegpt.pace import SAYS, in_words
from fusegpt.reports.progress import as_line, read_progress
from tests.reports.conftest import LAST, RECIPES

FUSEGPT = ("tiny", RECIPES["fusegpt"])
ROWS = [{"step": place, "epoch": 0, "loss": 8.0 / (place + 1)} for place in range(4)]


def take_back(results, recipe, step, steps=None):
    """Make a step look as it does while it is worked on."""
    directory = results / f"runs/tiny/{recipe}/step-{step:03d}"
    (directory / "manifest.json").unlink()
    (directory / "training.json").unlink()
    resume = directory / "resume.safetensors"
    about = {"fingerprint": "x", "rows": json.dumps(ROWS)}
    about |= {"steps": str(steps)} if steps else {}
    save_file({"0.value": np.zeros(3)}, resume, metadata=about)
    return directory


def of(results, planned, key=FUSEGPT):
    return {(one.model, one.recipe_id): one for one in read_progress(results, planned)}[key]


def test_a_whole_run_is_done_and_nothing_is_left(results):
    found = of(results, {FUSEGPT: range(1, 5)})
    assert (found.done, found.planned, found.seconds_left) == (4, 4, 0.0)
    assert found.is_done and not found.is_running
    assert as_line(found) == f"tiny  {RECIPES['fusegpt']}  steps done 4/4"


def test_a_running_step_tells_its_loss_and_what_is_left_of_it(results):
    directory = take_back(results, RECIPES["fusegpt"], 4)
    with sole_writer(directory):
        found = of(results, {FUSEGPT: range(1, 7)})
    assert found.is_running and not found.is_done
    assert (found.done, found.now.step, found.now.stage, found.now.of) == (3, 4, "recover", 16)
    assert found.seconds_left == pytest.approx((3 - 4 / 16) * 32)
    assert "step 4: recovering, optimiser step 4/16, loss 8 -> 2, about 88 s left" in as_line(found)


def test_a_running_step_repeats_what_its_log_said_last(results):
    directory = take_back(results, RECIPES["fusegpt"], 4)
    log = results.parent / f"logs/fuse/tiny/{RECIPES['fusegpt']}/step-004.log"
    log.parent.mkdir(parents=True)
    said = "fusion of block 3: optimiser step {}/16, 9 s each, about 90 s left"
    lines = [f"19:00:00 {SAYS}{said.format(5)}", f"19:01:00 {SAYS}{said.format(6)}", "a warning"]
    log.write_text("\n".join(lines) + "\n")
    with sole_writer(directory):
        found = of(results, {FUSEGPT: range(1, 7)})
    assert f"step 4: recovering: {said.format(6)}" in as_line(found)
    assert said.format(6) not in as_line(of(results, {FUSEGPT: range(1, 7)}))  # nobody works on it


def test_a_killed_step_is_told_from_a_running_one(results):
    take_back(results, RECIPES["fusegpt"], 4)
    found = of(results, {FUSEGPT: range(1, 5)})
    assert not found.is_running and not found.is_done
    assert "(nobody works on it)" in as_line(found)


def test_scoring_is_running_while_its_lock_is_held(results):
    directory = results / f"runs/tiny/{RECIPES['fusegpt']}/step-005"
    directory.mkdir()
    with sole_writer(directory / "scores.json"):
        found = of(results, None)
    assert found.is_running and found.now.stage == "score" and "step 5: scoring" in as_line(found)


def test_a_run_that_has_not_begun_is_named_by_the_plan(results):
    key = ("tiny", "sleb-00000009")
    found = of(results, {FUSEGPT: range(1, 5), key: range(1, 5)}, key)
    assert (found.done, found.seconds_left, found.is_done) == (0, None, False)
    assert as_line(found).endswith("steps done 0/4, not begun")


def test_of_a_contiguous_run_only_the_asked_steps_count(results):
    found = of(results, {FUSEGPT: [2, 4]})
    assert (found.done, found.planned, found.is_done) == (2, 2, True)


def test_a_first_step_takes_its_length_from_its_own_checkpoint(results):
    directory = take_back(results, RECIPES["fusegpt"], 1, steps=24)
    for step in (2, 3, 4):
        (directory.parent / f"step-{step:03d}/manifest.json").unlink()
    os.utime(directory / "scores.json", (1000, 1000))
    os.utime(directory / "resume.safetensors", (1040, 1040))
    found = of(results, {FUSEGPT: range(1, 5)})
    assert found.now.of == 24
    assert found.seconds_per_step == pytest.approx(2 + 40 / 4 * 24)
    assert found.seconds_left == pytest.approx((4 - 4 / 24) * 242)


@pytest.mark.parametrize("broken", [b"", b"\x00" * 7, b"[]"])
def test_a_file_that_is_being_written_is_no_error(results, broken):
    directory = take_back(results, RECIPES["fusegpt"], 4)
    (directory / "resume.safetensors").write_bytes(broken)
    assert not of(results, None).now.rows


def test_seconds_are_told_in_words():
    assert [in_words(value) for value in (45, 600, 12600)] == ["45 s", "10 min", "3.5 h"]


def test_watch_ends_with_0_when_nobody_works_any_more(results, capsys):
    assert run(fusegpt_command, ["watch", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RECIPES) and all(f"steps done {LAST}" in line for line in lines)


def test_watch_knows_what_an_experiment_plans(results, root, capsys):
    demo = str(root / "config/demo.yaml")
    assert run(fusegpt_command, ["watch", str(results), "--experiment", demo, "--once"]) == 0
    out = capsys.readouterr().out
    assert "steps done 0/6, not begun" in out and "evaluations done 0/10" in out
    assert "nobody works on a step now" in out


def test_watch_counts_evaluations_of_slices(results, root, tmp_path, capsys):
    study = tmp_path / "study.yaml"
    study.write_text((root / "config/demo.yaml").read_text().replace("fusegpt_mse]", "slicegpt]"))
    place = ["watch", str(results), "--experiment", str(study), "--once"]
    assert run(fusegpt_command, place) == 0
    assert "evaluations done 0/10" in capsys.readouterr().out


def test_watch_draws_over_the_last_look_on_a_terminal(results, capsys, monkeypatch):
    directory = take_back(results, RECIPES["fusegpt"], 4)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    looks = []

    def later(seconds):
        looks.append(seconds)
        (directory / "resume.safetensors").unlink()
        lock.__exit__(None, None, None)

    lock = sole_writer(directory)
    lock.__enter__()
    monkeypatch.setattr("time.sleep", later)
    assert run(fusegpt_command, ["watch", str(results), "--seconds", "2"]) == 0
    out = capsys.readouterr().out
    assert looks == [2.0] and "loss 8 -> 2" in out
    assert out.count(f"\x1b[{len(RECIPES)}A\x1b[J") == 1


def test_watch_of_no_folder_is_one_line(tmp_path, capsys):
    assert run(fusegpt_command, ["watch", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
