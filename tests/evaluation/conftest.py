"""Small task data, written for these tests, and models measured on them."""

from __future__ import annotations

import json

import pytest

PIQA = [
    ("open a jar", "turn the lid to the left", "turn the jar upside down and wait"),
    ("dry wet shoes", "put them into the fridge", "stuff them with newspaper"),
    ("sharpen a pencil", "turn it in a sharpener", "hold it under water"),
    ("cool hot tea", "close the lid of the pot", "pour it from cup to cup"),
    ("find a book", "ask the librarian", "paint the shelves"),
    ("keep bread fresh", "leave it in the sun", "wrap it in a cloth"),
]
SUMS = [("Ann has 2 pens and buys 3. How many has she?", 5), ("What is 4 plus 4?", 8)]


@pytest.fixture(scope="session")
def task_files(tmp_path_factory):
    """Entries of a config's ``tasks`` for piqa, gsm8k and one subject of MMLU."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = {
        "piqa": [
            {"goal": goal, "sol1": one, "sol2": two, "label": i % 2}
            for i, (goal, one, two) in enumerate(PIQA)
        ],
        "gsm8k": [{"question": q, "answer": f"Count.\n#### {a}"} for q, a in SUMS],
        "mmlu": [
            {"question": f"Which is {x}?", "subject": s, "choices": ["a", "b", x, "d"], "answer": 2}
            for s, x in (("anatomy", "bone"), ("anatomy", "skin"), ("astronomy", "moon"))
        ],
    }
    for name, content in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines)
    return {
        "piqa": {"splits": {"validation": str(folder / "piqa.jsonl")}},
        "gsm8k": {"splits": {"test": str(folder / "gsm8k.jsonl")}},
        "mmlu_anatomy": {"splits": {"test": str(folder / "mmlu.jsonl")}, "select": "subject"},
    }


@pytest.fixture(scope="session")
def pruned_dir(tiny_llama_dir, tmp_path_factory):
    """The tiny model without its blocks 2 and 3, as a checkpoint."""
    from fusegpt.models.checkpoints.load import load
    from fusegpt.models.checkpoints.save import save
    from fusegpt.models.surgery.removal import remove
    from fusegpt.units import Unit

    model = load(tiny_llama_dir, dtype="float32")
    for index in (2, 3):
        remove(model, Unit("block", index))
    directory = tmp_path_factory.mktemp("pruned") / "checkpoint"
    save(model, directory, extra={})
    return directory
