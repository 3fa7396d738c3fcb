"""The command line: parse, call, print, exit code; nothing else.

The pipeline, and with it torch, is imported inside the commands, so that ``--help`` is instant.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from fairdeploy import __version__
from fairdeploy.cli_options import (
    AllowNormCoupled,
    Arch,
    Attention,
    Exclude,
    FixedBatch,
    Include,
    Inputs,
    InputSize,
    Json,
    MainOutput,
    MaxPrune,
    Mean,
    MinUnits,
    Model,
    NumClasses,
    Quiet,
    RoundTo,
    Seed,
    Std,
    Target,
    TrustPickle,
)
from fairdeploy.cli_output import progress_for, show, show_text
from fairdeploy.errors import FairdeployError, ParityError, UsageError
from fairdeploy.option_values import (
    parse_counts,
    parse_input_shape,
    parse_numbers,
    parse_shares,
)
from fairdeploy.options import (
    ATTENTION_OPTIONS,
    RECOVERY_METHODS,
    InspectOptions,
    ShrinkOptions,
    choice_of,
)

EXIT_CODES = (
    "Exit codes: 0 all met, 1 user error, 2 usage, 3 budget not met, 4 parity failed, "
    "5 accuracy gate failed, 130 interrupted."
)
INTERRUPTED = 130
# Newer releases of typer carry their own copy of click, older ones need click itself.
_CLICK_ERROR: type[Any] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

_Choice = TypeVar("_Choice")

app = typer.Typer(
    help="Shrink a trained vision network to a budget, prove the surgery, and deploy it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def shrink(
    model: Model,
    *,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            help="What may stay: 40% (of the parameters), macs=50%, params=1.2M, size=4MB. "
            "Give several to meet them all.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: a folder of class folders, an .npz file, or package.module:factory."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results; MODEL-shrunk if not given."),
    ] = None,
    arch: Arch = None,
    target: Target = None,
    include: Include = None,
    exclude: Exclude = None,
    max_prune: MaxPrune = None,
    min_units: MinUnits = None,
    round_to: RoundTo = None,
    recover: Annotated[
        str | None, typer.Option(metavar="|".join(RECOVERY_METHODS), help="How to repair it.")
    ] = None,
    num_calibration: Annotated[
        int | None, typer.Option(help="Images to score and repair with.", min=2)
    ] = None,
    num_classes: NumClasses = None,
    input_size: InputSize = None,
    inputs: Inputs = None,
    main_output: MainOutput = None,
    fixed_batch: FixedBatch = None,
    mean: Mean = None,
    std: Std = None,
    seed: Seed = None,
    trust_pickle: TrustPickle = False,
    attention: Attention = None,
    allow_norm_coupled: AllowNormCoupled = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result.")] = False,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Do not measure.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Shrink a network to a budget: remove, prove, repair, export, measure, report.

    A fairdeploy.toml beside the model supplies what is not given here.
    """
    options = ShrinkOptions(
        model=model,
        budgets=_given(budget),
        data=data,
        output=output,
        arch=arch,
        target=target,
        include=_given(include),
        exclude=_given(exclude),
        max_prune=parse_shares(max_prune),
        min_units=parse_counts(min_units),
        round_to=round_to,
        recover=_choice("recovery", recover, RECOVERY_METHODS),
        num_calibration=num_calibration,
        num_classes=num_classes,
        input_shape=parse_input_shape(input_size),
        inputs=_given(inputs),
        main_output=main_output,
        fixed_batch=fixed_batch,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
        seed=seed,
        trust_pickle=trust_pickle,
        attention=_choice("--attention", attention, ATTENTION_OPTIONS),
        allow_norm_coupled=allow_norm_coupled,
        force=force,
        with_latency=not no_latency,
        command=("fairdeploy", *sys.argv[1:]),
    )
    from fairdeploy import pipeline
    from fairdeploy.summary import shrink_summary

    result = pipeline.shrink(options, progress_for(as_json or quiet))
    if not quiet or as_json:
        show(result.document, shrink_summary(result.document, result.output), as_json)


@app.command()
def inspect(
    model: Model,
    *,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Remove about half of every group at random and prove it; needs no data. "
            "Exit code 4 if it fails.",
        ),
    ] = False,
    depth: Annotated[
        int | None,
        typer.Option(help="Levels of the module tree to show; as many as fit if not given.", min=0),
    ] = None,
    arch: Arch = None,
    target: Target = None,
    include: Include = None,
    exclude: Exclude = None,
    max_prune: MaxPrune = None,
    min_units: MinUnits = None,
    round_to: RoundTo = None,
    num_classes: NumClasses = None,
    input_size: InputSize = None,
    seed: Seed = None,
    inputs: Inputs = None,
    main_output: MainOutput = None,
    fixed_batch: FixedBatch = None,
    trust_pickle: TrustPickle = False,
    attention: Attention = None,
    allow_norm_coupled: AllowNormCoupled = False,
    as_json: Json = False,
) -> None:
    """Show what can be removed from a network, what cannot, and why."""
    options = InspectOptions(
        model=model,
        prove=prove,
        arch=arch,
        target=target,
        include=_given(include),
        exclude=_given(exclude),
        max_prune=parse_shares(max_prune),
        min_units=parse_counts(min_units),
        round_to=round_to,
        num_classes=num_classes,
        input_shape=parse_input_shape(input_size),
        seed=seed,
        inputs=_given(inputs),
        main_output=main_output,
        fixed_batch=fixed_batch,
        trust_pickle=trust_pickle,
        attention=_choice("--attention", attention, ATTENTION_OPTIONS),
        allow_norm_coupled=allow_norm_coupled,
    )
    from fairdeploy import inspection
    from fairdeploy.inspection_summary import inspection_summary

    document = inspection.inspect(options, progress_for(as_json))
    show(document, inspection_summary(document, depth=depth), as_json)
    if document["proof"] is not None and not document["proof"]["passed"]:
        raise typer.Exit(ParityError.exit_code)


@app.command()
def targets(*, as_json: Json = False) -> None:
    """List the target profiles, and whether each is usable here."""
    from fairdeploy.doctor import target_rows
    from fairdeploy.summary import targets_table

    rows = target_rows()
    show({"targets": rows}, targets_table(rows), as_json)


@app.command()
def doctor(*, as_json: Json = False) -> None:
    """Show versions and what works here; say what to install for what does not."""
    from fairdeploy.doctor import examine
    from fairdeploy.summary import doctor_summary

    document = examine()
    show(document, doctor_summary(document), as_json)
    raise typer.Exit(1 if document["problems"] else 0)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("fairdeploy-demo"),
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo.")] = False,
) -> None:
    """Train a small network on handwritten digits and shrink it, as you would your own."""
    from fairdeploy.demo import SHRINK_ARGUMENTS, prepare_demo, run_shrink
    from fairdeploy.summary import demo_ending

    prepare_demo(folder, force=force, progress=progress_for(is_silent=False))
    typed = shlex.join(["fairdeploy", *SHRINK_ARGUMENTS])
    show_text(f"\n[bold]$ cd {escape(shlex.quote(str(folder)))}\n$ {escape(typed)}[/]\n")
    code = run_shrink(folder)
    if code == 0:
        show_text(demo_ending(folder))
    raise typer.Exit(code)


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


def _given(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """A repeatable option's values, None where it is absent."""
    return tuple(values) if values else None


def _choice(what: str, text: str | None, choices: tuple[_Choice, ...]) -> _Choice | None:
    """What the user chose, None if nothing."""
    chosen = choice_of(text, choices)
    if text is not None and chosen is None:
        raise UsageError(f"no {what} '{text}'; use one of {', '.join(map(str, choices))}")
    return chosen
