"""Registers a model version with its lineage and promotes it if it passes the gate."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    recipe: str,
    workspace: str,
    model: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.HTML],
    version: dsl.Output[dsl.Artifact],
    versions: str = "",
) -> NamedTuple("Gate", [("promoted", str), ("reason", str)]):
    """Returns whether the version was promoted ("yes" or "no") and why.

    `versions` is only part of the key of Kubeflow's cache.
    """
    import json
    from pathlib import Path

    from components.run_stage import run_stage

    result = run_stage("register", recipe, workspace, version, "version", [model, report])
    decision = json.loads(Path(result.outputs["version"]).read_text(encoding="utf-8"))["decision"]
    return ("yes" if decision["promote"] else "no", decision["reason"])
