"""The group of commands: what is typed first, and what each command is for. Nothing else is imported for that.

Exit codes: 0 done, 1 something given cannot be used or a check failed (one line on stderr says what), 2 wrong usage,
3 pictures could not be used, be it all, 130 interrupted.
"""

import contextlib
import errno
import os
import sys
from importlib import import_module
from typing import Any, NamedTuple, TextIO

import click

from onnx_evidence.errors import one_line


class _Home(NamedTuple):
    """The file of this room that has a command, and what the list of commands says of it."""

    module: str
    says: str


# Each is how the help of the command itself begins.
_HOMES = {
    "background": _Home("commands", "Fit what features of MODEL look like from the pictures in FOLDER"),
    "bench": _Home("commands", "Tell what maps of MODEL cost on this machine"),
    "evaluate": _Home("commands", "Measure how faithful maps of MODEL are"),
    "explain": _Home("batch", "Explain what MODEL saw in each of IMAGES"),
    "export": _Home("exporting", "Write MODEL with its explanation in it"),
    "gradient": _Home("commands", "Save the backward graph of MODEL as an .onnx file"),
    "inspect": _Home("commands", "Show what MODEL takes and gives, and where it can be cut"),
    "links": _Home("commands", "Walk from removal of windows to the plain gradient on one IMAGE"),
    "merge": _Home("batch", "Join the output folders SOURCES of shards into one"),
    "preprocess": _Home("commands", "Print what is done to pictures before MODEL sees them"),
    "sanity": _Home("commands", "Check that maps of IMAGES follow what MODEL learnt"),
    "summary": _Home("batch", "Show what the maps in FOLDER say as a whole"),
    "verify": _Home("batch", "Check that the results in FOLDER are what their receipts say"),
}


def _values(typed: Any) -> list[Any]:
    """What was typed of a parameter, once or several times."""
    return list(typed) if isinstance(typed, list | tuple) else [typed]


class OnceCommand(click.Command):
    """A command that refuses an option given twice, where click would take the last and say nothing of the others.

    And what is empty, as of a variable that is not set: as a path it would be the current folder.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look at what is typed, then go on as click does."""
        values, _, typed = self.make_parser(ctx).parse_args(args=list(args))
        for option in typed:
            if "" in _values(values[option.name]):
                raise click.BadParameter("'' is empty: give a value", ctx, option)
        for option in set(typed):
            takes_one = isinstance(option, click.Option) and not (option.multiple or option.is_flag or option.count)
            if takes_one and typed.count(option) > 1:
                raise click.UsageError(
                    f"{option.opts[-1]} is given {typed.count(option)} times: it takes one value", ctx
                )
        return super().parse_args(ctx, args)


class Commands(click.Group):
    """The group: a command is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the alphabet."""
        return sorted(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported; None where there is none."""
        if cmd_name not in _HOMES:
            return None
        command: click.Command = getattr(import_module(f"onnx_evidence.cli.{_HOMES[cmd_name].module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _HOMES[name].says) for name in self.list_commands(ctx)])

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; what click prints itself, help and version, may fail to be written, too."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            with contextlib.suppress(OSError):
                say_error(unwritten(error))
            sys.exit(1)
        finally:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                _give_up_unwritten(stream)


def _give_up_unwritten(stream: TextIO) -> None:
    """What could not be written Python would try again as it ends, complain once more, and end with exit code 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def with_remedy(text: str) -> str:
    """A message; where the system lets no more files be open, with what helps."""
    return f"{text}: allow more of them (ulimit -n)" if os.strerror(errno.EMFILE) in text else text


def unwritten(error: OSError) -> str:
    """What went wrong with reading or writing, in words."""
    return with_remedy(f"cannot read or write: {one_line(error)}")


def say_error(text: str) -> None:
    """One line on stderr about something that does not end the command."""
    from onnx_evidence.files import visible  # behind much else, which help does without

    click.echo(f"Error: {visible(text)}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onnx-evidence")
def main() -> None:
    """Explain what a deployed .onnx image classifier saw: signed evidence in bits, in the photograph's pixels."""
