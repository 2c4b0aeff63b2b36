"""The `slowfast` command: the library's commands and those that run the whole DAG."""

from __future__ import annotations

import json
import sys
import traceback
from enum import StrEnum
from typing import Annotated

import typer

from pipelines.cli.data import data
from pipelines.cli.kubernetes import pipeline
from pipelines.cli.library import At, Json, Overrides, RecipeName, app, stdout, tracked
from slowfast_core.credentials import without_credentials
from slowfast_core.environment import explained, machine_failures_in_one_line
from slowfast_core.errors import InputError
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.training.job import Stopped
from slowfast_core.workspace import Workspace

app.add_typer(data, name="data")
app.add_typer(pipeline, name="pipeline")


LONGEST_LINE = 500  # characters of another library's message


class Runner(StrEnum):
    subprocess = "subprocess"
    docker = "docker"


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides,
    runner: Annotated[Runner, typer.Option(help="What each stage runs in.")] = Runner.subprocess,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Run the whole Kubeflow DAG on this machine; a second run has nothing to do."""
    from pipelines.local import run_local, summary_table

    workspace = Workspace.at(at)
    resolved = load_recipe(recipe, overrides)
    with machine_failures_in_one_line(workspace.root), tracked(resolved, workspace):
        results = run_local(resolved, workspace, quiet=as_json, in_containers=runner is Runner.docker)
    if as_json:
        print(json.dumps([{"recipe": name, **result.model_dump()} for name, result in results]))
        return
    stdout.print(summary_table(results))
    _say_what_next(resolved, results, workspace)


def _say_what_next(recipe: Recipe, results: list[tuple[str, StageResult]], at: Workspace) -> None:
    print("\nReports:")
    for name, result in results:
        if report := result.outputs.get("report"):
            print(f"  {name} {result.stage}: {report}")
    where = "" if at == Workspace.at() else f" --workspace {at.root}"
    example = next((at.data(recipe.data.name, "extract") / "store" / "clips").glob("*.mp4"), "VIDEO")
    print("\nNext:")
    print(f"  slowfast ui{where}        compare the runs and see the registered models in MLflow")
    if recipe.model.head == "classify":
        print(f"  slowfast predict {example} --model models:/{recipe.register_.model}@champion{where}")


def main() -> None:
    """Exit codes: 0 done; 2 the input or the recipe is wrong (one line); 143 stopped by SIGTERM; 1 anything else."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # it may stand anywhere
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(arguments)
    except InputError as error:
        if debug:
            _print_traceback()
        print(f"slowfast: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as error:
        print(f"slowfast: stopped and saved in {error}; the same command goes on from there", file=sys.stderr)
        sys.exit(143)  # as if SIGTERM had ended it
    except Exception as error:  # noqa: BLE001  the last line of defence of a command
        if debug:
            _print_traceback()
        if line := explained(error, Workspace.at().root):
            print(f"slowfast: {line}", file=sys.stderr)
            sys.exit(2)
        print(f"slowfast: {type(error).__name__}: {_in_one_line(error)} (--debug shows more)", file=sys.stderr)
        sys.exit(1)


def _in_one_line(error: Exception) -> str:
    line = without_credentials(" ".join(str(error).split()))
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def _print_traceback() -> None:
    print(without_credentials(traceback.format_exc()), file=sys.stderr)
