"""Tasks of lm-eval by name, against its own index of all of them."""

from __future__ import annotations

import random

import pytest

from fusegpt.evaluation.settings import FIVE
from fusegpt.evaluation.task_index import FOLDER, entry_of

NAMES = [*FIVE, "mmlu", "mmlu_anatomy", "gsm8k", "ai2_arc"]


@pytest.mark.slow
def test_every_entry_is_that_of_lm_evals_own_index():
    from lm_eval.tasks import TaskManager

    index = TaskManager().task_index
    tags = sorted(name for name, entry in index.items() if entry.kind.name == "TAG")
    draw = random.Random(0)
    drawn = [*NAMES, *draw.sample(sorted(index), 150), *draw.sample(tags, 50)]
    assert {name: entry_of(name) for name in drawn} == {name: index[name] for name in drawn}


def test_what_a_file_includes_belongs_to_it_and_a_name_is_no_part_of_another():
    anatomy = entry_of("mmlu_anatomy")
    assert anatomy.yaml_path.is_relative_to(FOLDER)
    assert anatomy.cfg["dataset_name"] == "anatomy"
    assert anatomy.cfg["dataset_path"] == "cais/mmlu"  # stands in the file that it includes
    assert entry_of("ai2_arc").tags == {"arc_challenge", "arc_easy"}
    assert entry_of("mmlu").kind.name == "GROUP"
    assert entry_of("mmlu_anatom") is None
