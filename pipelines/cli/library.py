"""The `slowfast` commands that call the stages and the library, and the options that all commands share."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from slowfast_core.errors import InputError
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Recipe, load_recipe, recipe_names
from slowfast_core.verbosity import report
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from slowfast_core.evaluation.comparison import Comparison
    from slowfast_core.evaluation.measure import Measured

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
PIPELINE, DATA, MODELS, KUBERNETES, SETUP = PANELS = ("Run the pipeline", "Data", "Models", "Kubernetes", "Setup")
WIDTH = 80  # columns of tables and lists where stdout is not a terminal


class CommandsByPanel(TyperGroup):
    """Lists the commands in the order of PANELS, and `run` first."""

    def list_commands(self, ctx: Any) -> list[str]:
        def position(name: str) -> tuple[int, bool]:
            panel = getattr(self.commands[name], "rich_help_panel", None)
            return (PANELS.index(panel) if panel in PANELS else len(PANELS), name != "run")

        return sorted(super().list_commands(ctx), key=position)


app = typer.Typer(
    cls=CommandsByPanel, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=HELP_OPTIONS
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe name (see `slowfast recipes`) or YAML file.")]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="section.key=value",
        help="Override a recipe setting; may be repeated.",
        default_factory=list,
        show_default=False,
    ),
]
At = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        help="Directory for data, runs, models and logs.",
        envvar="SLOWFAST_WORKSPACE",
        show_default="./workspace",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Branch = Annotated[bool, typer.Option("--finetune", help="Run the stage for the recipe's fine-tuning branch.")]
stdout = Console(highlight=False, markup=False, soft_wrap=True)


def print_version(requested: bool) -> None:
    if requested:
        print(f"slowfast {importlib.metadata.version('slowfast')}")
        raise typer.Exit


@app.callback()
def slowfast(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print why stages run or are skipped, and library warnings.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only results, warnings and errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
) -> None:
    """Train and run SlowFast video recognition, from raw video to a registered model.

    --verbose, --quiet and --debug may be anywhere on the command line.

    Exit codes: 0 done; 2 wrong input, recipe or command line; 143 stopped by SIGTERM; 1 any other error.
    """


@app.command("version", rich_help_panel=SETUP)
def version_(as_json: Json = False) -> None:
    """Print the versions of slowfast and Python."""
    versions = {"slowfast": importlib.metadata.version("slowfast"), "python": platform.python_version()}
    print(json.dumps(versions) if as_json else f"slowfast {versions['slowfast']}, Python {versions['python']}")


@app.command(rich_help_panel=SETUP)
def recipes(as_json: Json = False) -> None:
    """List the recipes of the project."""
    described = {name: load_recipe(name).description for name in recipe_names()}
    if as_json:
        print(json.dumps(described))
        return
    for name, description in described.items():
        print(name)
        print(textwrap.fill(description, WIDTH, initial_indent="  ", subsequent_indent="  "))


@app.command(rich_help_panel=SETUP)
def show(recipe: RecipeName, overrides: Overrides, as_json: Json = False) -> None:
    """Print a recipe, or the one in a trained-model folder, with all defaults and overrides."""
    if (Path(recipe) / "checkpoint.json").is_file():
        from slowfast_core.model.folder import read_checkpoint

        if overrides:
            raise InputError("a trained model has no overrides", "--set", "name a recipe")
        resolved, _ = read_checkpoint(Path(recipe))
    else:
        resolved = load_recipe(recipe, overrides)
    print(resolved.to_json() if as_json else resolved.to_yaml(), end="")


@app.command(rich_help_panel=MODELS)
def cost(
    recipe: RecipeName,
    overrides: Overrides,
    size: Annotated[int, typer.Option(help="Height and width of the view, in pixels.")] = 256,
    as_json: Json = False,
) -> None:
    """Print the parameters and GFLOPs (multiply-adds) of one view, by stage and by pathway."""
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
        print_table(table)
    print(f"{counted.parameters:,} parameters; the Fast pathway takes {100 * counted.fast_share:.1f} % of a view")


STAGE_HELP = {
    "ingest": "Copy videos and annotations from a folder or S3 into one manifest.",
    "validate": "Check the manifest and quarantine bad rows.",
    "extract": "Write the clip store and its data version.",
    "train": "Train the model with Ray, or resume an interrupted training.",
    "evaluate": "Score the validation split and write the report.",
    "register": "Register the weights as a model version, and promote it if it passes the gate.",
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
    resolved = finetune_branch(resolved, workspace) if finetune else resolved.model_copy(update={"finetune": None})
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
    """Before the block, send metrics that MLflow did not receive earlier; after it, warn about those still unsent."""
    from slowfast_core.tracking.unsent import all_of, described

    if all_of(at):
        _send_unsent(recipe, at)
    before = described(at)
    try:
        yield
    except BaseException:
        _warn(line for line in described(at) if line not in before)  # new ones only, so that an error stays one line
        raise
    _warn(described(at))


def _send_unsent(recipe: Recipe, at: Workspace) -> None:
    from slowfast_core.tracking.runs import send_unsent

    for part in filter(None, (recipe, recipe.finetune)):
        for sent in send_unsent(part.tracking, at):
            store = sent.store or at.tracking_uri
            report(f"slowfast: sent {len(sent.points)} delayed points of {sent.name} to MLflow ({store})")


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"slowfast: {line}", file=sys.stderr)


for _stage, _help in STAGE_HELP.items():
    app.command(_stage, help=_help, rich_help_panel=PIPELINE)(
        _train_command if _stage == "train" else _stage_command(_stage)
    )


@app.command(rich_help_panel=MODELS)
def predict(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="Video files.")],
    model: Annotated[str, typer.Option(help="models:/NAME@champion, models:/NAME/3, or a checkpoint folder.")],
    top: Annotated[int, typer.Option(help="Number of labels to print for each video.")] = 5,
    operating_points: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Calibrate scores and accept classes by this operating_points.json."),
    ] = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Predict actions in video files."""
    from slowfast_core.serving.predict import predict as predict_videos

    predictions = predict_videos(videos, model, Workspace.at(at), top, operating_points)
    if as_json:
        print(json.dumps(predictions))
        return
    for video in predictions:
        print(video["video"])
        if "accepted" in video:
            print(f"  accepted: {', '.join(video['accepted']) or 'none of these'}")
        for guess in video["top"]:
            print(f"  {100 * guess['score']:5.1f} %  {guess['label']}")


@app.command("report", rich_help_panel=MODELS)
def report_(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="A predictions.parquet, or the folder of an evaluation.")
    ],
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Compare with these predictions for the same data.")
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1.0, help="Choose operating points: thresholds per class for this precision.", metavar="SHARE"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory to write to.", show_default="that of PREDICTIONS")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report and the metrics of an evaluation again, without the model."""
    from slowfast_core.evaluation.report import report_on

    made = report_on(predictions, against, precision, output)
    outputs = {name: str(path) for name, path in made.outputs.items()}
    if as_json:
        compared = {"comparison": made.comparison.as_json()} if made.comparison else {}
        chosen = {"operating_points": made.points.model_dump()} if made.points else {}
        print(json.dumps({"outputs": outputs, "metrics": made.measured.metrics, **compared, **chosen}))
        return
    print_table(_metrics_table(made.measured))
    if made.comparison:
        print_table(_comparison_table(made.comparison))
        if flips := made.comparison.flips:
            counts = f"{len(flips.fixed)} clips fixed, {len(flips.broken)} broken"
            print(f"{counts} (McNemar's exact test: p = {flips.p_value:.3g})")
    if points := made.points:
        reached = "no prediction" if points.precision is None else f"precision {100 * points.precision:.1f} %"
        print(f"accepted: {reached}, {100 * points.coverage:.1f} % of the videos (cross-validated)")
    for name, path in outputs.items():
        print(f"  {name}: {path}")


def _metrics_table(measured: Measured) -> Table:
    table = Table("metric", "value", "95 % interval", box=None)
    for name, value in measured.result.metrics.items():
        low, high = measured.intervals[name]
        table.add_row(name, f"{100 * value:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}")
    table.add_row("ece", f"{100 * measured.calibration.error:.1f} %", "")
    return table


def _comparison_table(comparison: Comparison) -> Table:
    table = Table("against", "other", "difference", "95 % interval", box=None)
    for each in comparison.headlines:
        low, high = each.interval
        difference = f"{100 * each.difference:+.1f}"
        table.add_row(each.name, f"{100 * each.other:.1f} %", difference, f"{100 * low:+.1f} to {100 * high:+.1f}")
    return table


@app.command(rich_help_panel=MODELS)
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .pyth, .pth or (Caffe2) .pkl file.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.")],
    peer: Annotated[
        Literal["pyslowfast", "mmaction2", "pytorchvideo"], typer.Option("--from", help="Codebase of the checkpoint.")
    ],
    overrides: Overrides,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of the model.", show_default="settings read from the weights")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Text file with one class name per line.")] = None,
    as_json: Json = False,
) -> None:
    """Convert a published checkpoint to a checkpoint folder that gives the same outputs."""
    from slowfast_core.convert.convert import convert as convert_checkpoint

    if overrides and recipe is None:
        raise InputError("--set needs a recipe whose settings it overrides", "convert", "name one with --recipe")
    resolved = load_recipe(recipe, overrides) if recipe else None
    result, details = convert_checkpoint(peer, source, output, resolved, labels)
    print_result(result, as_json)
    for setting in () if as_json else details.assumed:
        print(f"  assumed, because the file does not record it: {setting} (override with --recipe)")


@app.command(rich_help_panel=SETUP)
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
    at: At = None,
) -> None:
    """Serve the MLflow UI of the workspace."""
    from slowfast_core.tracking.ui import serve_ui

    serve_ui(Workspace.at(at), host, port)


@app.command(rich_help_panel=SETUP)
def doctor(at: At = None, as_json: Json = False) -> None:
    """Check the installation, the machine and the workspace."""
    from slowfast_core.doctor import examine
    from slowfast_core.recipe.schema import Compute
    from slowfast_core.training.gpus import where_training_runs

    findings = examine(Workspace.at(at), lambda gpus: where_training_runs(Compute(), gpus))
    if as_json:
        print(json.dumps(findings))
        return
    table = Table("what", "found", box=None)
    for what, found in findings.items():
        table.add_row(what, found)
    print_table(table)


def print_table(table: Table) -> None:
    """Print a table that fits the terminal, or 80 columns where stdout is not one."""
    stdout.print(table, soft_wrap=False, width=None if stdout.is_terminal else WIDTH)


def print_result(result: StageResult, as_json: bool) -> None:
    if as_json:
        print(result.model_dump_json())
        return
    unchanged = "up to date: " if result.status == "unchanged" else ""
    print(f"{result.stage}: {unchanged}{result.summary} ({result.seconds:.1f} s)")
    for name, path in result.outputs.items():
        print(f"  {name}: {path}")
