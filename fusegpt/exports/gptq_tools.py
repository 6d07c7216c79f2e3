"""llm-compressor: the environment of its own that it is installed in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fusegpt.errors import ConfigError
from fusegpt.exports.tools import installed

__all__ = ["TOOL", "check_gptq", "gptq_environment", "gptq_versions", "python_of_gptq"]

TOOL = "llmcompressor==0.14.0.1"
"""What ``make gptq-tools`` installs: it pins an older transformers than this project has."""


def gptq_environment() -> Path:
    """Return where it is installed: ``FUSEGPT_GPTQ``, or ``gptq`` in the environment."""
    return Path(os.environ.get("FUSEGPT_GPTQ") or Path(sys.prefix) / "gptq").absolute()


def gptq_versions() -> dict[str, str]:
    """Return what is installed there of what makes a result, with versions."""
    folders = gptq_environment().glob("lib/python*/site-packages")
    return installed([TOOL, "compressed-tensors", "transformers", "torch"], folders)


def check_gptq(where: str) -> None:
    """Refuse to go on without llm-compressor.

    Args:
        where: Begins the message.

    Raises:
        ConfigError: It is missing; the message says how to install it.
    """
    place = gptq_environment()
    if TOOL.partition("==")[0] not in gptq_versions() or not python_of_gptq().is_file():
        raise ConfigError(
            f"{where}: must have {TOOL} in {place}, an environment of its own, for gptq4, got none;"
            f" run make gptq-tools, or python -m venv {place} and its bin/pip install {TOOL}"
        )


def python_of_gptq() -> Path:
    """Return the interpreter of that environment."""
    return gptq_environment() / "bin" / "python"
