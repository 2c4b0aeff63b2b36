"""Runs rounds of simultaneous registrations, each in its own process, and prints the registry after each round.

    python simultaneous.py FOLDER DATABASE ROUNDS PROCESSES [URI]

The processes are forked from this one, which has imported all modules but opened no database. Without a URI they
share a workspace with a copy of DATABASE; with a URI each has its own workspace, and they share only the server.
Prints a line of JSON for each round.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import mlflow.store.db.utils
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store
import torch
from flows import Flow
from mlflow.utils import requirements_utils

from slowfast_core.recipe.load import Register
from slowfast_core.tracking.runs import connect, store_uri
from slowfast_core.workspace import Workspace

PRELOADED = (mlflow.models, mlflow.pyfunc, mlflow.store)  # imported here, because importing takes each process seconds
FORK = multiprocessing.get_context("fork")
LIMIT = 240  # seconds per round


def flow_of(folder: Path, number: int, uri: str | None) -> Flow:
    own = folder / str(number)
    own.mkdir(exist_ok=True)
    flow = Flow(own, Workspace(own / "workspace" if uri else folder / "workspace"), uri)
    flow.recipe = flow.recipe.model_copy(update={"register_": Register(model=folder.name)})
    return flow


def register(folder: Path, number: int, top1: float, uri: str | None, barrier: Any) -> None:
    try:
        flow = flow_of(folder, number, uri)
        weights = f"{folder.name} {number}"
        training, evaluation = flow.train(weights), flow.evaluate(weights, top1)
        barrier.wait(LIMIT)
        flow.register(training, evaluation)
    except BaseException:
        traceback.print_exc()
        barrier.abort()
        raise


def write_registry(folder: Path, uri: str | None) -> None:
    flow = flow_of(folder, 0, uri)
    client, name = connect(store_uri(flow.recipe.tracking, flow.at)), folder.name
    model = client.get_registered_model(name)
    found = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))
    versions = [
        {key: version.tags.get(key) for key in ("metric_top1", "decision", "decision_reason")} for version in found
    ]
    aliases = {alias: int(version) for alias, version in model.aliases.items()}
    (folder / "read.json").write_text(json.dumps({"aliases": aliases, "tags": model.tags, "versions": versions}))


def run_round(folder: Path, database: Path, processes: int, uri: str | None, seed: int) -> str:
    """Run a round of registrations; returns the registry as JSON."""
    folder.mkdir(parents=True)
    if uri is None:
        (folder / "workspace").mkdir()
        shutil.copy(database, folder / "workspace")
    metrics = [round(0.4 + 0.05 * number, 2) for number in range(processes)]
    random.Random(seed).shuffle(metrics)
    barrier = FORK.Barrier(processes)
    work = [(folder, number, metric, uri, barrier) for number, metric in enumerate(metrics)]
    run = [FORK.Process(target=register, args=arguments) for arguments in work]
    for process in run:
        process.start()
    for process in run:
        process.join(LIMIT)
        if process.exitcode != 0:
            raise SystemExit(f"a registration ended with {process.exitcode}")
    reader = FORK.Process(target=write_registry, args=(folder, uri))
    reader.start()
    reader.join(LIMIT)
    return (folder / "read.json").read_text()


def main(root: str, database: str, rounds: str, processes: str, uri: str | None = None) -> None:
    torch.set_num_threads(1)
    requirements_utils._init_modules_to_packages_map()  # this takes a few seconds, too
    for number in range(int(rounds)):
        folder = Path(root) / f"round-{number}"
        print(run_round(folder, Path(database), int(processes), uri, number), flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
