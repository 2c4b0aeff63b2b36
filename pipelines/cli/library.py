"""`slowfast ...`: thin commands over the stages and the library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from slowfast_core.errors import InputError
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Recipe, load_recipe, recipe_names
from slowfast_core.workspace import Workspace

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A name from `slowfast recipes`, or a YAML file.")]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="section.key=value", help="Change the recipe.", default_factory=list, show_default=False
    ),
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
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
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
    width = max(len(name) for name in described)
    for name, description in described.items():
        print(f"{name:<{width}}  {description}")


@app.command()
def show(recipe: RecipeName, overrides: Overrides, as_json: Json = False) -> None:
    """Print a recipe resolved: everything it leaves out has its default."""
    resolved = load_recipe(recipe, overrides)
    print(resolved.to_json() if as_json else resolved.to_yaml(), end="")


@app.command()
def cost(recipe: RecipeName, overrides: Overrides, size: int = 256, as_json: Json = False) -> None:
    """Parameters and GFLOPs (multiply-adds) of one view, by stage and by pathway."""
    from slowfast_core.model.cost import cost_of

    resolved = load_recipe(recipe, overrides)
    counted = cost_of(resolved.model, resolved.clip, size)
    if as_json:
        shares = {"by_stage": counted.by_stage, "by_pathway": counted.by_pathway, "fast_share": counted.fast_share}
        print(json.dumps({"parameters": counted.parameters, "gflops": counted.gflops, **shares}))
        return
    for title, parts in (("stage", counted.by_stage), ("pathway", counted.by_pathway)):
        table = Table(title, "GFLOPs", "share", box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        for part, gflops in [*parts.items(), ("one view", counted.gflops)]:
            table.add_row(part, f"{gflops:.4f}", f"{100 * gflops / counted.gflops:.1f} %")
        stdout.print(table)
    print(f"{counted.parameters:,} parameters; the Fast pathway takes {100 * counted.fast_share:.1f} % of a view")


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
        _run_stage(stage, recipe, overrides, at, finetune, as_json)

    return command


def _train_command(
    recipe: RecipeName,
    overrides: Overrides,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="START", help="Start from these weights: a checkpoint folder or models:/NAME@champion."),
    ] = None,
    at: At = None,
    finetune: Branch = False,
    as_json: Json = False,
) -> None:
    if init_from is not None:
        branch = "finetune." if finetune else ""
        overrides = [*overrides, f"{branch}train.init_from={json.dumps(init_from)}"]
    _run_stage("train", recipe, overrides, at, finetune, as_json)


def _run_stage(stage: str, recipe: str, overrides: list[str], at: Path | None, finetune: bool, as_json: bool) -> None:
    from slowfast_core.ray_jobs.dispatch import run_stage
    from slowfast_core.stages.flow import finetune_branch

    workspace = Workspace.at(at)
    resolved = load_recipe(recipe, overrides)
    if finetune:
        resolved = finetune_branch(resolved, workspace)
    try:
        with tracked(resolved, workspace):
            result = run_stage(stage, resolved, workspace)
    except InputError as error:
        if as_json:
            print(StageResult(stage=stage, status="failed", summary=str(error)).model_dump_json())
        raise
    print_result(result, as_json)


@contextmanager
def tracked(recipe: Recipe, at: Workspace) -> Iterator[None]:
    """Before the block, send what an MLflow server did not take when it was away; after it, say what it has not got."""
    from slowfast_core.tracking.unsent import all_of, described

    if all_of(at):
        _send_unsent(recipe, at)
    before = described(at)
    try:
        yield
    except BaseException:
        _say(line for line in described(at) if line not in before)  # an error is one line where nothing new was kept
        raise
    _say(described(at))


def _send_unsent(recipe: Recipe, at: Workspace) -> None:
    from slowfast_core.tracking.runs import send_unsent

    for part in filter(None, (recipe, recipe.finetune)):
        for sent in send_unsent(part.tracking, at):
            kept = f"{len(sent.points)} points of {sent.name} that were kept"
            _say([f"{kept} are now in MLflow ({sent.store or at.tracking_uri})"])


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"slowfast: {line}", file=sys.stderr)


for _stage, _help in STAGES.items():
    app.command(_stage, help=_help)(_train_command if _stage == "train" else _stage_command(_stage))


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
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .pyth, .pth or (Caffe2's) .pkl file.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The checkpoint folder to write.")],
    peer: Annotated[Literal["pyslowfast", "mmaction2", "pytorchvideo"], typer.Option("--from", help="Its codebase.")],
    overrides: Overrides,
    recipe: Annotated[str | None, typer.Option(help="What it was trained with; else read from the weights.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file with the name of a class in each line.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a published checkpoint into a checkpoint folder that gives the same outputs."""
    from slowfast_core.convert.convert import convert as convert_checkpoint

    if overrides and recipe is None:
        raise InputError("there is no recipe to change", "--set", "name one with --recipe")
    resolved = load_recipe(recipe, overrides) if recipe else None
    result, report = convert_checkpoint(peer, source, output, resolved, labels)
    print_result(result, as_json)
    for setting in () if as_json else report.assumed:
        print(f"  assumed, for the file does not say: {setting} (--recipe names another)")


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
