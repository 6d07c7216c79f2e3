"""Snakemake as a command, in a process of its own that was forked where the imports are done.

Of the two seconds of a dry run, most go into imports. A server of multiprocessing does them once
for each worker of the tests; what it forks has its own directory, environment, output and process
group, as a command has.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 1200
"""No run of a test takes so long, on a loaded machine either."""


class Running:
    """A command that was started, with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        """Its exit code, if it ended."""
        return self._process.exitcode

    def wait(self, timeout: float = SECONDS) -> int:
        """Its exit code when it ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"no end after {timeout} s"
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """A signal to this process alone."""
        os.kill(self.pid, number)

    def end(self) -> None:
        """SIGKILL to the process and everything it started, if anything is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()


def start(
    arguments: list[str], directory: Path, environment: Mapping[str, str] | None, *outputs: Path
) -> Running:
    """Start ``snakemake ARGUMENTS`` as the head of a process group.

    Args:
        arguments: What follows the program's name.
        directory: Where it runs.
        environment: All of its environment; None: that of the tests.
        outputs: Files that stdout and stderr are added to.
    """
    given = (arguments, str(directory), dict(environment or os.environ), list(map(str, outputs)))
    process = _context().Process(target=_snakemake, args=given)
    process.start()
    with contextlib.suppress(ProcessLookupError):
        while process.is_alive() and os.getpgid(process.pid) != process.pid:
            time.sleep(0.002)
    return Running(process)


def run(
    arguments: list[str], directory: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``snakemake ARGUMENTS`` says and returns when it runs in that directory."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        running = start(arguments, directory, environment, *outputs)
        try:
            code = running.wait()
        finally:
            running.end()
        texts = [file.read_text(encoding="utf-8") for file in outputs]
    return subprocess.CompletedProcess(["snakemake", *arguments], code, *texts)


def _context() -> multiprocessing.context.ForkServerContext:
    """The server, with this package on its path whatever is installed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.imported", "tests.forked"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _snakemake(
    arguments: list[str], directory: str, environment: dict[str, str], outputs: list[str]
) -> None:
    """The child: become what a command would be, and run Snakemake."""
    os.setsid()
    for number, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = paths
    if any(Path(path, "fusegpt").is_dir() and Path(path) != ROOT for path in paths):
        for name in [name for name in sys.modules if name.partition(".")[0] == "fusegpt"]:
            del sys.modules[name]
    sys.argv = ["snakemake", *arguments]
    for custom in [Path(path, "sitecustomize.py") for path in paths]:
        if custom.is_file():
            runpy.run_path(str(custom))
    from snakemake.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()
