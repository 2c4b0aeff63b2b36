"""What a stage asks for fits the nodes of the overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.kubernetes.compile import compile_pipeline
from pipelines.kubernetes.explain import explain
from pipelines.kubernetes.placement import Placement
from pipelines.kubernetes.settings import load_cluster
from slowfast_core.errors import InputError
from slowfast_core.ray_jobs.rayjob_settings import size_of_workers
from slowfast_core.recipe.load import load_recipe, recipe_names

CLUSTER = load_cluster(Path(__file__).with_name("cluster.yaml"))
WORKERS = Path(__file__).parents[3] / "infra" / "kubernetes" / "overlays" / "gpu" / "gpu-workers.yaml"
GPUS_PER_NODE = 8
# Each layout of workers in the recipes, with a recipe that has it.
RECIPES = [load_recipe(name) for name in recipe_names()]
LAYOUTS = {recipe.compute: recipe.name for recipe in RECIPES if recipe.compute.gpus_per_worker == 1}


@pytest.fixture(scope="module")
def gpu_node() -> dict[str, Any]:
    """The resources of a GPU worker pod, which takes a whole node."""
    (group,) = [patch["value"] for patch in yaml.safe_load(WORKERS.read_text()) if patch["op"] == "add"]
    limits: dict[str, Any] = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return limits


@pytest.mark.parametrize("name", LAYOUTS.values())
def test_the_workers_of_a_recipe_fit_a_gpu_node(name: str, gpu_node: dict[str, Any]) -> None:
    compute = load_recipe(name).compute
    cpus, memory = size_of_workers(compute, min(compute.workers, GPUS_PER_NODE))
    assert 0 < cpus <= int(gpu_node["cpu"])
    assert 0 < memory + CLUSTER.shm_gb <= int(gpu_node["memory"].removesuffix("Gi"))


@pytest.mark.parametrize("name", LAYOUTS.values())
def test_the_training_pod_fits_a_gpu_node_or_is_refused(name: str, gpu_node: dict[str, Any]) -> None:
    recipe = load_recipe(name)
    placement = Placement(recipe, CLUSTER)
    if recipe.compute.workers > GPUS_PER_NODE:
        with pytest.raises(InputError, match=r"training asks for 32 GPUs in one pod.*compute.run_on=rayjob"):
            compile_pipeline(recipe, CLUSTER)
        return
    need = placement.need("train")
    assert need.cpu <= int(gpu_node["cpu"])
    assert need.memory_gb <= int(gpu_node["memory"].removesuffix("Gi"))


def test_a_rayjob_spreads_the_workers_over_nodes() -> None:
    recipe = load_recipe("kinetics400/slowfast_4x16_r101_r50", ["compute.run_on=rayjob"])
    assert compile_pipeline(recipe, CLUSTER)


def test_an_entry_of_the_settings_keeps_the_other_defaults_of_its_stage(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("host: https://kubeflow.example\nimage: slowfast:1\nstages: {extract: {cpu: 4, memory_gb: 6.5}}\n")
    cluster = load_cluster(path)
    need = cluster.need("extract")
    assert (need.cpu, need.memory_gb, need.hours) == (4, 6.5, 72)
    recipe = load_recipe(str(Path(__file__).parents[1] / "tiny.yaml"), ["finetune=null"])
    rows = {row.task: row for row in explain(compile_pipeline(recipe, cluster))}
    assert (rows["extract"].cpu, rows["extract"].memory, rows["extract"].hours) == ("4", "6500M", 72)


def test_an_unknown_stage_in_the_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("host: https://kubeflow.example\nimage: slowfast:1\nstages: {extrac: {cpu: 4}}\n")
    with pytest.raises(InputError, match="'extrac' is not a stage: use one of"):
        load_cluster(path)
