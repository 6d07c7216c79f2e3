"""Generation: one forward pass says what greedy writing would, question by question."""

import json
import re

import pytest

from fusegpt.cli import fusegpt_command, run
from fusegpt.data.tokens import load_tokenizer
from fusegpt.errors import ConfigError, DataError
from fusegpt.evaluation.generation import Asked, generation, plan
from fusegpt.evaluation.items import unpack
from fusegpt.evaluation.made_up import PAIRS, TASKS, questions
from fusegpt.evaluation.settings import Generation
from tests import tiny


@pytest.fixture(scope="module")
def written():
    """A model, questions of several lengths, and what it writes to them, token by token."""
    model, rows = tiny.model("llama"), []
    for number, length in enumerate((5, 8, 3, 7)):
        asked = tiny.ids(1, length, seed=number)
        made = model.module.generate(
            asked, do_sample=False, max_new_tokens=4, eos_token_id=None, pad_token_id=0
        )
        rows.append(made[0].tolist())
    return model, rows


def measured(model, rows, **settings):
    row, _ = generation(model, [Asked("made", rows, [4] * len(rows), {"items": "x"})], **settings)
    return row


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_answer_is_right_where_it_is_what_the_model_writes(written, batch_size):
    model, rows = written
    assert measured(model, rows, batch_size=batch_size)["value"] == 1.0
    for place in range(-4, 0):  # one other token, anywhere in the answer
        wrong = [list(row) for row in rows]
        wrong[1][place] = (wrong[1][place] + 1) % 100
        found = measured(model, wrong, batch_size=batch_size)
        assert found["value"] == 0.75 and unpack(found["items"]["values"]).tolist() == [1, 0, 1, 1]
    other = [[(row[0] + 1) % 100, *row[1:]] for row in rows]  # the question is not what is judged
    assert measured(model, other)["num_samples"] == 4


def test_tokens_of_an_answer_that_is_wrong_count_where_they_are_right(written):
    model, rows = written
    wrong = [*rows[:3], [*rows[3][:-1], (rows[3][-1] + 1) % 100]]
    exact, tokens = generation(model, [Asked("made", wrong, [4] * 4, {"items": "x"})])
    assert (exact["metric"], tokens["metric"]) == ("exact_match", "token_match")
    assert (exact["value"], tokens["value"]) == (0.75, (3 + 3 / 4) / 4)
    assert unpack(tokens["items"]["values"]).tolist() == [1, 1, 1, 0.75]


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_those_of_the_seed_and_fewer_are_the_first_of_more(task):
    made = questions(task, 20, 3, 0)
    assert questions(task, 5, 3, 0) == made[:5] and questions(task, 20, 3, 1) != made
    assert len(set(made)) == 20
    for one in questions(task, 20, 0, 0):
        assert one.prompt == one.prompt.rstrip() and one.answer.endswith("\n")
        given, answer = one.prompt, one.answer.strip()
        if task == "adding":
            assert sum(map(int, re.findall(r"\d", given))) == int(answer)
        elif task == "copying":
            assert given == f"Input: {answer}\nOutput:" and len(answer.split()) == 8
        elif task == "looking_up":
            assert f"{given.split()[-2]} is {answer}" in given
        else:
            opened = re.findall(r"[(\[{]", given)
            assert answer.split() == [PAIRS[bracket] for bracket in reversed(opened)]


def test_solved_examples_stand_before_each_question():
    (one,) = questions("adding", 1, 2, 0)
    *solved, asked = one.prompt.split("\n")
    assert len(solved) == 2 and asked.endswith("=")
    assert all(
        sum(map(int, re.findall(r"\d(?=.*=)", line))) == int(line.split()[-1]) for line in solved
    )


def test_it_is_measured_by_the_verb_and_kept_question_by_question(tiny_llama_dir, tmp_path):
    output = tmp_path / "made_up.json"
    asked = ["--eval", "generation", "--set", "items=3", "--set", "tasks=[adding, copying]"]
    verb = ["evaluate", "--model", str(tiny_llama_dir), *asked, "--dtype", "float32"]
    assert run(fusegpt_command, [*verb, "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [row["task"] for row in rows] == ["adding", "adding", "copying", "copying"]
    assert all(row["num_samples"] == 3 for row in rows)
    assert all(row["items"]["of"] == row["protocol"]["items"] for row in rows)


def test_what_cannot_be_asked_is_refused(tiny_llama_dir):
    with pytest.raises(ConfigError, match="tasks: 'adding' is there twice"):
        plan(tiny_llama_dir, {}, Generation(tasks=["adding", "adding"]))
    with pytest.raises(DataError, match=r"copying for .*: windows must be at most 512 tokens long"):
        plan(tiny_llama_dir, {}, Generation(tasks=["copying"], items=1, shots=40))


def test_positions_of_an_answer_are_its_own_tokens(tiny_llama_dir):
    (asked,) = plan(tiny_llama_dir, {}, Generation(tasks=["adding"], items=4, shots=1))
    tokenizer = load_tokenizer(tiny_llama_dir)
    for made, row, size in zip(
        questions("adding", 4, 1, 0), asked.rows, asked.answers, strict=True
    ):
        assert tokenizer.decode(row[-size:]).strip() == made.answer.strip()
