"""What lm-eval has is known from its files, without importing it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from fusegpt.evaluation import task_files, task_names, zero_shot
from fusegpt.evaluation.settings import ZeroShot
from fusegpt.evaluation.task_members import names_below
from fusegpt.evaluation.task_names import known_tasks
from fusegpt.workflow.experiment import make_plan
from tests.reliability.test_settings import RECIPES
from tests.workflow.conftest import configuration


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """No name was read yet, in this process or an earlier one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for read in (known_tasks, names_below):
        read.cache_clear()
    yield tmp_path / "fusegpt"
    for read in (known_tasks, names_below):
        read.cache_clear()


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


def test_an_entry_for_a_member_of_a_group_is_read_whatever_the_group_is_called(fresh, monkeypatch):
    config = configuration()
    config["evaluations"] |= {
        name: {"eval": "zero_shot", "tasks": [task]}
        for name, task in (("both", "ai2_arc"), ("one", "arc_easy"), ("none", "piqa"))
    }
    config["tasks"] = {name: {"splits": {"test": f"{name}.jsonl"}} for name in ("arc_easy", "sst2")}
    monkeypatch.setattr(task_names, "_names", lambda folder: {"ai2_arc", "arc_easy", "piqa"})
    plan = make_plan(config, RECIPES)
    entry = {"arc_easy": {"splits": {"test": "arc_easy.jsonl"}}}

    assert [plan.tasks_of(x) for x in ("both", "one", "none", "docs")] == [entry, entry, {}, {}]

    names_below.cache_clear()
    monkeypatch.setattr(task_files, "leaves", lambda name: pytest.fail("asked again"))
    assert names_below("ai2_arc") == {"ai2_arc", "arc_easy", "arc_challenge"}
    monkeypatch.setattr(task_names.importlib.util, "find_spec", lambda name: None)
    assert names_below("mmlu") == {"mmlu"}


def test_the_entry_of_the_nearest_group_counts(tiny_llama_dir, monkeypatch):
    listed = {"all": ["some", "d"], "some": ["b", "c"]}

    def entry_of(name):
        kind = "GROUP" if name in listed else "TASK"
        cfg = {"task": listed.get(name, name)}
        return SimpleNamespace(kind=SimpleNamespace(name=kind), cfg=cfg, tags=set())

    monkeypatch.setattr(task_files, "entry_of", entry_of)
    found = []
    monkeypatch.setattr(zero_shot, "load_task", lambda *given, shots: found.append(given))
    monkeypatch.setattr(zero_shot, "_identity", lambda *_: {})

    zero_shot.plan(tiny_llama_dir, {"all": 1, "some": 2, "c": 3}, ZeroShot(tasks=["all"]))

    assert found == [("b", 2), ("c", 3), ("d", 1)]


@pytest.mark.slow
def test_every_name_of_lm_eval_is_known():
    from lm_eval.tasks import TaskManager

    assert set(TaskManager().task_index) <= known_tasks()
