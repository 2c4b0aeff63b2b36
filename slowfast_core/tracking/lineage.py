"""The lineage of a model version: everything needed to reproduce it. Without it, the version is not registered."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from slowfast_core.tracking.code import code_revision, package_version

PACKAGES = ("torch", "kfp", "mlflow", "dvc", "ray", "decord", "boto3", "great-expectations", "numpy", "av")
STAGES = ("train", "evaluate")  # stages with required code versions; a clip store may have none
CLEAN = ("code_diff", "code_diff_sha256")  # empty in a clean tree


class Environment(BaseModel):
    """Code, packages and image of a process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code_revision: str = ""
    code_diff_sha256: str = ""
    code_diff: str = ""  # changes of tracked sources relative to the revision, for `git apply`
    packages: dict[str, str] = {}
    image: str = ""  # of the container; "none" outside one


class Lineage(Environment):
    """The origin of a model version. The environment is the training's, not the registration's. Empty: unknown."""

    recipe: str = ""  # resolved, as YAML
    seed: int | None = None
    data_version: str = ""
    parent_checkpoint: str = ""  # weights digest that training started from, or "none"
    weights_digest: str = ""
    training_run: str = ""
    evaluation_run: str = ""
    metrics: dict[str, float] = {}
    stage_versions: dict[str, int] = {}  # code versions of the stages that made data, weights and metrics


def missing(lineage: Lineage) -> list[str]:
    """Return the names of required fields that are unknown."""
    required = [name for name in Lineage.model_fields if name not in CLEAN]
    unknown = [name for name in required if getattr(lineage, name) in (None, "", {})]
    known = {"packages": PACKAGES, "stage_versions": STAGES}
    parts = [(field, name) for field, names in known.items() for name in names if field not in unknown]
    return unknown + [f"{field}.{name}" for field, name in parts if name not in getattr(lineage, field)]


def environment(package: Path | None = None) -> Environment:
    """Return the environment of this process; `package` is the folder of `slowfast_core`."""
    revision, diff = code_revision(package or Path(__file__).resolve().parent.parent)
    return Environment(
        code_revision=revision,
        code_diff_sha256=hashlib.sha256(diff.encode()).hexdigest() if diff else "",
        code_diff=diff,
        packages={name: package_version(name) for name in PACKAGES},
        image=os.environ.get("SLOWFAST_IMAGE") or "none",
    )
