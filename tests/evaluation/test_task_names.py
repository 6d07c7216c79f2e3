"""What lm-eval has is known from its files, without importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusegpt.evaluation import task_names
from fusegpt.evaluation.task_names import known_tasks
from fusegpt.workflow.experiment import make_plan
from tests.reliability.test_settings import RECIPES
from tests.workflow.conftest import configuration


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """No name was read yet, in this process or an earlier one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known_tasks.cache_clear()
    yield tmp_path / "fusegpt"
    known_tasks.cache_clear()


@pytest.mark.slow
def test_the_names_are_kept_and_read_back(fresh, monkeypatch):
    names = known_tasks()
    assert {"piqa", "mmlu", "lambada", "arc_challenge", "gsm8k_cot"} <= names
    (kept,) = fresh.iterdir()
    known_tasks.cache_clear()
    monkeypatch.setattr(task_names, "_names", lambda folder: pytest.fail("read again"))

    assert known_tasks() == names

    kept.write_text("{")
    known_tasks.cache_clear()
    monkeypatch.setattr(task_names, "_names", lambda folder: {"one"})
    assert known_tasks() == {"one"}


def test_without_lm_eval_no_name_is_refused(fresh, monkeypatch):
    monkeypatch.setattr(task_names.importlib.util, "find_spec", lambda name: None)
    config = configuration()
    config["evaluations"]["asked"] = {"eval": "zero_shot", "tasks": ["anything"]}

    assert known_tasks() is None
    make_plan(config, RECIPES)


def test_lm_eval_is_not_imported():
    code = "import sys; from fusegpt.evaluation.task_names import known_tasks; known_tasks()"
    code += "; sys.exit('lm_eval' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_every_name_of_lm_eval_is_known():
    from lm_eval.tasks import TaskManager

    assert set(TaskManager().task_index) <= known_tasks()
