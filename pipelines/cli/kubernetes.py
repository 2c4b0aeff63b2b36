"""`slowfast pipeline ...`: the DAG on Kubernetes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.library import Json, Overrides, RecipeName
from pipelines.kubernetes.settings import Cluster, load_cluster
from slowfast_core.credentials import left_out
from slowfast_core.files import write_whole
from slowfast_core.recipe.load import Recipe, load_recipe

if TYPE_CHECKING:
    from pipelines.kubernetes.server import Sent

pipeline = typer.Typer(no_args_is_help=True, help="Run the DAG on Kubernetes, with Kubeflow Pipelines.")

ClusterFile = Annotated[
    Path | None,
    typer.Option("--cluster", help="The cluster's settings.", envvar="SLOWFAST_CLUSTER", show_default="./cluster.yaml"),
]
Host = Annotated[str | None, typer.Option(help="Of the Kubeflow Pipelines API, instead of that of the settings.")]
Namespace = Annotated[str | None, typer.Option(help="Instead of that of the settings.")]
Image = Annotated[str | None, typer.Option(help="Instead of that of the settings.")]
Workers = Annotated[int, typer.Option(min=0, help="Training workers of this run; 0: the recipe's.")]
Epochs = Annotated[int, typer.Option(min=0, help="Epochs of this run; 0: the recipe's.")]
DataVersion = Annotated[str, typer.Option(help="Stop before training if the data is of another version.")]
Name = Annotated[str | None, typer.Option(help="What it is called there.", show_default="the recipe's")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id that `submit` printed.")]


@pipeline.command("compile")
def compile_(
    recipe: RecipeName,
    overrides: Overrides,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("pipeline.yaml"),
    manifest: Annotated[bool, typer.Option("--manifest", help="Write Kubernetes resources, for GitOps.")] = False,
    cluster: ClusterFile = None,
    namespace: Namespace = None,
    image: Image = None,
    as_json: Json = False,
) -> None:
    """Write the pipeline as YAML: the same bytes for the same recipe and settings."""
    resolved, settings = load_recipe(recipe, overrides), load_cluster(cluster, namespace=namespace, image=image)
    text = _compiled(resolved, settings, manifest)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, text)
    typer.echo(
        json.dumps({"output": str(output), "tasks": _count(text)}) if as_json else f"{output}: {_count(text)} tasks"
    )


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
    """Begin a run now."""
    from pipelines.kubernetes.server import Server

    resolved, settings = load_recipe(recipe, overrides), load_cluster(cluster, **_given(host, namespace, image))
    package = _compiled(resolved, settings)
    called = name or f"{resolved.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    parameters = _parameters(workers, epochs, data_version)
    _say(Server(settings).submit(package, called, resolved.tracking.experiment, parameters), as_json)


@pipeline.command()
def schedule(
    recipe: RecipeName,
    overrides: Overrides,
    cron: Annotated[str, typer.Option(help='Five fields: "0 2 * * *" is two at night, in the server\'s time zone.')],
    replace: Annotated[bool, typer.Option("--replace", help="Instead of the schedule of this name.")] = False,
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
    """Run it by the clock: never two at a time, and what was missed stays missed."""
    from pipelines.kubernetes.schedule import with_seconds
    from pipelines.kubernetes.server import Server

    clock = with_seconds(cron)
    resolved, settings = load_recipe(recipe, overrides), load_cluster(cluster, **_given(host, namespace, image))
    package, called = _compiled(resolved, settings), name or resolved.name
    parameters, experiment = _parameters(workers, epochs, data_version), resolved.tracking.experiment
    _say(Server(settings).schedule(package, called, experiment, parameters, clock, replace), as_json)


@pipeline.command()
def status(run: RunId, cluster: ClusterFile = None, host: Host = None, as_json: Json = False) -> None:
    """Say how a run stands."""
    from pipelines.kubernetes.server import Server

    _say(Server(load_cluster(cluster, host=host)).status(run), as_json)


@pipeline.command()
def cancel(run: RunId, cluster: ClusterFile = None, host: Host = None, as_json: Json = False) -> None:
    """Stop a run; one that has ended stays as it is."""
    from pipelines.kubernetes.server import Server

    _say(Server(load_cluster(cluster, host=host)).cancel(run), as_json)


def _compiled(recipe: Recipe, cluster: Cluster, manifest: bool = False) -> str:
    from pipelines.kubernetes.compile import auto_gpus, compile_pipeline

    asked = [one.compute.gpus_per_worker for one in (recipe, recipe.finetune) if one]
    if "auto" in asked:
        has = "a" if cluster.gpu_image else "no"
        chosen = f"{auto_gpus(cluster)}, as the settings name {has} gpu_image"
        typer.echo(f"slowfast: compute.gpus_per_worker is auto: {chosen}", err=True)
    if 1 in asked and not cluster.gpu_image:
        typer.echo(f"slowfast: no gpu_image in the settings: stages on GPUs run in {cluster.image}", err=True)
    for line in left_out("the pipeline", recipe, cluster.tracking_uri or ""):
        typer.echo(f"slowfast: {line} (`secrets` of the settings)", err=True)
    return compile_pipeline(recipe, cluster, manifest)


def _given(host: str | None, namespace: str | None, image: str | None) -> dict[str, str | None]:
    return {"host": host, "namespace": namespace, "image": image}


def _parameters(workers: int, epochs: int, data_version: str) -> dict[str, Any]:
    """Only what differs: the rest has its default in the pipeline."""
    named = {"workers": workers, "epochs": epochs, "data_version": data_version}
    return {name: value for name, value in named.items() if value}


def _count(package: str) -> int:
    """Containers of the pipeline, which its specification lists once each."""
    return package.count("executorLabel:")


def _say(sent: Sent, as_json: bool) -> None:
    if as_json:
        typer.echo(sent.model_dump_json())
        return
    clock = f" at {sent.cron!r}" if sent.cron else ""
    typer.echo(f"{sent.name}: {sent.state.lower()}{clock} ({sent.id})")
    if sent.error:
        typer.echo(f"  {sent.error}")
    for task, state in sent.tasks.items():
        typer.echo(f"  {task:<24} {state.lower()}")
    typer.echo(f"  {sent.url}")
