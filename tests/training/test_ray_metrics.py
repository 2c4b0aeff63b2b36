"""Metrics of a training that Prometheus reads from the nodes of a Ray cluster."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from nodes import cluster_of, free_port
from trainings import Training

from slowfast_core.workspace import Workspace

GAUGES = {"ray_slowfast_clips_per_second", "ray_slowfast_data_wait", "ray_slowfast_loss"}


def _shown(port: int) -> dict[str, float]:
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except urllib.error.URLError:
        return {}
    return {name: float(value) for name, value in re.findall(r"^(ray_slowfast_\w+)\{.*\} (\S+)$", text, re.MULTILINE)}


@pytest.mark.exhaustive
def test_training_metrics_are_exported(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 2)
    port = free_port()
    options = ("--include-dashboard=true", f"--dashboard-port={free_port()}", f"--metrics-export-port={port}")
    with cluster_of(1, *options) as (address, _):
        settings = (f"compute.address={address}", "compute.workers=1", "train.epochs=2000")
        training = Training(tiny_recipe, tiny_workspace(tmp_path / "at"), settings)
        training.start()
        try:
            limit, shown = time.monotonic() + 240, dict[str, float]()
            while not shown.keys() >= GAUGES:
                assert training.processes[-1].poll() is None, training.processes[-1].communicate()
                assert time.monotonic() < limit, shown
                time.sleep(1)
                shown = _shown(port)
        finally:
            training.kill()
    assert shown["ray_slowfast_clips_per_second"] > 0
    assert 0 <= shown["ray_slowfast_data_wait"] <= 1
