"""The command line as a whole: help, errors, exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys

import click
import pytest

from fusegpt.cli import VERBS, fusegpt_command, run
from fusegpt.errors import ConfigError, FuseGPTError, NumericsError


def fail_with(error: BaseException) -> click.Command:
    @click.command()
    def verb() -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a.b: must be\n1, got 2"), 2, "fusegpt: a.b: must be 1, got 2"),
        (NumericsError("loss is nan at step 3"), 1, "fusegpt: loss is nan at step 3"),
        (click.UsageError("Missing option."), 2, "fusegpt: missing option; see 'fusegpt --help'"),
        (KeyboardInterrupt(), 130, "fusegpt: stopped"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "/x"),
            2,
            "fusegpt: /x: file name too long",
        ),
        (FuseGPTError("\x1b[31mred\x07"), 2, r"fusegpt: \x1b[31mred\x07"),
        (
            RecursionError(),
            2,
            "fusegpt: input: must not be nested so deeply; look at the files that were given",
        ),
        (OSError(errno.EACCES, "Permission denied", "/x"), 2, "fusegpt: /x: permission denied"),
    ],
)
def test_what_a_user_can_fix_is_one_line_and_a_code(capsys, error, code, line):
    assert run(fail_with(error), []) == code

    assert capsys.readouterr().err.splitlines()[-1] == line


def test_what_nobody_foresaw_is_one_line_that_names_a_report(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert run(fail_with(ZeroDivisionError("by zero")), []) == 1

    (report,) = tmp_path.iterdir()
    said = f"unforeseen ZeroDivisionError: by zero; a report for the authors is in {report}"
    assert capsys.readouterr().err.splitlines() == [f"fusegpt: {said}"]
    assert "Traceback" in report.read_text()


def test_an_unknown_verb_names_the_closest(capsys):
    assert run(fusegpt_command, ["scor"]) == 2

    assert "unknown verb 'scor'; did you mean 'score'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(capsys, verb):
    assert run(fusegpt_command, [verb, "--help"]) == 0

    assert f"Usage: fusegpt {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_of_each_verb_and_option_what_it_is_and_cuts_no_sentence(verb):
    command = VERBS[verb].load()

    said = command.get_short_help_str(62)  # what fits beside the verbs in 80 columns
    assert said and not said.endswith("..."), said
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert not [each.opts for each in options if not each.help]


def test_help_lists_every_verb_without_torch():
    code = (
        "import sys\n"
        "from fusegpt.cli import run, fusegpt_command\n"
        "run(fusegpt_command, ['--help'])\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)
