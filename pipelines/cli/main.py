"""The `slowfast` command: its entry point, global options and errors, and `slowfast run`."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from enum import StrEnum
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from pipelines.cli.data import data
from pipelines.cli.kubernetes import pipeline
from pipelines.cli.library import (
    DATA,
    KUBERNETES,
    PIPELINE,
    At,
    Json,
    Overrides,
    RecipeName,
    app,
    print_table,
    tracked,
)
from slowfast_core.credentials import without_credentials
from slowfast_core.environment import explained, machine_failures_in_one_line
from slowfast_core.errors import InputError
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.stopping import Stopped
from slowfast_core.verbosity import is_quiet, is_verbose, set_verbosity
from slowfast_core.workspace import Workspace

app.add_typer(data, name="data", rich_help_panel=DATA)
app.add_typer(pipeline, name="pipeline", rich_help_panel=KUBERNETES)


LONGEST_LINE = 500  # characters of an error message from another library
ANYWHERE = {"--debug": "debug", "-v": "verbose", "--verbose": "verbose", "-q": "quiet", "--quiet": "quiet"}
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, which typer does not export


class Runner(StrEnum):
    subprocess = "subprocess"
    docker = "docker"


@app.command(rich_help_panel=PIPELINE)
def run(
    recipe: RecipeName,
    overrides: Overrides,
    runner: Annotated[
        Runner, typer.Option(help="Run each stage as a subprocess or a Docker container.")
    ] = Runner.subprocess,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print which stages would run, and why.")] = False,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on this machine; stages that are up to date are skipped."""
    workspace = Workspace.at(at)
    resolved = load_recipe(recipe, overrides)
    if dry_run:
        _print_plan(resolved, workspace, as_json)
        return
    from pipelines.local import run_local, summary_table

    with machine_failures_in_one_line(workspace.root), tracked(resolved, workspace):
        results = run_local(resolved, workspace, quiet=as_json or is_quiet(), in_containers=runner is Runner.docker)
    if as_json:
        print(json.dumps([{"recipe": name, **result.model_dump()} for name, result in results]))
        return
    print_table(summary_table(results))
    if not is_quiet():
        _print_next_steps(resolved, results, workspace)


def _print_plan(recipe: Recipe, at: Workspace, as_json: bool) -> None:
    from slowfast_core.stages.plan import plan_run

    planned = plan_run(recipe, at)
    if as_json:
        print(json.dumps([row.model_dump() for row in planned]))
        return
    table = Table("recipe", "stage", "status", "why", box=None)
    for row in planned:
        table.add_row(row.recipe, row.stage, row.status, row.reason)
    print_table(table)


def _print_next_steps(recipe: Recipe, results: list[tuple[str, StageResult]], at: Workspace) -> None:
    print("\nReports:")
    for name, result in results:
        if report := result.outputs.get("report"):
            print(f"  {name} {result.stage}: {report}")
    workspace = "" if at == Workspace.at() else f" --workspace {at.root}"
    example = next((at.data(recipe.data.name, "extract") / "store" / "clips").glob("*.mp4"), "VIDEO")
    print("\nNext:")
    print(f"  slowfast ui{workspace}        compare the runs and see the registered models in MLflow")
    if recipe.model.head == "classify":
        print(f"  slowfast predict {example} --model models:/{recipe.register_.model}@champion{workspace}")


def main() -> NoReturn:
    """Run the command line and exit: 0 done; 2 wrong input (one line); 143 stopped by SIGTERM; 1 any other error."""
    arguments, options = _split_off_global_options(sys.argv[1:])
    debug = "debug" in options
    try:
        if {"quiet", "verbose"} <= options:
            raise InputError("--quiet and --verbose exclude each other", "command line", "omit one of them")
        set_verbosity("quiet" in options, "verbose" in options)
        if not sys.warnoptions and not is_verbose():
            warnings.simplefilter("ignore")  # they come from libraries
        code = app(arguments, standalone_mode=False)  # errors of the command line are raised, not printed
    except USAGE_ERROR as error:
        _exit_for_usage(error)
    except InputError as error:
        if debug:
            _print_traceback()
        print(f"slowfast: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as error:
        print(f"slowfast: stopped and saved in {error}; run the same command again to resume", file=sys.stderr)
        sys.exit(143)  # the exit code of a process that SIGTERM ended
    except Exception as error:  # noqa: BLE001  every error of a command ends here
        if debug:
            _print_traceback()
        if line := explained(error, Workspace.at().root):
            print(f"slowfast: {line}", file=sys.stderr)
            sys.exit(2)
        print(f"slowfast: {type(error).__name__}: {_in_one_line(error)} (--debug shows more)", file=sys.stderr)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _split_off_global_options(arguments: list[str]) -> tuple[list[str], set[str]]:
    """Return the arguments without the options that may be anywhere on the line, and the names of these options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = {ANYWHERE[argument] for argument in arguments[:end] if argument in ANYWHERE}
    return [argument for argument in arguments[:end] if argument not in ANYWHERE] + arguments[end:], options


def _exit_for_usage(error: Exception) -> NoReturn:
    """Print what is wrong with the command line in one line, or the help if there is no command; exit with code 2."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "slowfast"
    message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    print(f"slowfast: {message} ({command}); see `{command} --help`", file=sys.stderr)
    sys.exit(2)


def _in_one_line(error: Exception) -> str:
    line = without_credentials(" ".join(str(error).split()))
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def _print_traceback() -> None:
    print(without_credentials(traceback.format_exc()), file=sys.stderr)
