"""Every error a user can cause, with the exit code the command line ends with."""

from __future__ import annotations

__all__ = [
    "ArchitectureError",
    "ArtifactError",
    "BusyError",
    "ConfigError",
    "DataError",
    "FuseGPTError",
    "NumericsError",
    "OutOfMemory",
    "Stopped",
    "UnknownNameError",
    "first_line",
    "one_line",
    "printable",
    "printable_lines",
    "reason_of",
]


class FuseGPTError(Exception):
    """Something a user can cause and fix; printed as one line, without a traceback."""

    exit_code = 2

    def __str__(self) -> str:
        """The message in one line, whatever names and values it quotes."""
        return printable(" ".join(super().__str__().splitlines()))


class ConfigError(FuseGPTError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another one."""


class UnknownNameError(ConfigError):
    """A name stands in no table; the message lists the known ones and the closest."""


class ArchitectureError(FuseGPTError):
    """A model's structure cannot be pruned faithfully; the message names what does not follow."""


class ArtifactError(FuseGPTError):
    """A file is missing, corrupt, half-written, or not what its manifest says."""


class DataError(FuseGPTError):
    """A corpus or task cannot be had, or is too short for what was asked."""


class NumericsError(FuseGPTError):
    """A loss, score or hidden state became NaN or infinite."""

    exit_code = 1


class BusyError(FuseGPTError):
    """Another process holds what is asked for; nothing was touched, and later it will work."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class OutOfMemory(FuseGPTError):
    """The device's or the machine's memory is too small; the message names what lowers it."""

    exit_code = 77


class Stopped(BaseException):
    """A signal asked this process to end; no library takes it for a failure of its own.

    Args:
        number: Of the signal.
        saved: What was kept, in words.
    """

    def __init__(self, number: int, saved: str = "") -> None:
        name = {1: "SIGHUP", 15: "SIGTERM"}.get(number, f"signal {number}")
        super().__init__(f"stopped by {name}{'; ' if saved else ''}{saved}")
        self.number, self.saved = number, saved
        self.exit_code = 128 + number

    def __reduce__(self) -> tuple[type[Stopped], tuple[int, str]]:
        return Stopped, (self.number, self.saved)


def first_line(error: BaseException) -> str:
    """What an exception of a library says, cut to one line; its type when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """All that an exception of a library says, in one line; its type when it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def reason_of(error: OSError) -> str:
    """What the system says of a refusal, such as "permission denied"."""
    return (error.strerror or str(error)).lower()


def printable(text: str) -> str:
    """Return a text that a terminal shows and does not obey: control characters are escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def printable_lines(text: str) -> str:
    """Return a text of several lines in the same way; its ends of lines stay."""
    return "\n".join(map(printable, text.split("\n")))
