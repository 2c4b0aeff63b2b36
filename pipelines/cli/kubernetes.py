"""`slowfast pipeline ...`: compile, run and schedule the pipeline on Kubernetes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.library import HELP_OPTIONS, Json, Overrides, RecipeName, print_table
from pipelines.kubernetes.settings import Cluster, load_cluster
from slowfast_core.credentials import left_out
from slowfast_core.files import write_whole
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.verbosity import report

if TYPE_CHECKING:
    from pipelines.kubernetes.server import RunOrSchedule

pipeline = typer.Typer(
    no_args_is_help=True,
    context_settings=HELP_OPTIONS,
    help="Run the pipeline on Kubernetes, with Kubeflow Pipelines.",
)

ClusterFile = Annotated[
    Path | None,
    typer.Option(
        "--cluster", help="File with the cluster settings.", envvar="SLOWFAST_CLUSTER", show_default="./cluster.yaml"
    ),
]
Host = Annotated[str | None, typer.Option(help="URL of the Kubeflow Pipelines API (overrides the settings file).")]
Namespace = Annotated[str | None, typer.Option(help="Kubernetes namespace (overrides the settings file).")]
Image = Annotated[str | None, typer.Option(help="CPU image (overrides the settings file).")]
Workers = Annotated[int, typer.Option(min=0, help="Number of training workers; 0: as in the recipe.")]
Epochs = Annotated[int, typer.Option(min=0, help="Number of epochs; 0: as in the recipe.")]
DataVersion = Annotated[str, typer.Option(help="Fail before training if the data has another version.")]
Name = Annotated[str | None, typer.Option(help="Name of the run or schedule.", show_default="the recipe's name")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Run id, as `submit` prints it.")]


@pipeline.command("compile")
def compile_(
    recipe: RecipeName,
    overrides: Overrides,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("pipeline.yaml"),
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Write a Pipeline and a PipelineVersion resource (for GitOps).")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what each task asks of the cluster; write nothing.")
    ] = False,
    cluster: ClusterFile = None,
    namespace: Namespace = None,
    image: Image = None,
    as_json: Json = False,
) -> None:
    """Compile the pipeline to YAML; the same recipe and settings give the same bytes."""
    resolved = load_recipe(recipe, overrides)
    settings = load_cluster(cluster, namespace=namespace, image=image)
    if explain:
        _print_needs(_compiled(resolved, settings), settings, as_json)
        return
    text = _compiled(resolved, settings, manifest)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, text)
    tasks = _count_tasks(text)
    print(json.dumps({"output": str(output), "tasks": tasks}) if as_json else f"{output}: {tasks} tasks")


def _print_needs(compiled: str, cluster: Cluster, as_json: bool) -> None:
    from pipelines.kubernetes.explain import explain

    rows = explain(compiled)
    if as_json:
        print(json.dumps([row.model_dump() for row in rows]))
        return
    images = {cluster.gpu_image or cluster.image: "gpu", cluster.image: "cpu"}
    table = Table("task", "image", "CPU", "memory", "GPU", "tries", "hours", "cache", "secrets", box=None)
    for column in table.columns[2:7]:
        column.justify = "right"
    for row in rows:
        numbers = (row.cpu, row.memory, str(row.gpu), str(row.attempts), f"{row.hours:g}")
        table.add_row(row.task, images[row.image], *numbers, "yes" if row.cached else "no", ", ".join(row.secrets))
    print_table(table)
    for image, name in sorted(images.items(), key=lambda pair: pair[1]):
        print(f"{name}: {image}")


@pipeline.command()
def submit(
    recipe: RecipeName,
    overrides: Overrides,
    workers: Workers = 0,
    epochs: Epochs = 0,
    data_version: DataVersion = "",
    name: Name = None,
    cluster: ClusterFile = None,
    host: Host = None,
    namespace: Namespace = None,
    image: Image = None,
    as_json: Json = False,
) -> None:
    """Compile the pipeline and start a run."""
    from pipelines.kubernetes.server import Server

    resolved = load_recipe(recipe, overrides)
    settings = load_cluster(cluster, **_cluster_overrides(host, namespace, image))
    package = _compiled(resolved, settings)
    run_name = name or f"{resolved.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    parameters = _parameters(workers, epochs, data_version)
    _print_response(Server(settings).submit(package, run_name, resolved.tracking.experiment, parameters), as_json)


@pipeline.command()
def schedule(
    recipe: RecipeName,
    overrides: Overrides,
    cron: Annotated[
        str, typer.Option(help='Five cron fields, in the time zone of the server; "0 2 * * *" is 02:00 every day.')
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Replace the schedule that has this name.")] = False,
    workers: Workers = 0,
    epochs: Epochs = 0,
    data_version: DataVersion = "",
    name: Name = None,
    cluster: ClusterFile = None,
    host: Host = None,
    namespace: Namespace = None,
    image: Image = None,
    as_json: Json = False,
) -> None:
    """Run on a schedule, one run at a time; missed runs are not made up for."""
    from pipelines.kubernetes.schedule import with_seconds
    from pipelines.kubernetes.server import Server

    cron_with_seconds = with_seconds(cron)
    resolved = load_recipe(recipe, overrides)
    settings = load_cluster(cluster, **_cluster_overrides(host, namespace, image))
    package = _compiled(resolved, settings)
    schedule_name = name or resolved.name
    parameters = _parameters(workers, epochs, data_version)
    experiment = resolved.tracking.experiment
    server = Server(settings)
    _print_response(
        server.schedule(package, schedule_name, experiment, parameters, cron_with_seconds, replace), as_json
    )


@pipeline.command()
def status(run: RunId, cluster: ClusterFile = None, host: Host = None, as_json: Json = False) -> None:
    """Print the state of a run and of its tasks."""
    from pipelines.kubernetes.server import Server

    _print_response(Server(load_cluster(cluster, host=host)).status(run), as_json)


@pipeline.command()
def cancel(run: RunId, cluster: ClusterFile = None, host: Host = None, as_json: Json = False) -> None:
    """Cancel a run; one that has ended does not change."""
    from pipelines.kubernetes.server import Server

    _print_response(Server(load_cluster(cluster, host=host)).cancel(run), as_json)


def _compiled(recipe: Recipe, cluster: Cluster, manifest: bool = False) -> str:
    from pipelines.kubernetes.compile import auto_gpus, compile_pipeline

    requested = [part.compute.gpus_per_worker for part in (recipe, recipe.finetune) if part]
    if "auto" in requested:
        reason = f"the cluster settings have {'a' if cluster.gpu_image else 'no'} gpu_image"
        report(f"slowfast: compute.gpus_per_worker is auto: {auto_gpus(cluster)}, because {reason}")
    if 1 in requested and not cluster.gpu_image:
        _warn(f"the cluster settings have no gpu_image: GPU stages run in {cluster.image}")
    for line in left_out("the pipeline", recipe, cluster.tracking_uri or ""):
        _warn(f"{line} (`secrets` in the cluster settings)")
    return compile_pipeline(recipe, cluster, manifest)


def _cluster_overrides(host: str | None, namespace: str | None, image: str | None) -> dict[str, str | None]:
    return {"host": host, "namespace": namespace, "image": image}


def _parameters(workers: int, epochs: int, data_version: str) -> dict[str, Any]:
    """Return the parameters that were set; the pipeline has defaults for the others."""
    parameters = {"workers": workers, "epochs": epochs, "data_version": data_version}
    return {name: value for name, value in parameters.items() if value}


def _count_tasks(package: str) -> int:
    """Return the number of tasks that run a container; each has one executorLabel in the compiled pipeline."""
    return package.count("executorLabel:")


def _warn(line: str) -> None:
    print(f"slowfast: {line}", file=sys.stderr)


def _print_response(response: RunOrSchedule, as_json: bool) -> None:
    if as_json:
        print(response.model_dump_json())
        return
    schedule = f" at {response.cron!r}" if response.cron else ""
    print(f"{response.name}: {response.state.lower()}{schedule} ({response.id})")
    if response.error:
        print(f"  {response.error}")
    for task, state in response.tasks.items():
        print(f"  {task:<24} {state.lower()}")
    print(f"  {response.url}")
