"""Text that a model writes itself: seeded, batched, resumable, and a corpus like others."""

import json
import math
import shutil
import sys
import types
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.data.generated import Generated, read_generated
from fusegpt.data.masked import Masked, predicted
from fusegpt.data.rewriting import accepted, request
from fusegpt.data.sampling import sample
from fusegpt.data.streamed import stream_windows
from fusegpt.data.tokens import load_tokenizer
from fusegpt.data.window_files import read_windows
from fusegpt.data.windows import read_meta
from fusegpt.errors import ConfigError, DataError, NumericsError, Stopped
from fusegpt.models import generation
from fusegpt.models.checkpoints.load import load
from fusegpt.models.generation import generate
from tests.data.test_chats import TEMPLATE

SMALL = {"sequences": 5, "length": 9, "batch_size": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def model(tiny_llama_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("own") / "model"
    shutil.copytree(tiny_llama_dir, directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    file = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    rows = [{"prompt": "now? " * (n + 1), "completion": "never"} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def texts(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("texts") / "own.parquet"
    return generate(model, Generated(**SMALL), output=output)


def test_texts_are_those_of_the_seed_whatever_the_batches(model, texts, tmp_path):
    assert texts.shape == (5, 9) and type(texts) is torch.Tensor
    again = generate(
        model, Generated(**{**SMALL, "batch_size": 3}), output=tmp_path / "again.parquet"
    )
    assert torch.equal(again, texts)
    fewer = Generated(**{**SMALL, "sequences": 2})
    assert torch.equal(generate(model, fewer, output=tmp_path / "few.parquet"), texts[:2])
    other = generate(model, Generated(**SMALL, seed=1), output=tmp_path / "other.parquet")
    assert not torch.equal(other, texts)


def test_every_token_is_a_draw_from_the_model(model, tmp_path):
    """Of many texts that start alike, second tokens are as frequent as the model says."""
    prompt = tmp_path / "one.parquet"
    pq.write_table(pa.table({"input_ids": [[50, 60]]}), prompt)
    settings = Generated(
        start="prefixes", corpus=str(prompt), prefix=2, sequences=400, length=3, batch_size=400,
        dtype="float32", temperature=0.5,
    )  # fmt: skip
    drawn = generate(model, settings, output=tmp_path / "many.parquet")[:, 2]
    with torch.no_grad():
        logits = load(model, dtype="float32").module(torch.tensor([[50, 60]])).logits[0, -1]
    expected = (logits / 0.5).softmax(-1)
    seen = torch.bincount(drawn, minlength=len(expected)) / 400
    top = expected.topk(20).indices
    assert seen[top].sum().item() == pytest.approx(expected[top].sum().item(), abs=0.08)


@pytest.mark.parametrize("number", [0.0, 0.2, 0.5, 0.9, 1 - 2**-53])
def test_a_draw_is_the_token_at_which_the_probabilities_pass_the_number(number):
    scores = torch.randn(6, 50, generator=torch.Generator().manual_seed(3)) * 4
    scores[:, ::3] = -torch.inf  # tokens that top_p cuts off, the first and the last
    found = generation._token_at(scores, torch.full((6,), number, dtype=torch.float64)).tolist()
    for row, token in zip(scores.softmax(-1).tolist(), found, strict=True):
        assert row[token] > 0
        assert math.fsum(row[:token]) <= number * math.fsum(row) + 1e-12
        assert math.fsum(row[: token + 1]) > number * math.fsum(row) - 1e-12


def test_each_text_draws_one_number_for_each_token():
    """Not one for each word of the vocabulary, whose drawing kept a GPU waiting for the CPU."""
    draws = generation._Draws(Generated(top_p=0.5), [0, 1])
    scores = draws(torch.zeros(2, 1), torch.tensor([[9.0, 0.0, -9.0]]).repeat(2, 1))
    assert scores.tolist() == [[0.0, -torch.inf, -torch.inf]] * 2
    for drawn, number in zip(draws.generators, [0, 1], strict=True):
        fresh = torch.Generator().manual_seed(generation.draw(0, number) % 2**63)
        torch.rand((), generator=fresh, dtype=torch.float64)
        assert torch.equal(drawn.get_state(), fresh.get_state())


@pytest.mark.parametrize(
    ("scores", "temperature", "got"),
    [
        ([0.0, math.nan, 1.0], 1.0, "nan"),
        ([0.0, math.inf, 1.0], 1.0, "inf"),
        ([-math.inf] * 3, 1.0, "-inf"),
        ([0.0, 2.0, 1.0], 1e-45, "inf"),
    ],
)
def test_scores_that_are_no_distribution_are_refused_by_the_text(scores, temperature, got):
    draws = generation._Draws(Generated(temperature=temperature), [4, 5])
    fine = [0.0] * 3
    said = f"text 5: scores of its next token must be finite, got {got} in bfloat16 at temperature"
    with pytest.raises(NumericsError, match=said):
        draws(torch.zeros(2, 1), torch.tensor([fine, scores]))


def test_a_model_without_a_token_that_ends_answers_runs_to_the_full_length(model, chats, tmp_path):
    directory = tmp_path / "endless"
    shutil.copytree(model, directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    for name in ("config.json", "tokenizer_config.json"):
        about = json.loads((directory / name).read_text())
        (directory / name).write_text(
            json.dumps({**about, "eos_token_id": None, "eos_token": None})
        )
    asked = {**SMALL, "start": "prompts", "corpus": str(chats), "sequences": 2, "length": 60}
    written = generate(directory, Generated(**asked), output=tmp_path / "own.parquet")
    assert written.lengths == [60, 60]


def test_a_killed_run_goes_on_and_ends_the_same(model, texts, tmp_path, monkeypatch):
    output, real = tmp_path / "own.parquet", generation._write
    calls = []

    def dies(*arguments):
        calls.append(arguments[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(generation, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        generate(model, Generated(**SMALL), output=output)
    assert not output.exists() and (tmp_path / "own.parquet.resume.safetensors").is_file()
    again = generate(model, Generated(**SMALL), output=output)
    assert calls == [range(2), range(2, 4), range(2, 4), range(4, 5)]
    assert torch.equal(again, texts) and torch.equal(read_windows(output), texts)
    assert [file.name for file in tmp_path.iterdir()] == ["own.parquet"]


def test_a_signal_saves_and_says_where(model, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "asked_to_stop", lambda: 15)
    with pytest.raises(Stopped, match=r"saved 2 texts in .*; run again to go on"):
        generate(model, Generated(**SMALL), output=tmp_path / "own.parquet")


def test_texts_of_other_settings_are_not_gone_on_with(model, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "asked_to_stop", lambda: 15)
    with pytest.raises(Stopped):
        generate(model, Generated(**SMALL), output=tmp_path / "own.parquet")
    monkeypatch.undo()
    other = generate(model, Generated(**SMALL, seed=3), output=tmp_path / "own.parquet")
    fresh = generate(model, Generated(**SMALL, seed=3), output=tmp_path / "fresh.parquet")
    assert torch.equal(other, fresh)


@pytest.mark.parametrize("change", ["weights", "ends", "bit"])
def test_texts_of_another_model_or_damaged_ones_are_not_gone_on_with(
    change, model, tmp_path, monkeypatch, caplog
):
    output, other = tmp_path / "own.parquet", tmp_path / "model"
    shutil.copytree(model, other)
    with monkeypatch.context() as patch:
        patch.setattr(generation, "asked_to_stop", lambda: 15)
        with pytest.raises(Stopped):
            generate(other, Generated(**SMALL), output=output)
    (kept,) = tmp_path.glob("*.resume.safetensors")
    if change == "weights":  # of the same names and sizes
        changed = load(other, dtype="float32").module
        changed.lm_head.weight.data.mul_(-1)
        changed.save_pretrained(other)
    elif change == "ends":
        (other / "generation_config.json").write_text('{"eos_token_id": 7}')
    else:
        whole = bytearray(kept.read_bytes())
        whole[-8 * 3 - 1] ^= 1  # lengths come last
        kept.write_bytes(whole)
    asked = []
    real = generation._write
    monkeypatch.setattr(generation, "_write", lambda *all: asked.append(all[3]) or real(*all))
    again = generate(other, Generated(**SMALL), output=output)
    assert asked[0] == range(2)
    assert torch.equal(again, generate(other, Generated(**SMALL), output=tmp_path / "x.parquet"))
    assert ("digest says that it is not; the texts are written anew" in caplog.text) == (
        change == "bit"
    )


def test_answers_to_prompts_count_and_their_ends_are_kept(model, chats, tmp_path):
    settings = Generated(start="prompts", corpus=str(chats), sequences=4, length=60, batch_size=3,
                         dtype="float32", top_p=0.9)  # fmt: skip
    output = tmp_path / "answers.parquet"
    windows, tokenizer = generate(model, settings, output=output), load_tokenizer(model)
    assert isinstance(windows, Masked)
    for row in range(4):
        ids, told = windows.plain()[row, : windows.lengths[row]], windows.answers[row]
        asked = tokenizer.decode(ids[~told[: len(ids)]])
        assert asked.startswith("<|user|>now? ") and asked.endswith("</s><|assistant|>")
        assert 1 <= told.sum() and tokenizer.eos_token_id not in ids[told[: len(ids)]][:-1]
    cut = {"length": 60, "sequences": 4, "cut": "documents"}
    taken = sample(model, str(output), **cut, predict="answers")
    assert sorted(taken.lengths) == sorted(windows.lengths)
    assert predicted(taken) == predicted(windows)
    assert predicted(sample(model, str(output), **cut)) > predicted(windows)


REWRITTEN = {"start": "prompts", "sequences": 4, "length": 60, "dtype": "float32", "rewrite": True,
             "template": "{question} because {answer}", "accept": "all"}  # fmt: skip


def test_a_rewritten_answer_stands_behind_the_question_alone(model, chats, tmp_path, monkeypatch):
    """The model sees question and answer; the text has the question and what the model wrote."""
    seen, real = [], generation._write
    monkeypatch.setattr(generation, "_write", lambda *all: seen.extend(all[2]) or real(*all))
    settings = Generated(**REWRITTEN, corpus=str(chats))
    windows = generate(model, settings, output=tmp_path / "own.parquet")
    tokenizer = load_tokenizer(model)
    for row, start in enumerate(seen):
        told = windows.answers[row, : windows.lengths[row]]
        asked = tokenizer.decode(windows.plain()[row, : windows.lengths[row]][~told])
        question = asked.removeprefix("<|user|>").removesuffix("</s><|assistant|>")
        assert question.strip("now? ") == "" and tokenizer.decode(start.answer) == "never</s>"
        shown = tokenizer.decode(start.prompt)
        assert shown == f"<|user|>{question} because never</s><|assistant|>"
    assert read_meta(tmp_path / "own.parquet").to_json()["rewritten"] == 4
    again = {"length": 60, "sequences": 4, "cut": "documents", "predict": "answers"}
    assert predicted(sample(model, str(tmp_path / "own.parquet"), **again)) == predicted(windows)


def test_answers_that_come_to_no_end_give_way_to_the_original_ones(model, chats, tmp_path):
    settings = Generated(**{**REWRITTEN, "accept": "ended"}, corpus=str(chats), temperature=0.01)
    output, tokenizer = tmp_path / "own.parquet", load_tokenizer(model)
    windows = generate(model, settings, output=output)
    for row in range(4):
        answer = windows.plain()[row][windows.answers[row]]
        assert tokenizer.decode(answer) == "never</s>"
    assert read_meta(output).to_json()["rewritten"] == 0


@pytest.mark.parametrize(
    ("rule", "new", "original", "ended", "taken"),
    [
        ("all", "x", "never", False, True),
        ("ended", "x", "never", True, True),
        ("ended", "x", "never", False, False),
        ("ended", " ", "never", True, False),
        ("number", "so 1,234.0", "it is 1234", True, True),
        ("number", "3 or 4", "it is 3", True, False),
        ("number", "4", "no number", True, True),
        ("number", "none", "it is 3", True, False),
    ],
)
def test_which_rewritten_answers_are_taken(model, rule, new, original, ended, taken):
    tokenizer = load_tokenizer(model)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (new, original)]
    assert accepted(tokenizer, rule, *ids, ended=ended) is taken


def test_conversations_without_question_and_answer_are_not_rewritten():
    answer = {"role": "assistant", "content": "{question}"}
    ask = {"role": "user", "content": "why?"}
    asked = request("{question}: {answer}", [answer, ask, answer])
    assert asked == [answer, {"role": "user", "content": "why?: {question}"}]
    for messages in ([ask], [answer], [{**ask, "content": ["a picture"]}, answer]):
        assert request("{question}{answer}", messages) is None


def test_a_finish_learns_answers_of_the_model_beside_all_of_a_text(model, chats, tmp_path):
    """A mixture of what it wrote and of texts, as the windows of a finish are read."""
    own, zen, output = (tmp_path / name for name in ("own.parquet", "zen.jsonl", "w.parquet"))
    settings = Generated(
        start="prompts", corpus=str(chats), sequences=2, length=60, dtype="float32"
    )
    generate(model, settings, output=own)
    zen.write_text(
        "".join(json.dumps({"text": "Now is better. " * (n + 2)}) + "\n" for n in (0, 1))
    )
    halves = [{"name": str(file), "share": 0.5} for file in (own, zen)]
    asked = {"sequences": 4, "length": 60, "cut": "documents", "predict": "answers"}
    sample(model, halves, **asked, output=output)
    windows, tokenizer = stream_windows(model, output, tmp_path), load_tokenizer(model)
    answers = ["<|user|>" in tokenizer.decode(ids) for ids in windows.ids]
    assert answers == [True, False, True, False]
    for row, is_answer in enumerate(answers):
        learned = windows.targets(row, row + 1)[0]
        assert learned[0] != is_answer and learned.any()


class FakeVllm(types.ModuleType):
    """Takes what vLLM takes, and writes the same to everyone, up to a token that ends it."""

    made: ClassVar[list[int]] = [70, 71, 1, 72, 73]

    def __init__(self):
        super().__init__("vllm")
        self.loaded, self.asked = [], []
        fake = self

        class LLM:
            def __init__(self, model, *, dtype, seed, max_model_len):
                fake.loaded.append((model, dtype, seed, max_model_len))

            def generate(self, prompts, sampling_params, *, use_tqdm):
                fake.asked += zip(prompts, sampling_params, strict=True)
                return [SimpleNamespace(outputs=[fake.write(one)]) for one in sampling_params]

        self.LLM, self.SamplingParams = LLM, SimpleNamespace

    def write(self, asked):
        assert asked.ignore_eos  # only what is listed ends a text
        stops = [n + 1 for n, one in enumerate(self.made) if one in asked.stop_token_ids]
        return SimpleNamespace(token_ids=tuple(self.made[: min([*stops, asked.max_tokens])]))


@pytest.fixture
def vllm(monkeypatch):
    fake = FakeVllm()
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return fake


def test_vllm_writes_where_it_is_asked_for(model, chats, tmp_path, vllm):
    settings = Generated(start="prompts", corpus=str(chats), sequences=4, length=60, batch_size=3,
                         dtype="float32", top_p=0.9, temperature=0.7, engine="vllm")  # fmt: skip
    windows = generate(model, settings, output=tmp_path / "x.parquet")
    assert vllm.loaded == [(str(model), "float32", 0, 60)]
    for row, (prompt, asked) in enumerate(vllm.asked):
        told = windows.answers[row]
        assert windows.plain()[row][told].tolist() == [70, 71, 1]
        assert windows.plain()[row][: told.int().argmax()].tolist() == prompt["prompt_token_ids"]
        assert asked.max_tokens == 60 - len(prompt["prompt_token_ids"])
        assert (asked.temperature, asked.top_p, asked.stop_token_ids) == (0.7, 0.9, [1])
    assert len({asked.seed for _, asked in vllm.asked}) == 4


def test_texts_of_vllm_that_are_no_answers_run_to_their_length(model, tmp_path, vllm):
    short = Generated(**{**SMALL, "length": 5}, engine="vllm")
    texts = generate(model, short, output=tmp_path / "own.parquet")
    assert texts[:, 1:].tolist() == [[70, 71, 1, 72]] * 5  # the end is a token like others


def test_vllm_that_is_missing_is_said_in_one_line(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"generated\.engine: 'vllm' must be installed, is not"):
        generate(model, Generated(**SMALL, engine="vllm"), output=tmp_path / "own.parquet")
    assert not list(tmp_path.iterdir())


def test_texts_go_on_from_prefixes_of_a_corpus(model, tmp_path):
    settings = Generated(start="prefixes", corpus="python_docs", prefix=4, **SMALL)
    texts = generate(model, settings, output=tmp_path / "own.parquet")
    assert torch.equal(texts[:, :4], sample(model, "python_docs", sequences=5, length=4))


def test_windows_are_cut_from_what_a_model_wrote(model, texts, tmp_path):
    output = tmp_path / "own.parquet"
    generate(model, Generated(**SMALL), output=output)
    corpora = {"own": {"splits": {"train": str(output)}}}
    asked = {"length": 9, "sequences": 5, "cut": "documents", "corpora": corpora}
    windows = sample(model, "own", **asked, output=tmp_path / "w.parquet")
    assert sorted(windows.tolist()) == sorted(texts.tolist())
    assert read_meta(tmp_path / "w.parquet").to_json()["variant"] == "token ids"
    other = tmp_path / "other"
    shutil.copytree(model, other)
    tokenizer = load_tokenizer(other)
    tokenizer.add_tokens(["zen"])
    tokenizer.save_pretrained(other)
    with pytest.raises(DataError, match="tokens of another tokenizer than the model's"):
        sample(other, "own", **asked)


ASKED = {"start": "prompts", "corpus": "x", "rewrite": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "prefixes"}, "start 'prefixes' must have a corpus to start from, got None"),
        ({"corpus": "x"}, "start 'random' must have no corpus, got 'x'"),
        ({"start": "prefixes", "corpus": "x", "length": 16}, "length must be at least 17, got 16"),
        ({"prefix": 4}, "prefix must come with start 'prefixes', got 'random'"),
        ({"split": "test"}, "split must come with a corpus, which start 'random' has not"),
        ({"rewrite": True}, "rewrite must be false with start 'random'; prompts have answers"),
        ({"accept": "all"}, "accept must come with rewrite: true, which is not asked for"),
        ({**ASKED, "template": "{answer}?"}, "template must contain {question}, got '{answer}?'"),
        ({"top_p": 0}, "settings.top_p: must be greater than 0, got 0"),
        ({"temperture": 1}, "unknown setting 'temperture'; did you mean 'temperature'?"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        read_generated(settings, "settings")
    assert message in str(error.value)


def test_settings_that_came_later_are_not_written_at_their_default():
    assert not {"rewrite", "template", "accept", "engine"} & set(Generated().model_dump())


def test_too_few_prompts_and_texts_without_any_are_refused(model, chats, tmp_path):
    about = {"start": "prompts", "dtype": "float32"}
    few = Generated(**about, corpus=str(chats), sequences=5, length=60)
    with pytest.raises(DataError, match="5 answers asked, 4 of 4 conversations have a question"):
        generate(model, few, output=tmp_path / "x.parquet")
    few = Generated(**{**REWRITTEN, "length": 20}, corpus=str(chats))
    with pytest.raises(DataError, match="have a question with an answer that fit in 20 tokens"):
        generate(model, few, output=tmp_path / "x.parquet")
    text = tmp_path / "t.txt"
    text.write_text("now")
    with pytest.raises(DataError, match="prompts must be a file of conversations, got"):
        generate(model, Generated(**about, corpus=str(text)), output=tmp_path / "x.parquet")
    with pytest.raises(DataError, match="windows must be at most 512 tokens long"):
        generate(model, Generated(**{**SMALL, "length": 513}), output=tmp_path / "x.parquet")


def test_the_verb_writes_them(model, tmp_path, texts):
    output = tmp_path / "own.parquet"
    sets = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    assert not run(command, ["generate", "--model", str(model), *sets, "--output", str(output)])
    assert np.array_equal(read_windows(output), texts)
    assert read_meta(output).to_json()["generated"]["sequences"] == 5
