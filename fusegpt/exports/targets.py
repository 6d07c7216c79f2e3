"""What a model can be exported to: ``gguf:q4_k_m``, ``int4``, ``gptq4``."""

from __future__ import annotations

from dataclasses import dataclass

from fusegpt.errors import ConfigError
from fusegpt.registry import suggestion

__all__ = ["GGUF_TYPES", "ExportTarget", "known_targets", "parse_target"]

GGUF_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 32,
    "q8_0": 7,
    "q6_k": 18,
    "q5_k_m": 17,
    "q5_k_s": 16,
    "q5_1": 9,
    "q5_0": 8,
    "q4_k_m": 15,
    "q4_k_s": 14,
    "q4_1": 3,
    "q4_0": 2,
    "q3_k_l": 13,
    "q3_k_m": 12,
    "q3_k_s": 11,
    "q2_k": 10,
}
"""Types of GGUF files that need no importance matrix, with llama.cpp's numbers of them."""
BITS = {"int8": 8, "int4": 4, "gptq4": 4}
"""Directories that transformers and vLLM load, with the bits of a weight in them."""
PLAIN = ("f32", "f16", "bf16")
"""Those that the converter writes by itself; the others are quantised from one of them."""


@dataclass(frozen=True)
class ExportTarget:
    """A kind of export, and the type of the weights in it.

    Attributes:
        text: How a configuration and the command line write it: ``gguf:q8_0``, ``int4``.
        windows: Id of the windows that are read to round, where an experiment names some.
    """

    text: str
    windows: str = ""

    @property
    def name(self) -> str:
        """Its name in paths."""
        return "-".join([*self.text.split(":"), *filter(None, [self.windows])])

    @property
    def type(self) -> str:
        """The type of the weights."""
        return self.text.rpartition(":")[2]

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file; if not, it is a directory that transformers loads."""
        return self.text.startswith("gguf:")

    @property
    def is_calibrated(self) -> bool:
        """Whether weights are rounded by what windows of text make of them."""
        return self.text.startswith("gptq")

    @property
    def bits(self) -> int:
        """Bits of a weight of a directory."""
        return BITS[self.text]

    @property
    def is_plain(self) -> bool:
        """Whether each weight is one number by itself."""
        return self.type in PLAIN


def known_targets() -> tuple[str, ...]:
    """Return every target as it is written."""
    return (*BITS, *(f"gguf:{name}" for name in GGUF_TYPES))


def parse_target(text: str) -> ExportTarget:
    """Read a target.

    Raises:
        ConfigError: There is no such target; the message names the closest.
    """
    known = known_targets()
    if text not in known:
        raise ConfigError(f"must be something to export to, got {text!r}{suggestion(text, known)}")
    return ExportTarget(text)
