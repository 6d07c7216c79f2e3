"""The command line: verbs are imported when called, errors end in one line and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import click

import fusegpt
from fusegpt.errors import FuseGPTError, Stopped, printable
from fusegpt.registry import Entry, lookup
from fusegpt.runtime import allow_remote_code, set_up_logging

__all__ = ["VERBS", "fusegpt_command", "main"]

VERBS: dict[str, Entry] = {
    "run": Entry("fusegpt.cli.run_workflow:run"),
    "plan": Entry("fusegpt.cli.plan:plan"),
    "recipes": Entry("fusegpt.cli.recipes:recipes"),
    "fetch": Entry("fusegpt.cli.fetch:fetch"),
    "sample": Entry("fusegpt.cli.sample:sample"),
    "generate": Entry("fusegpt.cli.generate:generate"),
    "score": Entry("fusegpt.cli.score:score"),
    "prune": Entry("fusegpt.cli.prune:prune"),
    "slice": Entry("fusegpt.cli.slice:slice_widths"),
    "export": Entry("fusegpt.cli.export:export"),
    "evaluate": Entry("fusegpt.cli.evaluate:evaluate"),
    "compare": Entry("fusegpt.cli.compare:compare"),
    "info": Entry("fusegpt.cli.info:info"),
    "check": Entry("fusegpt.cli.check:check"),
    "start": Entry("fusegpt.cli.start:start"),
    "fuse": Entry("fusegpt.cli.fuse:fuse"),
    "merge": Entry("fusegpt.cli.merge:merge"),
    "answers": Entry("fusegpt.cli.answers:answers"),
    "finish": Entry("fusegpt.cli.finish:finish"),
    "watch": Entry("fusegpt.cli.watch:watch"),
    "gc": Entry("fusegpt.cli.gc:gc"),
    "verify": Entry("fusegpt.cli.verify:verify"),
    "card": Entry("fusegpt.cli.card:card"),
    "table": Entry("fusegpt.cli.table:table"),
    "figure": Entry("fusegpt.cli.figure:figure"),
    "report": Entry("fusegpt.cli.report:report"),
    "push": Entry("fusegpt.cli.push:push"),
}
"""Verbs in the order of a day's work."""


class LazyGroup(click.Group):
    """A group whose verbs are imported one by one, when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the table's order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb's module, which holds a click command."""
        from fusegpt.cli.guard import guarded

        return guarded(cmd_name, lookup(VERBS, cmd_name, "verb").load())  # type: ignore[arg-type]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a library's out-of-memory error becomes one of ours."""
        from fusegpt.cli.guard import in_words

        try:
            return super().invoke(ctx)
        except (RuntimeError, MemoryError) as error:
            known = in_words(ctx.invoked_subcommand, error)
            if known is None:
                raise
            raise known from error


@click.group(
    name="fusegpt", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(fusegpt.__version__, prog_name="fusegpt")
@click.option("--trust-remote-code", is_flag=True, help="Let a model run Python code of its own.")
@click.option("-v", "--verbose", is_flag=True, help="Also log details.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings only.")
def fusegpt_command(trust_remote_code: bool, verbose: bool, quiet: bool) -> None:
    """Prune language models block by block, fusing what is removed into its neighbours."""
    allow_remote_code(trust_remote_code)
    set_up_logging(-1 if quiet else int(verbose))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit.

    0: done. 1: the numbers went wrong, or nobody foresaw what did. 2: something to fix. 75: another
    process holds the output or every GPU. 77: out of memory. 129, 130, 143: stopped by SIGHUP, by
    Ctrl-C, by SIGTERM.
    """
    sys.exit(run(fusegpt_command, arguments))


def run(command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a click command; print what a user can fix as one line and return the exit code."""
    try:
        code: Any = command.main(arguments, prog_name="fusegpt", standalone_mode=False)
    except FuseGPTError as error:
        return _fail(str(error), error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "fusegpt"
        message = error.format_message().rstrip(".")
        return _fail(f"{message[:1].lower() + message[1:]}; see '{where} --help'", 2)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except Stopped as error:
        return _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _unforeseen(error)
    return code if isinstance(code, int) else 0


def _unforeseen(error: Exception) -> int:
    """One line about what a library or the system raised, and the exit code."""
    if isinstance(error, OSError) and error.strerror:
        place = error.filename2 or error.filename or "output"
        if not str(place).endswith(".py"):
            return _fail(f"{place}: {error.strerror.lower()}", 2)
    if isinstance(error, RecursionError):
        return _fail("input: must not be nested so deeply; look at the files that were given", 2)
    said = " ".join(str(error).split())[:300]
    report = _write_report(error)
    return _fail(f"unforeseen {type(error).__name__}: {said}; {report}", 1)


def _write_report(error: Exception) -> str:
    """Write the traceback where anybody can read it later, and say where that is."""
    lines = [
        f"fusegpt {fusegpt.__version__}\n",
        f"{sys.argv}\n",
        *traceback.format_exception(error),
    ]
    try:
        number, path = tempfile.mkstemp(prefix="fusegpt-error-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="replace") as stream:
            stream.writelines(lines)
    except OSError:
        return "no report could be written"
    return f"a report for the authors is in {path}"


def _fail(message: str, code: int) -> int:
    click.echo("fusegpt: " + printable(" ".join(message.split())), err=True)
    return code
