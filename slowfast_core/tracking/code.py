"""Records which code ran: the commit and the diff of its tracked sources, never the content of untracked files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from slowfast_core.credentials import without_credentials

NEIGHBOURS = ("pipelines", "components")  # packages of the software in addition to the library
SUFFIXES = (".py", ".json", ".html", ".typed")  # recorded files of the library; settings and recipes may have secrets
MAX_DIFF = 1 << 20  # bytes


def code_revision(package: Path) -> tuple[str, str]:
    """Return commit and diff of the git repository that tracks `package`; without one, a digest and no diff.

    The diff contains only tracked sources of the software. If it would be incomplete or may not be stored, the revision
    is "COMMIT dirty, not stored: REASON" with a digest of the sources. In an image, SLOWFAST_REVISION is the commit.
    """
    # A repository around a virtual environment holds the installed package but does not track it.
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    commit = _git(package, "rev-parse", "HEAD") if tracked else None
    if commit is None:
        built_from = os.environ.get("SLOWFAST_REVISION") or f"slowfast {package_version('slowfast')}"
        return f"{built_from} sha256:{_digest([package])}", ""
    root, packages = package.parent, (package.name, *NEIGHBOURS)
    diff = _diff(root, package.name)
    if reason := _untracked(root, packages) or _unfit(diff):
        digest = _digest(root / name for name in packages)
        return f"{commit.strip()} dirty, not stored: {reason}; sources sha256:{digest}", ""
    return commit.strip(), diff


def sources(package: Path) -> list[Path]:
    """Return the files of `package` that a model needs: sources tracked by git and modules imported by this process.

    If no repository tracks the package, all its sources.
    """
    there = {path for path in package.rglob("*") if path.is_file() and path.suffix in SUFFIXES}
    listed = _git(package, "ls-files", "-z")
    if not listed:
        return sorted(there)
    tracked = {package / name for name in listed.split("\0") if name}
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == package.name]
    imported = {Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))}
    return sorted(path for path in there if path in tracked or path.resolve() in imported)


def _diff(root: Path, library: str) -> str:
    """Return the changes of tracked sources in the format of `git apply`."""
    paths = [f"{library}/*{suffix}" for suffix in SUFFIXES] + [f"{name}/*.py" for name in NEIGHBOURS]
    command = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--binary", "HEAD", "--", *paths)
    return _git(root, *command, "pyproject.toml") or ""


def _untracked(root: Path, packages: Iterable[str]) -> str:
    """Return why a diff is incomplete: importable files, also ignored ones, that git does not track; "" if none."""
    listed = _git(root, "ls-files", "-z", "--others", "--", *(f"{name}/*.py" for name in packages)) or ""
    names = [name for name in listed.split("\0") if name and _importable(name)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"git does not track {names[0]}{more}" if names else ""


def _importable(name: str) -> bool:
    return all(part.isidentifier() for part in Path(name).with_suffix("").parts)


def _unfit(diff: str) -> str:
    """Return why the diff may not be stored; "" if it may."""
    if len(diff.encode()) > MAX_DIFF:
        return f"the diff is larger than {MAX_DIFF:,} bytes"
    return "an address in the diff has credentials" if without_credentials(diff) != diff else ""


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git; None if git is not installed or fails."""
    try:
        ran = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return ran.stdout.decode(errors="replace") if ran.returncode == 0 else None


def _digest(packages: Iterable[Path]) -> str:
    """Return a digest of all Python sources."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(package).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def package_version(package: str) -> str:
    """The installed version of a package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
