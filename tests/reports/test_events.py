"""TensorBoard's own reader finds every loss, time and measured value, each once."""

import sys

import pytest

from fusegpt.cli import fusegpt_command, run
from tests.reports.conftest import LAST, RECIPES
from tests.reports.test_progress import take_back

pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def read(directory, recipe):
    """Tag to (step, value) pairs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "tiny" / recipe), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def written(results, place):
    assert run(fusegpt_command, ["watch", str(results), "--once", "--tensorboard", str(place)]) == 0


def test_losses_times_and_values_are_there(results, tmp_path):
    written(results, tmp_path / "tb")
    found = read(tmp_path / "tb", RECIPES["fusegpt"])
    losses = found["recovery/loss"]
    assert [step for step, _ in losses] == list(range(LAST * 16))
    assert losses[16][1] == pytest.approx(0.05 * 2 + 0.01)
    assert found["step/seconds"] == [(step, 30.0) for step in (1, 2, 3, 4)]
    assert found["scoring/seconds"][0] == (1, 2.0)
    assert found["docs/python_docs/perplexity"][1] == (4, pytest.approx(41.6))
    assert "recovery/loss" not in read(tmp_path / "tb", RECIPES["macro_influence"])


def test_a_second_look_replaces_the_first_and_follows_what_goes_on(results, tmp_path):
    place = tmp_path / "tb"
    foreign = place / "tiny" / RECIPES["fusegpt"] / "events.out.tfevents.1.other"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"")
    take_back(results, RECIPES["fusegpt"], 4)
    written(results, place)
    written(results, place)
    assert len(read(place, RECIPES["fusegpt"])["recovery/loss"]) == 3 * 16 + 4
    assert foreign.exists()


def test_without_the_package_one_line_says_what_to_install(results, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert run(fusegpt_command, ["watch", str(results), "--tensorboard", "tb"]) == 2
    assert "pip install 'fusegpt[tensorboard]'" in capsys.readouterr().err
