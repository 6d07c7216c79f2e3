"""Conversations, padded windows and mixtures in recipes: what is planned, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import resolve
from fusegpt.recovery.settings.whole import Lora, NoRecovery
from fusegpt.workflow.flags import Flags
from fusegpt.workflow.garbage import _named
from fusegpt.workflow.inputs import Inputs
from tests.workflow.conftest import configuration
from tests.workflow.test_experiment import plan

LORA = {"method": "lora", "batch_size": 2}
HALVES = [{"name": "python_docs", "share": 0.5}, {"name": "chats", "share": 0.5}]


def recipe(**changes):
    settings = {"importance": {"metric": "sleb"}, "recovery": LORA, "finetune": {"sequences": 8}}
    return resolve("mine", {**settings, **changes})


def planned(tmp_path, **windows):
    """The plan of one recipe, whose windows are of chats unless they say so."""
    chats = tmp_path / "chats.jsonl"
    if not chats.exists():
        chats.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    config = configuration()
    config["corpora"] = {"chats": {"splits": {"train": str(chats), "test": "test.txt"}}}
    spec = {"corpus": "chats", "sequences": 2, "length": 8, **windows}
    config["recipes"] = {
        "mine": {
            "importance": {"metric": "sleb"},
            "recovery": {"method": "none"},
            "calibration": spec,
        }
    }
    config["experiments"]["study"] |= {"recipes": ["mine"], "settings": {}}
    return plan(config)


def flags_of(found):
    (windows,) = found.windows
    return windows, Flags(found, {}).windows(SimpleNamespace(model="tiny", windows=windows))


def test_settings_at_their_default_are_not_written():
    plain = recipe().to_json()
    assert not {"cut", "bos", "predict"} & {*plain["calibration"], *plain["finetune"]}
    said = recipe(calibration={"cut": "documents", "bos": "none", "predict": "answers"}).to_json()
    calibration = said["calibration"]
    assert [calibration[key] for key in ("cut", "bos", "predict")] == [
        "documents",
        "none",
        "answers",
    ]
    assert resolve("mine", {k: v for k, v in said.items() if k != "name"}).to_json() == said
    assert recipe().id != resolve("mine", {k: v for k, v in said.items() if k != "name"}).id


def test_they_stand_in_the_windows_id_and_on_the_command_line(tmp_path):
    plain, flags = flags_of(planned(tmp_path))
    assert flags[:2] == ["--corpus", "chats"] and "--cut" not in flags
    other, flags = flags_of(planned(tmp_path, cut="documents", predict="answers", bos="window"))
    assert other != plain and other.startswith("chats-train-")
    assert flags[-6:] == ["--cut", "documents", "--bos", "window", "--predict", "answers"]


def test_a_mixture_names_every_file_that_it_reads(tmp_path):
    halves = [*HALVES[:1], {**HALVES[1], "split": "test"}]
    found = planned(tmp_path, corpus=halves)
    windows, flags = flags_of(found)
    assert windows.startswith("mixture-train-")
    assert json.loads(flags[1]) == [{**halves[0], "split": None}, halves[1]]
    entry = found.windows[windows].corpora
    assert entry == {"chats": {"splits": {"test": "test.txt"}}}
    both = [{**HALVES[1], "split": split} for split in ("train", "test")]
    entry = next(iter(planned(tmp_path, corpus=both).windows.values())).corpora
    assert set(entry["chats"]["splits"]) == {"train", "test"}


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"corpus": [{"name": "chats", "share": 0.5}]}, "corpus: shares must sum to 1, got 0.5"),
        ({"corpus": [{"name": "chats", "share": 0}]}, "share: must be greater than 0, got 0"),
        ({"corpus": [{"name": "chat", "share": 1}]}, "unknown corpus 'chat'; did you mean 'chats'"),
        ({"corpus": [{**HALVES[1], "share": 1, "split": "x"}]}, "unknown split 'x'"),
        ({"corpus": [{"name": "chats", "part": 1}]}, "unknown setting 'part'"),
        ({"corpus": 3}, "calibration.corpus: must be text, got 3"),
        ({"corpus": HALVES, "rows": 4}, "rows: must not be given with a mixture of corpora"),
        ({"cut": "documents", "rows": 4}, "rows: must not be given with cut 'documents'"),
        ({"cut": "document"}, "cut: must be 'joined' or 'documents', got 'document'"),
        ({"predict": "answers", "corpus": "python_docs"}, "needs a corpus of conversations, got"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(tmp_path, windows, message):
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, **windows)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_answers_of_a_file_of_text_are_refused_and_of_one_not_there_later(tmp_path):
    (tmp_path / "chats.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    with pytest.raises(ConfigError, match="needs a corpus of conversations, got chats"):
        planned(tmp_path, predict="answers")
    planned(tmp_path, predict="answers", split="test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"importance": {"metric": "macro_influence"}}, "calibration.predict: 'answers' is for"),
        ({"recovery": {"method": "finetune"}}, "finetune.predict: 'answers' is for losses of the"),
    ],
)
def test_answers_are_for_losses_of_the_next_token(changes, message):
    windows = {"predict": "answers", "sequences": 8}
    recipe(calibration=windows, finetune=windows)
    with pytest.raises(ConfigError, match=message):
        recipe(**{"calibration": windows, "finetune": windows, **changes})


def test_a_recovery_that_knows_no_masks_is_refused(monkeypatch):
    assert NoRecovery.masks
    monkeypatch.setattr(Lora, "masks", False)
    for windows in ({"cut": "documents"}, {"predict": "answers"}):
        with pytest.raises(ConfigError, match="finetune: lora takes padding for text; with cut"):
            recipe(finetune={"sequences": 8, **windows})
    recipe(calibration={"cut": "documents"})


def with_generated(tmp_path, entry, **windows):
    """A plan whose recipe reads what the model writes, from chats where it says so."""
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    config = configuration()
    config["corpora"] = {"chats": {"splits": {"train": str(chats)}}, "own": {"generated": entry}}
    spec = {"corpus": "own", "sequences": 2, "length": 8, **windows}
    config["experiments"]["study"] |= {"settings": {"calibration": spec, "finetune": spec}}
    config["experiments"]["study"]["recipes"] = ["macro_influence", "sleb"]
    return config


ANSWERS = {"start": "prompts", "corpus": "chats", "sequences": 4, "length": 16}


def test_what_a_model_writes_is_one_file_for_all_who_read_it(tmp_path):
    found = plan(with_generated(tmp_path, ANSWERS))
    (name,) = found.written
    assert name.startswith("own-")
    file = f"results/generated/tiny/{name}.parquet"
    windows, flags = flags_of(found)
    asked = SimpleNamespace(model="tiny", windows=windows, generated=name)
    flags = Flags(found, {}).windows(asked)
    assert json.loads(flags[flags.index("--corpora") + 1]) == {"own": {"splits": {"train": file}}}
    assert Inputs(found).corpus_files(asked) == [file]
    assert Inputs(found).prompt_files(asked) == [str(tmp_path / "chats.jsonl")]
    _, settings, _, corpora = Flags(found, {}).generated(asked)
    assert json.loads(settings)["start"] == "prompts" and "chats" in json.loads(corpora)
    assert file in _named(found)
    other = plan(with_generated(tmp_path, {**ANSWERS, "seed": 1}))
    assert set(other.written) != {name} and set(other.windows) != {windows}


@pytest.mark.parametrize(
    ("entry", "windows", "message"),
    [
        ({**ANSWERS, "corpus": "python_docs"}, {}, "own.generated.corpus: must be a file of conv"),
        ({**ANSWERS, "corpus": "own"}, {}, "must be a corpus that is there, got 'own'"),
        ({**ANSWERS, "corpus": "chat"}, {}, "unknown corpus 'chat'; did you mean 'chats'?"),
        ({**ANSWERS, "split": "test"}, {}, "own.generated: unknown split 'test'"),
        ({**ANSWERS, "top_p": 2}, {}, "generated.top_p: must be at most 1, got 2"),
        ({"start": "prompts"}, {}, "start 'prompts' must have a corpus to start from, got None"),
        (ANSWERS, {"split": "test"}, "calibration: unknown split 'test'"),
        ({"start": "random"}, {"predict": "answers"}, "'answers' is for losses of the next token"),
    ],
)
def test_what_no_model_could_write_is_refused(tmp_path, entry, windows, message):
    with pytest.raises(ConfigError) as error:
        plan(with_generated(tmp_path, entry, **windows))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_generated_text_is_for_pruning_and_stands_alone(tmp_path):
    config = with_generated(tmp_path, ANSWERS)
    config["evaluations"]["docs"] |= {"corpus": "own", "split": "train"}
    with pytest.raises(ConfigError, match=r"docs\.corpus: text that a model writes itself is for"):
        plan(config)
    config = with_generated(tmp_path, ANSWERS)
    config["corpora"]["own"]["documents"] = 3
    with pytest.raises(ConfigError, match="own: generated must stand alone, got documents beside"):
        plan(config)
