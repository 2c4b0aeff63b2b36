"""`slowfast data ...`: the data versions of a workspace and of its remotes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.library import At, Json, print_result, stdout
from slowfast_core.data.versions.remote import Address
from slowfast_core.recipe.load import Recipe, Tracking, load_recipe
from slowfast_core.workspace import Workspace

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List data versions and bring them back.")

Remote = Annotated[str | None, typer.Option(help="A DVC remote, s3://bucket/prefix or a folder, besides the default.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="Of an S3-compatible store.")]
Which = Annotated[
    str, typer.Argument(metavar="WHICH", help="A hash or its beginning, a run's id, or models:/NAME@ALIAS.")
]
To = Annotated[Path | None, typer.Option(help="A new folder for it; else it becomes the workspace's extracted data.")]
RecipeOption = Annotated[str | None, typer.Option(help="Take its data.remote and tracking.uri.")]
RecipeArgument = Annotated[str | None, typer.Argument(metavar="RECIPE", help="Only its data set, and its remote.")]


@data.command()
def versions(
    recipe: RecipeArgument = None,
    remote: Remote = None,
    endpoint: Endpoint = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """List data versions: what is in each, where its bytes are, and which runs and models used it."""
    from slowfast_core.data.versions.catalogue import located
    from slowfast_core.tracking.data_use import uses

    resolved, workspace = load_recipe(recipe) if recipe else None, Workspace.at(at)
    held = located(workspace, _address(resolved, remote, endpoint))
    held = [(version, where) for version, where in held if resolved is None or version.data == resolved.data.name]
    used = uses((version.hash for version, _ in held), _tracking(resolved, workspace))
    rows: list[dict[str, Any]] = [
        {
            **version.model_dump(exclude={"stage", "remotes"}),
            "where": where,
            "runs": used[version.hash].runs,
            "models": used[version.hash].models,
        }
        for version, where in held
    ]
    if as_json:
        print(json.dumps(rows))
    elif rows:
        stdout.print(_table(rows))
    else:
        print("no data versions: `slowfast extract RECIPE` makes one, --remote names where others are")


@data.command()
def checkout(
    which: Which,
    to: To = None,
    remote: Remote = None,
    endpoint: Endpoint = None,
    recipe: RecipeOption = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Bring back exactly the data of a version, a run or a model, and verify every file of it."""
    from slowfast_core.data.versions.checkout import checkout as restore
    from slowfast_core.tracking.data_use import used_by

    resolved, workspace = load_recipe(recipe) if recipe else None, Workspace.at(at)
    version = used_by(which, _tracking(resolved, workspace)) or which
    print_result(restore(version, workspace, _address(resolved, remote, endpoint), to), as_json)


def _address(recipe: Recipe | None, remote: str | None, endpoint: str | None) -> Address | None:
    if remote:
        return Address(remote, endpoint)
    return Address(recipe.data.remote, endpoint or recipe.data.remote_endpoint_url) if recipe else None


def _tracking(recipe: Recipe | None, at: Workspace) -> str:
    return (recipe.tracking if recipe else Tracking()).uri or at.tracking_uri


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("version", "made", "data set", "clips", "videos", "files", "MB", "where", "runs", "models", box=None)
    for column in table.columns[3:7]:
        column.justify = "right"
    for row in rows:
        counts = ["?" if row[name] is None else f"{row[name]:,}" for name in ("clips", "videos", "files")]
        runs = [f"{run['name']} {run['id'][:8]}" for run in row["runs"]]
        listed = ["\n".join(cell) for cell in (row["where"], runs, row["models"])]
        made = row["created"][:16].replace("T", " ")
        table.add_row(row["hash"][:12], made, row["data"], *counts, f"{row['bytes'] / 1e6:.1f}", *listed)
    return table
