"""Imports go down the layers, never up, and never in a cycle; importing the library does nothing."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the bottom to the top. A package may import those below it, but not others of its own layer.
# Modules directly in slowfast_core are the bottom layer.
LAYERS = (
    ("slowfast_core",),
    ("slowfast_core.data.annotations",),
    ("slowfast_core.recipe", "slowfast_core.parallel"),
    ("slowfast_core.tracking",),
    ("slowfast_core.model",),
    ("slowfast_core.convert",),
    ("slowfast_core.data",),
    ("slowfast_core.evaluation", "slowfast_core.training"),
    ("slowfast_core.serving", "slowfast_core.stages"),
    ("slowfast_core.ray_jobs",),
    ("components",),
    ("pipelines",),
)
# The package's own namespace: slowfast_core/__init__.py may import the Python API inside functions, from any layer.
NAMESPACE = "slowfast_core"
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}


def modules() -> dict[str, Path]:
    found = {}
    for top in ("slowfast_core", "components", "pipelines"):
        for path in (ROOT / top).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """The modules of this repository that a module imports, inside functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module}
    return found & MODULES.keys()


def package_of(module: str) -> str:
    """The entry of LAYERS that a module belongs to."""
    return max((package for package in LEVEL if f"{module}.".startswith(f"{package}.")), key=len)


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "slowfast_core").glob("*/__init__.py")}
    assert {package.replace("/", ".") for package in packages} <= LEVEL.keys()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {NAMESPACE}))
def test_a_module_imports_from_its_own_package_or_from_lower_layers(module: str) -> None:
    own = package_of(module)
    others = {name: package_of(name) for name in imported(module)}
    assert {name for name, package in others.items() if package != own and LEVEL[package] >= LEVEL[own]} == set()


def test_there_is_no_import_cycle() -> None:
    graph = {module: imported(module) - {module} for module in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def test_the_library_does_not_import_kubeflow() -> None:
    library = [path for name, path in MODULES.items() if name.startswith("slowfast_core")]
    assert [path for path in library if "import kfp" in path.read_text() or "from kfp" in path.read_text()] == []


def test_importing_the_library_loads_no_other_module(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import slowfast_core; print(*(sys.modules.keys() - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    others = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others == {"slowfast_core"}


HEAVY = ("torch", "ray", "mlflow", "sqlalchemy", "dvc", "great_expectations", "kfp", "boto3", "decord", "av")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipelines.cli.main", (*HEAVY, "pandas")),
        ("slowfast_core.ray_jobs.dispatch", HEAVY),  # all stages: one that is up to date returns at once
    ],
)
def test_importing_a_light_module_loads_no_heavy_library(module: str, heavy: tuple[str, ...], tmp_path: Path) -> None:
    code = f"import sys, {module}; print(sorted(set({heavy!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr, list(tmp_path.iterdir())) == ("[]", "", [])
