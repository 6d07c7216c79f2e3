"""``--set`` and ``--settings``: one table of settings, typed as in YAML."""

from __future__ import annotations

import json
import shlex

import click
import pytest

from fusegpt.cli import VERBS, fusegpt_command, run
from fusegpt.cli.options import settings_options


@click.command()
@settings_options("Settings of nothing", "a=1")
def verb(settings):
    click.echo(json.dumps(settings))


def said(capsys, line):
    code = run(verb, shlex.split(line))
    captured = capsys.readouterr()
    return code, captured.out.strip() or captured.err.strip()


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("", {}),
        ("--set recovery.rank=32", {"recovery": {"rank": 32}}),
        ("--set a.b.c=x --set a.b.d=true", {"a": {"b": {"c": "x", "d": True}}}),
        ("--set tasks=[piqa,boolq]", {"tasks": ["piqa", "boolq"]}),
        ("--set a=1 --set a=2", {"a": 2}),
        ("--set text=b=c --set none=null", {"text": "b=c", "none": None}),
        ("""--settings '{"a": {"b": 1, "c": 2}}' --set a.b=3""", {"a": {"b": 3, "c": 2}}),
    ],
)
def test_assignments_are_laid_over_the_json(capsys, line, settings):
    assert said(capsys, line) == (0, json.dumps(settings))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--set rank", "must be key=value such as recovery.rank=8, got 'rank'"),
        ("--set a..b=1", "must be key=value such as recovery.rank=8, got 'a..b=1'"),
        ("--set a=[1", "a: must be a value in yaml, got '[1'"),
        ("--set a=1 --set a.b=2", "--set a.b: a is no table of settings"),
        ("""--settings '{"a": 1, "a": 2}'""", "key 'a' stands twice"),
        ("""--settings '{"a": {"b": 1, "b": 2}}'""", "key 'b' stands twice"),
    ],
)
def test_what_is_no_assignment_is_said_in_one_line(capsys, line, message):
    code, text = said(capsys, line)

    assert code == 2 and message in text.lower() and "\n" not in text


RANGES = [
    (verb, option.opts[0], value)
    for verb, entry in VERBS.items()
    for option in entry.load().params
    if isinstance(option.type, click.FloatRange)
    for value in ("nan", "inf", "-inf")
]


@pytest.mark.parametrize(("verb", "option", "value"), RANGES)
def test_a_number_without_an_end_is_refused_by_every_option(verb, option, value, capsys):
    """A range of click lets NaN through, and infinity where it has one end."""
    command = fusegpt_command.get_command(click.Context(fusegpt_command), verb)
    (own,) = (each for each in command.params if option in each.opts)
    with click.Context(command) as context, pytest.raises(click.BadParameter):
        own.process_value(context, value)


@pytest.mark.parametrize(
    "line",
    [
        """evaluate --evaluation 'e={"eval": "speed", "eval": "perplexity"}'""",
        """sample --corpus '[{"name": "a", "share": 1, "share": 0.5}]'""",
        """generate --corpora '{"x": null, "x": null}'""",
    ],
)
def test_a_key_that_stands_twice_is_refused_wherever_json_is_read(line, capsys):
    assert run(fusegpt_command, shlex.split(line)) == 2
    assert "must be a" in (said := capsys.readouterr().err.lower()) or "must be name" in said


def test_a_misspelt_setting_is_refused_as_in_a_file(capsys, tmp_path):
    file = tmp_path / "windows.parquet"
    file.touch()
    line = f"prune --model {tmp_path} --recipe fusegpt --sparsity 0.1 --calibration {file}"
    line += f" --output {tmp_path / 'out'} --set recovery.rnak=8"

    assert run(fusegpt_command, shlex.split(line)) == 2
    assert "unknown setting 'rnak'; did you mean 'rank'?" in capsys.readouterr().err
