"""A checkpoint goes to the hub whole, with its card, or nothing goes."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusegpt.artifacts import file_record, write_json
from fusegpt.cli import fusegpt_command, run
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import save
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow
from tests.reports.hub import fake_hub
from tests.reports.test_card import INFO, ROW, card_of


@pytest.fixture
def hub():
    with fake_hub() as found:
        yield found


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "step-002"
    directory.mkdir()
    save_file({"weight": np.arange(12.0)}, directory / "model.safetensors")
    write_json(directory / "config.json", {"model_type": "llama"})
    files = {file.name: file_record(file) for file in sorted(directory.iterdir())}
    (directory / "README.md").write_text(card_of(INFO, [ROW]))
    write_json(directory / "fusegpt.json", {**INFO, "files": files})
    (directory / "training.log").write_text("not part of it")
    return directory


def pushed(hub, *arguments):
    """Run the verb as a person does; the hub client reads its environment once."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    start = "from fusegpt.cli import main; main()"
    command = [sys.executable, "-c", start, "push", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_one_commit_holds_the_listed_files_the_card_and_the_record(hub, checkpoint):
    ran = pushed(hub, checkpoint, "someone/pruned", "--private")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == f"{hub.address}/someone/pruned/commit/{'0' * 40}"
    files = hub.branches["main"]
    assert set(files) == {"model.safetensors", "config.json", "README.md", "fusegpt.json"}
    for name in set(files) - {"README.md"}:
        assert files[name] == (checkpoint / name).read_bytes()
    asked = hub.made["someone/pruned"]
    assert asked.get("private") or asked.get("visibility") == "private", asked
    assert hub.tokens == {"Bearer hf_test"}
    assert hub.messages == ["fusegpt-00000001: 2 of 6 removed"]


def test_the_card_on_the_hub_names_its_own_place_and_keeps_results_and_licence(hub, checkpoint):
    assert pushed(hub, checkpoint, "someone/pruned", "--revision", "quarter").returncode == 0
    text = hub.branches["quarter"]["README.md"].decode()
    assert 'from_pretrained("someone/pruned")' in text and '"PATH"' not in text
    assert "license: apache-2.0" in text and "| wikitext2 | perplexity | 31.42 |" in text
    assert any("/branch/quarter" in call for call in hub.calls)


def spoil_card(checkpoint):
    (checkpoint / "README.md").unlink()


def spoil_licence(checkpoint):
    (checkpoint / "README.md").write_text(card_of({**INFO, "licence": None}, [ROW]))


def spoil_front_matter(checkpoint):
    (checkpoint / "README.md").write_text("---\nlicense: [mit\n---\n")


def spoil_weights(checkpoint):
    save_file({"weight": np.arange(12.0) + 1}, checkpoint / "model.safetensors")


def spoil_record(checkpoint):
    (checkpoint / "fusegpt.json").unlink()


def spoil_with_pickle(checkpoint):
    notes = json.loads((checkpoint / "fusegpt.json").read_text())
    (checkpoint / "optimizer.pt").write_bytes(b"x")
    notes["files"]["optimizer.pt"] = file_record(checkpoint / "optimizer.pt")
    write_json(checkpoint / "fusegpt.json", notes)


def spoil_list(checkpoint):
    notes = json.loads((checkpoint / "fusegpt.json").read_text())
    write_json(checkpoint / "fusegpt.json", notes | {"files": {}})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_card, "the card is missing"),
        (spoil_licence, "must name the base model's licence"),
        (spoil_front_matter, "front matter must be a table of keys and values"),
        (spoil_weights, "checksum must be"),
        (spoil_record, "must be a checkpoint, fusegpt.json is missing"),
        (spoil_with_pickle, "may hold a pickle, which is never uploaded"),
        (spoil_list, "must list its files"),
    ],
)
def test_what_may_not_be_published_is_refused_in_one_line_and_nothing_is_sent(
    checkpoint, spoil, message, capsys, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("a client was made"))
    spoil(checkpoint)
    assert run(fusegpt_command, ["push", str(checkpoint), "someone/pruned"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("refused", "status", "message"),
    [
        slow(
            "/api/repos/create", 401, "401, not allowed; log in with hf auth login, or set HF_TOKEN"
        ),
        ("/commit/", 400, "someone/pruned: the hub did not take it: "),
        slow("/store/", 403, "403, not allowed"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(hub, checkpoint, refused, status, message):
    hub.refuse = (refused, status)
    ran = pushed(hub, checkpoint, "someone/pruned")
    assert ran.returncode == 2 and message in ran.stderr, ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("fusegpt: someone/pruned")
    assert hub.branches == {}


def test_a_card_without_results_is_published_with_a_warning(hub, checkpoint):
    (checkpoint / "README.md").write_text(card_of(INFO))
    ran = pushed(hub, checkpoint, "pruned")
    assert ran.returncode == 0 and "holds no results" in ran.stderr
    assert "/me/pruned/" in ran.stdout


def test_shards_written_from_streamed_weights_arrive_whole_and_load(hub, tmp_path, monkeypatch):
    tiny.build("llama").save_pretrained(tmp_path / "dense")
    model = load(tmp_path / "dense", dtype="float32", weights="streamed")
    remove(model, Unit("block", 4))
    kind = type(model.module)
    write = functools.partialmethod(kind.save_pretrained, max_shard_size="60KB")
    monkeypatch.setattr(kind, "save_pretrained", write)
    out, arrived = tmp_path / "out", tmp_path / "arrived"
    about = {name: value for name, value in INFO.items() if name not in ("kept", "removed")}
    save(model, out, extra=about, card=lambda record: card_of(INFO, [ROW]))

    assert pushed(hub, out, "someone/pruned").returncode == 0
    arrived.mkdir()
    for name, content in hub.branches["main"].items():
        (arrived / name).write_bytes(content)
    assert len(list(arrived.glob("model-*.safetensors"))) > 1
    whole, again = load(tmp_path / "dense", dtype="float32"), load(arrived, dtype="float32")
    remove(whole, Unit("block", 4))
    found = again.module.state_dict()
    assert all(value.equal(found[name]) for name, value in whole.module.state_dict().items())
