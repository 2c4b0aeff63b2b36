"""`slowfast ...`: thin commands over the stages and the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from slowfast_core.errors import InputError
from slowfast_core.recipe import load_recipe, recipe_names
from slowfast_core.stage import StageResult
from slowfast_core.workspace import Workspace

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A name from `slowfast recipes`, or a YAML file.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="section.key=value", help="Change the recipe.", default_factory=list)
]
At = Annotated[
    Path | None,
    typer.Option(
        "--workspace", help="Where runs keep things.", envvar="SLOWFAST_WORKSPACE", show_default="./workspace"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Branch = Annotated[bool, typer.Option("--finetune", help="Work on the recipe's finetune branch.")]
stdout = Console(highlight=False, markup=False, soft_wrap=True)


@app.callback()
def slowfast(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """SlowFast video recognition, from raw video to a registered model.

    Exit codes: 0 done; 2 the input or the recipe is wrong; 1 anything else.
    """


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes that come with the project."""
    described = {name: load_recipe(name).description for name in recipe_names()}
    if as_json:
        print(json.dumps(described))
        return
    table = Table("recipe", "what it is", box=None)
    for name, description in described.items():
        table.add_row(name, description)
    stdout.print(table)


@app.command()
def show(recipe: RecipeName, overrides: Overrides, as_json: Json = False) -> None:
    """Print a recipe resolved: everything it leaves out has its default."""
    resolved = load_recipe(recipe, overrides)
    print(resolved.to_json() if as_json else resolved.to_yaml(), end="")


@app.command()
def cost(recipe: RecipeName, overrides: Overrides, size: int = 256, as_json: Json = False) -> None:
    """Parameters and GFLOPs (multiply-adds) of one view, by stage."""
    from slowfast_core.model.cost import cost_of

    resolved = load_recipe(recipe, overrides)
    counted = cost_of(resolved.model, resolved.clip, size)
    if as_json:
        fields = {"parameters": counted.parameters, "gflops": counted.gflops, "by_stage": counted.by_stage}
        print(json.dumps(fields))
        return
    table = Table("stage", "GFLOPs", box=None)
    table.columns[1].justify = "right"
    for stage, gflops in counted.by_stage.items():
        table.add_row(stage, f"{gflops:.4f}")
    table.add_row("one view", f"{counted.gflops:.4f}")
    stdout.print(table)
    print(f"{counted.parameters:,} parameters")


STAGES = {
    "ingest": "Copy videos and official annotations from a directory or S3 into one manifest.",
    "validate": "Pass the manifest through the quality gate; bad rows go into quarantine.",
    "extract": "Write the clip store; its DVC hash is the data version.",
    "train": "Train with Ray; killed, the next call goes on from the last checkpoint.",
    "evaluate": "Score the held-out split and write the report.",
    "register": "Give the weights a version in the registry; the gate decides on `champion`.",
}


def _stage_command(stage: str) -> Callable[..., None]:
    def command(
        recipe: RecipeName,
        overrides: Overrides,
        at: At = None,
        finetune: Branch = False,
        as_json: Json = False,
    ) -> None:
        from slowfast_core import stages

        workspace = Workspace.at(at)
        resolved = load_recipe(recipe, overrides)
        if finetune:
            resolved = stages.finetune_branch(resolved, workspace)
        try:
            result = stages.STAGES[stage](resolved, workspace)
        except InputError as error:
            if as_json:
                print(StageResult(stage=stage, status="failed", summary=str(error)).model_dump_json())
            raise
        print_result(result, as_json)

    return command


for _stage, _help in STAGES.items():
    app.command(_stage, help=_help)(_stage_command(_stage))


@app.command()
def predict(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...")],
    model: Annotated[str, typer.Option(help="models:/NAME@champion, models:/NAME/3, or a training's folder.")],
    top: int = 5,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Say what is done in videos."""
    from slowfast_core.serving.predict import predict as score

    scored = score(videos, model, Workspace.at(at), top)
    if as_json:
        print(json.dumps(scored))
        return
    for video in scored:
        print(video["video"])
        for guess in video["top"]:
            print(f"  {100 * guess['score']:5.1f} %  {guess['label']}")


@app.command()
def ui(host: str = "127.0.0.1", port: int = 5000, at: At = None) -> None:
    """Serve the MLflow UI on the workspace."""
    from slowfast_core.tracking.ui import serve_ui

    serve_ui(Workspace.at(at), host, port)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what this machine has, and what is missing for `cluster`."""
    from slowfast_core.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps(findings))
        return
    table = Table("what", "found", box=None)
    for what, found in findings.items():
        table.add_row(what, found)
    stdout.print(table)


def print_result(result: StageResult, as_json: bool) -> None:
    if as_json:
        print(result.model_dump_json())
        return
    said = "nothing to do: " if result.status == "unchanged" else ""
    print(f"{result.stage}: {said}{result.summary} ({result.seconds:.1f} s)")
    for name, path in result.outputs.items():
        print(f"  {name}: {path}")
