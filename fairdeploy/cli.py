"""The command line as a whole: its commands, and how errors become one line and an exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from fairdeploy import __version__
from fairdeploy.cli_output import show_text
from fairdeploy.commands.bundle import bundle
from fairdeploy.commands.demo import demo
from fairdeploy.commands.export import export
from fairdeploy.commands.inspect import inspect
from fairdeploy.commands.measure import measure
from fairdeploy.commands.shrink import shrink
from fairdeploy.commands.standing import doctor, targets
from fairdeploy.commands.sweep import sweep
from fairdeploy.commands.verify import verify
from fairdeploy.errors import FairdeployError

EXIT_CODES = (
    "Exit codes: 0 all met, 1 user error, 2 usage, 3 budget not met, 4 parity failed, "
    "5 accuracy gate failed, 130 interrupted."
)
INTERRUPTED = 130
# Newer releases of typer carry their own copy of click, older ones need click itself.
_CLICK_ERROR: type[Any] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

app = typer.Typer(
    help="Shrink a trained vision network to a budget, prove the surgery, and deploy it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


for command in (shrink, sweep, export, verify, inspect, measure, bundle, targets, doctor, demo):
    app.command()(command)


@app.callback(invoke_without_command=True)
def root(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Shrink a trained vision network to a budget, prove the surgery, and deploy it."""
    if version:
        show_text(f"fairdeploy {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    # An orderly end lets the temporary folders go.
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code. A user error becomes one line on stderr."""
    try:
        code = app(list(arguments), prog_name="fairdeploy", standalone_mode=False)
    except FairdeployError as error:
        return _fail(str(error), error.exit_code)
    except _CLICK_ERROR as error:
        text = str(error.format_message())
        return _fail(f"{_lower_first(text).rstrip('.')}; see fairdeploy --help", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        return _fail("interrupted; nothing was written", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _fail(text: str, exit_code: int) -> int:
    one_line = " ".join(text.split())
    console = Console(stderr=True)
    console.print(f"[bold red]error:[/] {escape(one_line)}", soft_wrap=True, highlight=False)
    return exit_code


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
