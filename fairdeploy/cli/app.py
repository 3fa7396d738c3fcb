"""The command line as a whole: its commands, and how errors become one line and an exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from fairdeploy import __version__
from fairdeploy.cli.commands.bundle import bundle
from fairdeploy.cli.commands.cache import cache
from fairdeploy.cli.commands.compare import compare
from fairdeploy.cli.commands.demo import demo
from fairdeploy.cli.commands.export import export
from fairdeploy.cli.commands.guide import guide
from fairdeploy.cli.commands.inspect import inspect
from fairdeploy.cli.commands.measure import measure
from fairdeploy.cli.commands.schema import schema
from fairdeploy.cli.commands.shrink import shrink
from fairdeploy.cli.commands.standing import doctor, targets
from fairdeploy.cli.commands.sweep import sweep
from fairdeploy.cli.commands.verify import verify
from fairdeploy.cli.failures import (
    INTERRUPTED,
    failure_line,
    flush_stdout,
    keep_libraries_quiet,
    notes_of,
    one_line,
    telling_stops,
)
from fairdeploy.cli.output import PlainConsole, show_text
from fairdeploy.errors import FairdeployError

EXIT_CODES = (
    "Exit codes: 0 all met, 1 user error, 2 usage, 3 budget not met, 4 parity failed, "
    "5 accuracy gate failed, 130 interrupted."
)
# Newer releases of typer carry their own copy of click, older ones need click itself.
_CLICK_ERROR: type[Any] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

app = typer.Typer(
    help="Shrink a trained network to a budget, prove the surgery, and deploy it.",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)


for command in (
    shrink,
    sweep,
    compare,
    export,
    verify,
    inspect,
    measure,
    bundle,
    targets,
    schema,
    cache,
    doctor,
    demo,
    guide,
):
    app.command()(telling_stops(command))


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Shrink a trained network to a budget, prove the surgery, and deploy it."""
    if version:
        show_text(f"fairdeploy {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    # An orderly end lets the temporary folders go.
    signal.signal(signal.SIGTERM, _interrupt)
    keep_libraries_quiet()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code. Every failure becomes one line on stderr."""
    try:
        code = app(list(arguments), prog_name="fairdeploy", standalone_mode=False)
        flush_stdout()
    except FairdeployError as error:
        return _fail("; ".join(filter(None, (str(error), notes_of(error)))), error.exit_code)
    except _CLICK_ERROR as error:
        text = str(error.format_message())
        where = error.ctx.command_path if getattr(error, "ctx", None) else "fairdeploy"
        return _fail(f"{_lower_first(text).rstrip('.')}; see {where} --help", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        return _fail(failure_line(error), 1)
    if code == INTERRUPTED:
        return _fail("interrupted; nothing was written", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _fail(text: str, exit_code: int) -> int:
    try:
        console = PlainConsole(stderr=True)
        line = f"[bold red]error:[/] {escape(one_line(text))}"
        console.print(line, soft_wrap=True, highlight=False)
    except OSError:
        pass  # nobody reads: the exit code tells
    return exit_code


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
