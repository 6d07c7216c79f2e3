import json
import math

import pytest
import torch

from fusegpt.cli import fusegpt_command, run
from fusegpt.errors import ConfigError, DataError, NumericsError, UnknownNameError
from fusegpt.evaluation.classification import classification, plan
from fusegpt.evaluation.comparison import compare
from fusegpt.evaluation.items import unpack
from fusegpt.evaluation.settings import Classification
from fusegpt.evaluation.text_data import Texts, draw, read_task
from fusegpt.models.checkpoints.load import load
from fusegpt.results.models import Row

TASK = """
text: review
label: opinion
template: "{text} Now it is"
words: {bad: never, good: better}
splits: {train: TRAIN, test: TEST}
"""
PARTS = (("ugly", "hard"), ("dense", "bad")), (("beautiful", "easy"), ("sparse", "good"))
FAST = {"shots": 6, "epochs": 4, "batch_size": 4, "learning_rate": 3e-3}


def reviews(start, stop):
    """Sublayer of each class; what they say is in their words."""
    for i in range(start, stop):
        first, second = PARTS[i % 2][i // 2 % 2]
        review = f"Number {i} is {first} and {second}."
        yield {"review": review, "opinion": ("bad", "good")[i % 2]}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A task file of its own, with its data beside it."""
    folder = tmp_path_factory.mktemp("task")
    for name, rows in (("train", reviews(0, 60)), ("test", reviews(60, 81))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = TASK.replace("TRAIN", str(folder / "train.jsonl"))
    path = folder / "reviews.yaml"
    path.write_text(content.replace("TEST", str(folder / "test.jsonl")))
    return path


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load(tiny_llama_dir, dtype="float32")


def measured(model, directory, task, **settings):
    planned = plan(directory, {}, Classification(tasks=[str(task)], **{**FAST, **settings}))
    (part,) = planned.parts
    result = classification(model, part)
    return planned.rows({part.name: result})[0], result


def changed(task, tmp_path, **changes):
    """The task file with some lines changed."""
    lines = task.read_text().splitlines()
    text = [changes.get(line.partition(":")[0], line) for line in lines]
    path = tmp_path / "other.yaml"
    path.write_text("\n".join(text))
    return path


@pytest.mark.parametrize("tune", ["all", "lora"])
def test_a_few_examples_teach_the_words_and_the_model_is_as_before(
    model, tiny_llama_dir, task, tune
):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    row, result = measured(model, tiny_llama_dir, task, tune=tune, epochs=8)
    assert row["value"] > 0.9
    assert result["about"]["last_loss"] < result["about"]["first_loss"]
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
    total = sum(p.numel() for p in model.module.parameters())
    assert (result["about"]["trainable_parameters"] == total) == (tune == "all")


def test_rows_say_what_chance_and_the_most_frequent_class_reach(model, tiny_llama_dir, task):
    row, result = measured(model, tiny_llama_dir, task)
    items = unpack(row["items"]["values"])
    assert (row["task"], row["metric"], row["unit"]) == ("reviews", "accuracy", "fraction")
    assert (row["num_samples"], row["chance"], row["majority"]) == (21, 0.5, 11 / 21)
    assert row["value"] == items.mean() and set(items) <= {0.0, 1.0}
    assert row["stderr"] == pytest.approx(math.sqrt(row["value"] * (1 - row["value"]) / 20))
    assert row["note"] == "chance 0.500, majority 0.524"
    assert 1 <= result["about"]["epoch"] <= 4
    assert row["protocol"]["shots"] == 6 and "limit" not in row["protocol"]


@pytest.mark.slow
def test_the_same_call_gives_the_same_items_and_another_seed_other_examples(
    model, tiny_llama_dir, task
):
    one, other = (measured(model, tiny_llama_dir, task, limit=10)[0] for _ in range(2))
    assert one == other and one["task"] == "reviews[:10]"
    drawn = measured(model, tiny_llama_dir, task, limit=10, seed=1)[0]
    assert drawn["protocol"]["examples"] != one["protocol"]["examples"]
    assert drawn["items"]["of"] == one["items"]["of"]
    (difference,) = compare([Row.model_validate(one)], [Row.model_validate(drawn)])
    assert difference.num_samples == 10


def test_the_kept_epoch_is_the_best_on_validation(model, tiny_llama_dir, task):
    accuracy = [
        measured(model, tiny_llama_dir, task, epochs=1, learning_rate=rate)[1]["about"]
        for rate in (1e-12, 3e-3)
    ]
    assert {about["epoch"] for about in accuracy} == {1}
    long = measured(model, tiny_llama_dir, task, epochs=6)[1]["about"]
    assert long["validation"] >= accuracy[0]["validation"]


def test_examples_are_balanced_disjoint_and_never_of_the_test_split(task):
    _, content = read_task(str(task))
    rows = list(reviews(0, 60)) + list(reviews(0, 8))
    texts = Texts([r["review"] for r in rows], [int(r["opinion"] == "good") for r in rows])
    avoid = {row["review"] for row in reviews(0, 20)}
    examples, validation = draw(texts, content, 10, 0, avoid, "tasks.reviews")
    assert sorted(examples.classes) == sorted(validation.classes) == [0] * 10 + [1] * 10
    drawn = [*examples.texts, *validation.texts]
    assert len(set(drawn)) == 40 and not set(drawn) & avoid
    assert list(examples.classes) != sorted(examples.classes)
    fewer, _ = draw(texts, content, 5, 0, avoid, "tasks.reviews")
    assert set(fewer.texts) < set(examples.texts)


def test_long_texts_are_cut_and_the_template_stays(tiny_llama_dir, task, model):
    part = plan(tiny_llama_dir, {}, Classification(tasks=[str(task)], length=30, **FAST)).parts[0]
    end = model.tokenizer(" Now it is", add_special_tokens=False)["input_ids"]
    assert max(map(len, part.test.ids)) <= 30
    assert all(list(ids[-len(end) :]) == end for ids in part.test.ids)
    with pytest.raises(ConfigError, match=r"length: 5 tokens do not hold tasks.reviews's prompt"):
        plan(tiny_llama_dir, {}, Classification(tasks=[str(task)], length=5, **FAST))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "text: sentence"}, r"tasks.other.train: no column 'sentence'; it has review"),
        ({"words": "words: {bad: never, fine: better}"}, r"row 1: opinion must be one of 'bad',"),
        ({"words": "words: {bad: never, good: never}"}, r"'never' and 'never' begin with the same"),
        ({"words": "words: {bad: never}"}, r"other.yaml.words: must have at least 2 entry"),
        ({"template": "template: it is"}, r"template: must hold \{text\} once"),
        ({"splits": "splits: {train: a.txt}"}, r"splits: must be train and test, got train"),
        ({"splits": "splits: {train: a.csv, test: b}"}, r"tasks.other: a.csv: no such file"),
        ({"label": "labels: opinion"}, r"other.yaml.label: is required"),
    ],
)
def test_a_wrong_task_file_is_refused_before_a_model_loads(
    tiny_llama_dir, task, tmp_path, changes, message
):
    with pytest.raises((ConfigError, DataError), match=message):
        tasks = [str(changed(task, tmp_path, **changes))]
        plan(tiny_llama_dir, {}, Classification(tasks=tasks, **FAST))


def test_what_cannot_be_drawn_or_named_is_refused(tiny_llama_dir, task, model):
    def planned(*tasks, entries=None, **settings):
        asked = Classification(tasks=list(tasks), **{**FAST, **settings})
        return plan(tiny_llama_dir, entries or {}, asked)

    with pytest.raises(DataError, match=r"label 'bad' has 30 examples that are not in the test"):
        planned(str(task), shots=16)
    with pytest.raises(UnknownNameError, match=r"classification task 'sst'; did you mean 'sst2'"):
        planned("sst")
    with pytest.raises(ConfigError, match=r"tasks: 'reviews' is there twice"):
        planned(str(task), str(task))
    with pytest.raises(DataError, match=r"tasks.sst2: split 'test' is needed, has train"):
        planned("sst2", entries={"sst2": {"splits": {"train": str(task.with_name("train.jsonl"))}}})
    with pytest.raises(ConfigError, match=r"length: must be at most 512, the model's positions"):
        planned(str(task), length=513)
    with pytest.raises(NumericsError, match=r"reviews: loss is nan at step \d+; lower the"):
        measured(model, tiny_llama_dir, task, learning_rate=1e30)


def test_the_command_line_stores_what_it_measured(tiny_llama_dir, task, tmp_path, monkeypatch):
    settings = json.dumps({"tasks": [str(task)], **FAST})
    arguments = ["evaluate", "--model", tiny_llama_dir, "--eval", "classification", "--dtype"]
    arguments += ["bfloat16", "--settings", settings, "--store", tmp_path / "store", "--output"]
    assert run(fusegpt_command, [str(x) for x in (*arguments, tmp_path / "one.json")]) == 0
    monkeypatch.setattr("fusegpt.models.checkpoints.load.load", None)
    assert run(fusegpt_command, [str(x) for x in (*arguments, tmp_path / "two.json")]) == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["rows"] == two["rows"] and one["rows"][0]["chance"] == 0.5


@pytest.mark.slow
@pytest.mark.shared_data
def test_both_tasks_read_their_data(tiny_llama_dir, shared_data):
    files = {
        "sst2": ("glue_sst2/train_alps.parquet", "glue_sst2/validation.parquet"),
        "ag_news": ("ag_news/train_subset5000.parquet", "ag_news/test.parquet"),
    }
    entries = {
        name: {"splits": {"train": str(shared_data(train)), "test": str(shared_data(test))}}
        for name, (train, test) in files.items()
    }
    sst2, ag_news = plan(tiny_llama_dir, entries, Classification(limit=50)).parts
    assert (len(sst2.words), len(ag_news.words)) == (2, 4)
    assert (len(sst2.examples.ids), len(ag_news.validation.ids)) == (32, 64)
    assert len(ag_news.test.ids) == 50
