"""Two processes on the CPU do what one does, and end together, with one error at most."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from fusegpt import parallel
from fusegpt.cli.ranks import run_ranks
from fusegpt.errors import ConfigError, FuseGPTError, NumericsError, Stopped
from fusegpt.registry import Entry
from fusegpt.signals import stoppable
from tests import shared_work


def run(work: str, folder) -> None:
    given = {"output": folder, "device": "cpu"}
    with stoppable():
        run_ranks("fuse", given, 2, None, Entry(f"tests.shared_work:{work}"))


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """What each of two processes came to."""
    folder = tmp_path_factory.mktemp("computed")
    run("compute", folder)
    assert (folder / "done").read_text() == "0"
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_the_loss_over_a_batch_has_the_gradient_that_one_process_gives_it(computed):
    for found in computed:
        torch.testing.assert_close(found["gradient"], shared_work.gradient(), rtol=1e-5, atol=1e-6)
    assert torch.equal(computed[0]["gradient"], computed[1]["gradient"])


def test_training_ends_where_that_of_one_process_does(computed):
    alone = shared_work.trained()
    assert not torch.allclose(alone, torch.eye(4) + 0.5, atol=0.1)
    for found in computed:
        torch.testing.assert_close(found["trained"], alone, rtol=1e-4, atol=1e-5)


def test_a_stopped_training_goes_on_to_the_same_bits_in_all_processes(computed):
    for found in computed:
        assert torch.equal(found["resumed"], computed[0]["trained"])


def test_parts_follow_each_other_and_values_are_the_same_everywhere(computed):
    assert [found["rows"].tolist() for found in computed] == [[0, 1], [2, 3, 4]]
    assert [found["pairs"].tolist() for found in computed] == [[0, 1], [2, 3, 4]]
    assert [found["sum"] for found in computed] == [0.1 + 1.1] * 2
    assert [found["merged"] for found in computed] == [{"of 0": 0, "of 1": 1}] * 2
    assert [found["agreed"] for found in computed] == ["of 0"] * 2


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_said_once(tmp_path, capfd):
    with pytest.raises(NumericsError, match="loss is nan at step 3"):
        run("fail", tmp_path)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err.count("nan") == 0


@pytest.mark.slow
def test_a_killed_process_ends_the_others(tmp_path):
    with pytest.raises(FuseGPTError, match="fuse: process 2 of 2 ended with exit code -9"):
        run("die", tmp_path)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_signal_ends_all(tmp_path):
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        run("stop", tmp_path)
    assert multiprocessing.active_children() == []


def test_a_batch_has_a_window_for_each_process(monkeypatch):
    monkeypatch.setattr(parallel, "_processes", 4)
    parallel.check_batch(4, "recovery.batch_size")
    with pytest.raises(
        ConfigError, match=r"recovery\.batch_size: must have a window for each of 4"
    ):
        parallel.check_batch(3, "recovery.batch_size")
