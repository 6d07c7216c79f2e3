"""Conversations through a chat template, one a window or behind each other."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.data.chats import format_of, read_conversations
from fusegpt.data.generated import Generated
from fusegpt.data.masked import IGNORED, next_tokens, predicted
from fusegpt.data.sampling import sample
from fusegpt.data.starts import starts_of
from fusegpt.data.templates import render
from fusegpt.data.tokens import load_tokenizer
from fusegpt.data.window_files import read_windows
from fusegpt.data.windows import read_meta
from fusegpt.errors import ConfigError, DataError

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role not in ('system', 'user', 'assistant') %}{{ raise_exception('no ' + m.role) }}"
    "{% endif %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [{"role": "user", "content": "now?"}, {"role": "assistant", "content": "never"}]
SAME = {
    "messages": {"messages": CHAT},
    "completion": {"prompt": "now?", "completion": "never"},
    "lists": {"prompt": CHAT[:1], "completion": CHAT[1:]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "now?"}, {"from": "gpt", "value": "never"}]
    },
    "alpaca": {"instruction": "now?", "input": "", "output": "never"},
}


def with_template(source, directory, template=TEMPLATE):
    import shutil

    shutil.copytree(source, directory)
    (directory / "chat_template.jinja").write_text(template)
    return directory


@pytest.fixture(scope="module")
def model(tiny_llama_dir, tmp_path_factory):
    return with_template(tiny_llama_dir, tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def tokenizer(model):
    return load_tokenizer(model)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def chats(tmp_path):
    rows = [
        {"messages": [CHAT[0], {"role": "assistant", "content": "never " * (number + 1)}]}
        for number in range(6)
    ]
    return lines(tmp_path / "chats.jsonl", rows)


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_four_formats_mean_the_same(tmp_path, tokenizer, kind, suffix):
    file = tmp_path / f"c.{suffix}"
    if suffix == "jsonl":
        lines(file, [SAME[kind]])
    else:
        pq.write_table(pa.Table.from_pylist([SAME[kind]]), file)
    ((where, messages),) = read_conversations(file)
    assert where == f"{file}: {'line' if suffix == 'jsonl' else 'row'} 1"
    assert [dict(message) for message in messages] == CHAT
    ids, answers = render(tokenizer, messages, where)
    assert tokenizer.decode(ids) == "<|user|>now?</s><|assistant|>never</s>" and answers is None


def test_an_input_follows_its_instruction(tmp_path):
    file = lines(tmp_path / "a.jsonl", [{"instruction": "Add.", "input": "1 2", "output": "3"}])
    assert read_conversations(file)[0][1][0]["content"] == "Add.\n\n1 2"


def test_answers_are_what_the_assistant_says_and_how_it_ends(tokenizer):
    chat = [*CHAT, {"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}]
    ids, answers = render(tokenizer, chat, "here", answers=True)
    assert tokenizer.decode(ids[answers]) == "never</s>so</s>"


def test_a_file_with_a_column_of_text_is_one_of_text(tmp_path):
    assert format_of(lines(tmp_path / "t.jsonl", [{"text": "x", **SAME["alpaca"]}])) is None


def test_one_conversation_a_window_is_padded_and_answers_count(model, chats, tmp_path):
    output = tmp_path / "w.parquet"
    asked = {"length": 60, "sequences": 4, "cut": "documents", "predict": "answers"}
    windows = sample(model, str(chats), **asked, output=output)
    tokenizer = load_tokenizer(model)
    for row in range(4):
        text = tokenizer.decode(windows.plain()[row, : windows.lengths[row]])
        targets = next_tokens(windows)[row]
        told = tokenizer.decode(targets[targets != IGNORED])
        assert text == f"<|user|>now?</s><|assistant|>{told}"
        assert told.endswith("never </s>")
    assert len(set(windows.lengths)) == 4
    again = read_windows(output)
    assert torch.equal(again.plain(), windows.plain()) and again.lengths == windows.lengths
    meta = read_meta(output).to_json()
    assert (meta["variant"], meta["cut"]) == ("conversations: messages", "documents")
    assert meta["predict"] == "answers"


def test_fewer_conversations_are_the_first_of_more(model, chats):
    asked = {"length": 60, "cut": "documents", "seed": 3}
    few, more = (sample(model, str(chats), sequences=n, **asked) for n in (2, 5))
    assert torch.equal(few.plain(), more.plain()[:2])


def test_packed_conversations_are_windows_without_padding(model, chats):
    windows = sample(model, str(chats), length=16, sequences=5)
    assert type(windows) is torch.Tensor and windows.shape == (5, 16)
    told = sample(model, str(chats), length=8, sequences=20, predict="answers")
    assert told.lengths == [8] * 20
    assert all(predicted(told[row : row + 1]) for row in range(20))


def test_an_answer_beyond_the_window_passes_the_conversation_over(model, tmp_path):
    long = {"prompt": "now " * 40, "completion": "no"}
    file = lines(tmp_path / "c.jsonl", [long, {"prompt": "a", "completion": "b"}])
    asked = {"length": 40, "cut": "documents", "predict": "answers"}
    assert sample(model, str(file), sequences=1, **asked).shape == (1, 40)
    message = "2 windows of one document asked, 1 of 2 documents can be one"
    with pytest.raises(DataError, match=message):
        sample(model, str(file), sequences=2, **asked)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, r"line 2: a conversation must have at least one message, got none"),
        (
            {"prompt": "a", "completion": "b"},
            r"line 2: must have messages as the first .* 'messages'",
        ),
        ({"messages": [{"role": "user"}]}, "line 2: a message must have role and content, got"),
        ({"messages": "hello"}, "line 2: messages must be a list of tables, got 'hello'"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            r"line 2: the model's chat template refuses the conversation \(no tool\)",
        ),
    ],
)
def test_a_bad_conversation_is_named_by_its_line(model, tmp_path, row, message):
    file = lines(tmp_path / "c.jsonl", [SAME["messages"], row])
    with pytest.raises(DataError, match=message) as error:
        sample(model, str(file), length=8, sequences=1)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_a_template_is_refused(tiny_llama_dir, chats):
    with pytest.raises(DataError, match="line 1: conversations must go through a chat template"):
        sample(tiny_llama_dir, str(chats), length=8, sequences=1)
    prompts = Generated(start="prompts", corpus=str(chats), sequences=1, length=60)
    with pytest.raises(DataError, match=r"line \d: conversations must go through a chat template"):
        starts_of(load_tokenizer(tiny_llama_dir), prompts, {})


def test_a_template_that_rewrites_earlier_messages_tells_no_answers(tokenizer):
    import copy

    forgetful = copy.deepcopy(tokenizer)
    forgetful.chat_template = "{{ messages[-1].content }}"
    chat = [*CHAT, {"role": "user", "content": "why"}]
    with pytest.raises(DataError, match="writes message 2 differently when others follow"):
        render(forgetful, chat, "here", answers=True)


def test_answers_need_conversations(model):
    with pytest.raises(ConfigError, match="'answers' needs a corpus of conversations, got python"):
        sample(model, "python_docs", length=8, sequences=1, predict="answers")


def test_rows_of_conversations_are_cut_into_all_windows_they_fill(model, chats):
    windows = sample(model, str(chats), length=16, rows=6)
    assert torch.equal(windows[:2], sample(model, str(chats), length=16, rows=6)[:2])
    with pytest.raises(ConfigError, match="rows: must not be given with cut 'documents'"):
        sample(model, str(chats), length=16, rows=6, cut="documents")


def test_the_verb_takes_conversations_and_mixtures(model, chats, tmp_path):
    mix = json.dumps([{"name": str(chats), "share": 0.25}, {"name": "python_docs", "share": 0.75}])
    arguments = ["sample", "--model", str(model), "--corpus", mix, "--sequences", "8"]
    more = ["--length", "24", "--cut", "documents", "--predict", "answers", "--bos", "none"]
    output = tmp_path / "w.parquet"
    assert not run(command, [*arguments, *more, "--output", str(output)])
    windows, meta = read_windows(output), read_meta(output).to_json()
    assert windows.shape == (8, 24)
    assert [part["sequences"] for part in meta["corpora"]] == [2, 6]
    assert run(command, [*arguments[:4], "[1", *arguments[5:], *more, "--output", str(output)])


def test_perplexity_is_of_windows_without_masks(model, chats, tmp_path):
    from fusegpt.evaluation.perplexity import plan
    from fusegpt.evaluation.settings import Perplexity

    asked = {"length": 16, "sequences": 2, "output": tmp_path / "w.parquet", "bos": "window"}
    sample(model, str(chats), **asked)
    settings = Perplexity(corpus=str(tmp_path / "w.parquet"))
    assert plan(model, {}, settings).protocol["bos"] == "window"
    sample(model, str(chats), **asked, predict="answers")
    with pytest.raises(DataError, match="perplexity must have windows without padding of which"):
        plan(model, {}, settings)
