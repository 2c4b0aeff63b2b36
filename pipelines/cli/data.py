"""`slowfast data ...`: list and restore the data versions of a workspace and of its remotes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.library import HELP_OPTIONS, At, Json, print_result, print_table
from slowfast_core.data.versions.remote import Address
from slowfast_core.recipe.load import Recipe, Tracking, load_recipe
from slowfast_core.workspace import Workspace

data = typer.Typer(no_args_is_help=True, context_settings=HELP_OPTIONS, help="List and restore data versions.")

Remote = Annotated[str | None, typer.Option(help="Additional DVC remote to search: s3://bucket/prefix or a folder.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="URL of an S3-compatible store.")]
Which = Annotated[
    str,
    typer.Argument(
        metavar="WHICH", help="Data version (or its first characters), MLflow run id, or models:/NAME@ALIAS."
    ),
]
To = Annotated[
    Path | None, typer.Option(help="New folder for the files.", show_default="the workspace's extracted data")
]
RecipeOption = Annotated[str | None, typer.Option(help="Recipe to take data.remote and tracking.uri from.")]
RecipeArgument = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE", help="List only the data set of this recipe, including its data.remote."),
]


@data.command()
def versions(
    recipe: RecipeArgument = None,
    remote: Remote = None,
    endpoint: Endpoint = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """List data versions: their contents, where the files are, and which runs and models used them."""
    from slowfast_core.data.versions.catalogue import located
    from slowfast_core.tracking.data_use import uses

    workspace = Workspace.at(at)
    resolved = load_recipe(recipe) if recipe else None
    found = located(workspace, _address(resolved, remote, endpoint))
    found = [(version, places) for version, places in found if resolved is None or version.data == resolved.data.name]
    used = uses((version.hash for version, _ in found), _tracking(resolved, workspace))
    rows: list[dict[str, Any]] = [
        {
            **version.model_dump(exclude={"stage", "remotes"}),
            "where": places,
            "runs": used[version.hash].runs,
            "models": used[version.hash].models,
        }
        for version, places in found
    ]
    if as_json:
        print(json.dumps(rows))
    elif rows:
        _print_versions(rows)
    else:
        print("no data versions: create one with `slowfast extract RECIPE`, or name another remote with --remote")


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
    """Restore the data of a version, a run or a model, and verify the checksum of every file."""
    from slowfast_core.data.versions.checkout import checkout as restore
    from slowfast_core.tracking.data_use import used_by

    workspace = Workspace.at(at)
    resolved = load_recipe(recipe) if recipe else None
    version = used_by(which, _tracking(resolved, workspace)) or which
    print_result(restore(version, workspace, _address(resolved, remote, endpoint), to), as_json)


def _address(recipe: Recipe | None, remote: str | None, endpoint: str | None) -> Address | None:
    if remote:
        return Address(remote, endpoint)
    return Address(recipe.data.remote, endpoint or recipe.data.remote_endpoint_url) if recipe else None


def _tracking(recipe: Recipe | None, at: Workspace) -> str:
    return (recipe.tracking if recipe else Tracking()).uri or at.tracking_uri


def _print_versions(rows: list[dict[str, Any]]) -> None:
    """Print a table of the versions and, below it, for each version where it is and what used it."""
    table = Table("version", "created", "data set", "clips", "videos", "files", "MB", box=None)
    for column in table.columns[3:]:
        column.justify = "right"
    for row in rows:
        counts = ["?" if row[name] is None else f"{row[name]:,}" for name in ("clips", "videos", "files")]
        created = row["created"][:10]
        table.add_row(row["hash"][:12], created, row["data"], *counts, f"{row['bytes'] / 1e6:.1f}")
    print_table(table)
    for row in rows:
        print()
        for line in _uses(row):
            print(line)


def _uses(row: dict[str, Any]) -> Iterator[str]:
    yield row["hash"][:12]
    runs = [f"{run['name']} {run['id'][:8]}" for run in row["runs"]]
    for title, values in (("where", row["where"]), ("run", runs), ("model", row["models"])):
        for value in values:
            yield f"  {title}: {value}"
