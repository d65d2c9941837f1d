"""
How the verbs hang together: loaded when asked for, and every failure said in one line.

Loading late keeps `kpx --help` and shell completion quick: pyroute2 alone takes longer to import than either may last.
The first line of help of each verb is therefore in the table of `kpx.cli`, and a test holds it equal to the verb's own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import click

from kpx.errors import KpxError

EXIT_TROUBLE = 5
"""For what the operating system refused and no room of ours gave a name: a full disk, a table of sockets that is used up."""

EXIT_BROKEN_PIPE = 141
"""What a shell reports for a command that SIGPIPE ended: the reader had enough, which is no error of ours."""

EXIT_INTERRUPTED = 130
"""What a shell reports for a command that Ctrl-C ended."""


class VerbGroup(click.Group):
    """
    A group whose verbs live in one module each, imported when the verb is called.

    Args:
        verbs: verb -> its help in one line; the verb `x` is the click command `x` of the module `kpx.cli.x`.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table, which is the order people need them in."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in self.verbs:
            return None
        command = getattr(importlib.import_module(f"kpx.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(self.verbs.items()))

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line; `--help` prints here."""
        with _reader_may_go():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        with _reader_may_go():
            return super().invoke(ctx)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """
        Run one verb and end the process with its exit code; no failure prints a traceback.

        Raises:
            SystemExit: always. 0 done, 1 there are differences, 2 usage, more: see `kpx.errors`.
        """
        extra["standalone_mode"] = False
        try:
            code = super().main(args=args, prog_name=prog_name or "kpx", **extra)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            code = _complain(_one_line(error), error.exit_code)
        except KpxError as error:
            code = _complain(str(error), error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            code = EXIT_INTERRUPTED
        except (ReaderGone, BrokenPipeError):
            code = EXIT_BROKEN_PIPE
            # The interpreter flushes stdout once more on its way out; let that succeed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            code = _complain(str(error), EXIT_TROUBLE)
        sys.exit(code if isinstance(code, int) else 0)


class ReaderGone(Exception):
    """Whoever read our output has closed it; click would end the process with 1, which is our word for differences."""


@contextlib.contextmanager
def _reader_may_go() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


def _complain(message: str, code: int) -> int:
    """Say what is wrong on stderr, one line."""
    click.echo(f"kpx: error: {' '.join(message.split())}", err=True)
    return code


def _one_line(error: click.ClickException) -> str:
    """Return click's message and, for a wrong use, where help is."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if not isinstance(error, click.UsageError) or context is None:
        return message
    return f"{message.rstrip('.')}. Try '{context.command_path} --help'."
