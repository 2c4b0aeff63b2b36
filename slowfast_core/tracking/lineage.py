"""Where a model version comes from: enough to make it again, or it is not registered."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

PACKAGES = ("torch", "kfp", "mlflow", "dvc", "ray", "decord", "boto3", "great-expectations", "numpy", "av")
SOURCES = ("*.py", "*.yaml", "*.toml", "slowfast_core/*.json")  # untracked files that count as code; never bulk data
STAGES = ("train", "evaluate")  # whose version of the code is always known; a clip store may come without its stages
CLEAN = ("code_diff", "code_diff_sha256")  # empty in a clean tree


class Environment(BaseModel):
    """What ran, as far as the process itself can tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code_revision: str = ""
    code_diff_sha256: str = ""
    code_diff: str = ""  # what `git apply` needs on top of the revision
    packages: dict[str, str] = {}
    image: str = ""  # of the container; "none" outside one


class Lineage(Environment):
    """The environment is that of the training, not of the registration. Empty means unknown."""

    recipe: str = ""  # resolved, as YAML
    seed: int | None = None
    data_version: str = ""
    parent_checkpoint: str = ""  # weights digest that training started from, or "none"
    weights_digest: str = ""
    training_run: str = ""
    evaluation_run: str = ""
    metrics: dict[str, float] = {}
    stage_versions: dict[str, int] = {}  # of the code that made data, weights and metrics


def missing(lineage: Lineage) -> list[str]:
    """Names of the fields that are not known."""
    required = [name for name in Lineage.model_fields if name not in CLEAN]
    unknown = [name for name in required if getattr(lineage, name) in (None, "", {})]
    known = {"packages": PACKAGES, "stage_versions": STAGES}
    parts = [(field, name) for field, names in known.items() for name in names if field not in unknown]
    return unknown + [f"{field}.{name}" for field, name in parts if name not in getattr(lineage, field)]


def environment(package: Path | None = None) -> Environment:
    """The environment of this process; `package` is the folder of `slowfast_core`."""
    revision, diff = code_revision(package or Path(__file__).resolve().parent.parent)
    return Environment(
        code_revision=revision,
        code_diff_sha256=hashlib.sha256(diff.encode()).hexdigest() if diff else "",
        code_diff=diff,
        packages={name: _version(name) for name in PACKAGES},
        image=os.environ.get("SLOWFAST_IMAGE") or "none",
    )


def code_revision(package: Path) -> tuple[str, str]:
    """Commit and diff of the git repository that tracks `package`; outside one, a digest of the sources and no diff.

    An image says of which commit it was built; without that, the digest stands with the version.
    """
    # A repository around a virtual environment holds the installed package but does not track it.
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    commit = _git(package, "rev-parse", "HEAD") if tracked else None
    root = _git(package, "rev-parse", "--show-toplevel")
    if commit is None or root is None:
        built_from = os.environ.get("SLOWFAST_REVISION") or f"slowfast {_version('slowfast')}"
        return f"{built_from} sha256:{_digest(package)}", ""
    return commit.strip(), _diff(Path(root.removesuffix("\n")))


def _diff(root: Path) -> str:
    """Changes of tracked files, and untracked source files as additions."""
    options = ("diff", "--no-color", "--no-ext-diff", "--binary")
    changed = _git(root, *options, "HEAD") or ""
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCES) or ""
    added = (_git(root, *options, "--no-index", "--", "/dev/null", name) for name in untracked.split("\0") if name)
    return changed + "".join(text for text in added if text)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None when it is not there or refuses."""
    try:
        ran = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    differs = "--no-index" in arguments and ran.returncode == 1
    return ran.stdout.decode(errors="replace") if ran.returncode == 0 or differs else None


def _digest(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(package).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
