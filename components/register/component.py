"""A model version with its lineage, and the promotion gate: `promoted` is "no", with the reason, when it is closed."""

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
    """`versions` are for Kubeflow's cache: the stage itself looks at the workspace."""
    import json
    from pathlib import Path

    from components.run_stage import run

    result = run("register", recipe, workspace, version, "version")
    decision = json.loads(Path(result.outputs["version"]).read_text(encoding="utf-8"))["decision"]
    return ("yes" if decision["promote"] else "no", decision["reason"])
