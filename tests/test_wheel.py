"""The wheel contains every file of the packages and the recipes, and works without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("slowfast_core", "pipelines", "components")
# Includes folders from .pth files, such as the packages of another environment, but not the repository.
SITE_PACKAGES = [path for path in sys.path if Path(path).name == "site-packages"]


@dataclass(frozen=True)
class Installed:
    """A virtual environment that contains the wheel; third-party packages come from the environment of the tests."""

    folder: Path

    def run(self, program: str, *arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment in the folder `at`, without the paths of the calling process."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SLOWFAST"))}
        environment["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{environment['PATH']}"
        command = [str(self.folder / "bin" / program), *arguments]
        return subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked and new files, as a build leaves folders in the source tree."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in listed("."):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*command, "--wheel-dir", str(output), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = output.glob("slowfast-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = str(folder / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    paths = {"base": str(folder), "platbase": str(folder)}
    (Path(sysconfig.get_path("purelib", vars=paths)) / "others.pth").write_text("\n".join(SITE_PACKAGES) + "\n")
    return Installed(folder)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def listed(*paths: str) -> list[str]:
    """Files of the working tree that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listing.splitlines() if (ROOT / name).is_file()]


def test_wheel_contains_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    recipes = {f"slowfast_core/{name}" for name in listed("recipes")}
    assert names == {*listed(*PACKAGES), *recipes}


def test_wheel_contains_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("recipes",), "kinetics400/slowfast_4x16_r50\n"),
        (("show", "demo"), "name: demo"),
        (("show", "ava21/slowfast_4x16_r50"), "format: ava"),
        (("run", "demo", "--help"), "--runner"),
    ],
)
def test_commands_work_in_an_empty_folder(
    installed: Installed, empty: Path, arguments: tuple[str, ...], expected: str
) -> None:
    done = installed.run("slowfast", *arguments, at=empty)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout
    assert list(empty.iterdir()) == []


def test_installed_package_is_imported(installed: Installed, empty: Path) -> None:
    code = "import slowfast_core, pipelines, components; print(slowfast_core.__file__, slowfast_core.__version__)"
    done = installed.run("python", "-c", code, at=empty)
    assert done.returncode == 0, done.stderr
    path, version = done.stdout.split()
    assert Path(path).is_relative_to(installed.folder)
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_demo_runs_from_the_wheel(installed: Installed, empty: Path) -> None:
    done = installed.run("slowfast", "run", "demo", at=empty)
    assert done.returncode == 0, done.stderr
    assert "models:/slowfast-demo@champion" in done.stdout
