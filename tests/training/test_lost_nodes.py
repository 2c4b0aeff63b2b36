"""Training on a Ray cluster of three nodes, which loses a worker and then a node."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import Node, cluster_of
from trainings import Training

from slowfast_core.data.manifest import read_manifest
from slowfast_core.recipe.load import load_recipe
from slowfast_core.training.plan import Plan
from slowfast_core.workspace import Workspace

SETTINGS = ("train.log_samples=true", "train.checkpoint_steps=2", "train.max_restarts=4")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Node]]]:
    """Address and nodes of a cluster: the head, which trains only if the others cannot, and two workers."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with cluster_of(3, "--include-dashboard=false") as cluster:
        yield cluster


def trained_ids(folder: Path, steps: int, workers: int) -> list[list[str]]:
    """Ids of the clips of each step, ordered by rank; for a repeated step those of the last time."""
    lines = [json.loads(line) for rank in range(workers) for line in _lines(folder / f"samples-{rank}.jsonl", rank)]
    last = {(line["step"], line["rank"]): line["ids"] for line in lines}
    return [[i for rank in range(workers) for i in last[step, rank]] for step in range(steps)]


def _lines(path: Path, rank: int) -> list[str]:
    return [line.replace("{", f'{{"rank": {rank}, ', 1) for line in path.read_text().splitlines()]


@pytest.mark.exhaustive
def test_loss_of_a_worker_and_of_a_node(
    cluster: tuple[str, list[Node]], tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    address, nodes = cluster
    plain = Training(tiny_recipe, tiny_workspace(tmp_path / "plain"))
    lossy = Training(tiny_recipe, tiny_workspace(tmp_path / "lossy"), (*SETTINGS, f"compute.address={address}"))
    try:
        lossy.start()
        lossy.wait_for_epoch(2.5)
        os.kill(next(pid for node in nodes for pid in node.workers()), signal.SIGKILL)
        lossy.wait_for_epoch(5)
        next(node for node in nodes[1:] if node.workers()).kill()
        result = lossy.finish()
        plain.start()
        expected = plain.finish()
    finally:
        for training in (plain, lossy):
            training.kill()
    assert result["weights_digest"] == expected["weights_digest"]
    assert result["summary"].count("resumed from checkpoint") == 2

    recipe = load_recipe(str(tiny_recipe))
    rows = read_manifest(lossy.at.data("motion", "extract") / "store" / "manifest.parquet").split("train").rows
    plan = Plan(recipe.train, recipe.clip, len(rows), recipe.seed)
    planned = []
    for epoch in range(plan.epochs):
        plan.start(epoch)
        planned += [[rows["id"][pick.position] for pick in batch] for batch in plan]
    assert trained_ids(lossy.folder, plan.steps, 2) == planned
    for epoch in range(plan.epochs):
        ids = [i for step in planned[plan.begin(epoch) : plan.ends[epoch]] for i in step]
        assert sorted(ids) == sorted(rows["id"])
