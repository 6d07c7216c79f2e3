"""What Snakemake would run, run by the verbs in this process: nothing is imported twice."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from fusegpt.cli import fusegpt_command
from fusegpt.errors import FuseGPTError
from fusegpt.workflow import dryrun
from tests import forked

START, END = "Shell command: fusegpt ", " >logs/"


def commands(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> list[list[str]]:
    """The words after ``fusegpt`` of each command of a dry run, in an order that works."""
    asked = ["--dry-run", "--printshellcmds", "--cores", "1", *arguments]
    done = forked.run(asked, directory, environment)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(START)]
    return [shlex.split(line.removeprefix(START).partition(END)[0]) for line in lines]


def fusegpt(*arguments: object, code: int = 0) -> str:
    """What a verb says, in this process and directory; it must end with this code."""
    done = CliRunner().invoke(fusegpt_command, [str(argument) for argument in arguments])
    assert done.exit_code == code, (arguments[:3], done.output, done.exception)
    return done.output


def refused(*arguments: object) -> str:
    """How a verb refuses what it is given."""
    done = CliRunner().invoke(fusegpt_command, [str(argument) for argument in arguments])
    assert isinstance(done.exception, FuseGPTError), (done.output, done.exception)
    return str(done.exception)


def fork_summaries(patch: pytest.MonkeyPatch) -> None:
    """Take Snakemake's summaries from forks, where the test is not about that command."""

    def start(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "snakemake"]
        return forked.run(command[3:], Path.cwd())

    patch.setattr(dryrun, "subprocess", SimpleNamespace(run=start))


def passed_on(*arguments: str) -> list[str]:
    """What ``fusegpt run ARGUMENTS`` starts Snakemake with."""
    started: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "execve", lambda program, line, environment: started.append(line))
        fusegpt("run", *arguments)
    (line,) = started
    assert line[:3] == [sys.executable, "-m", "snakemake"]
    return line[3:]
