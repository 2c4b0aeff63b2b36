from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from slowfast_core.tracking.code import sources
from slowfast_core.tracking.lineage import PACKAGES, Lineage, code_revision, environment, missing

COMPLETE = Lineage(
    **environment().model_dump(), recipe="name: tiny", seed=0, data_version="d", parent_checkpoint="none",
    weights_digest="w", training_run="t", evaluation_run="e", metrics={"top1": 0.0},
    stage_versions={"train": 1, "evaluate": 1},
)  # fmt: skip


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """`repository/core`, a committed package."""
    package = tmp_path / "repository" / "core"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("a = 1\n")
    (package.parent / ".gitignore").write_text("installed/\n")
    git(package, "init", "--quiet", "..")
    git(package.parent, "add", ".")
    git(package, "commit", "--quiet", "-m", "first")
    return package


def test_complete_lineage_has_nothing_missing() -> None:
    assert missing(COMPLETE) == []


def test_each_unknown_field_is_listed() -> None:
    may_be_empty = {"code_diff", "code_diff_sha256"}
    assert set(missing(Lineage())) == set(Lineage.model_fields) - may_be_empty
    for name in set(Lineage.model_fields) - may_be_empty:
        unknown = COMPLETE.model_copy(update={name: Lineage.model_fields[name].default})
        assert missing(unknown) == [name]


def test_each_package_is_required() -> None:
    fewer = {name: version for name, version in COMPLETE.packages.items() if name != "ray"}
    assert missing(COMPLETE.model_copy(update={"packages": fewer})) == ["packages.ray"]


def test_the_versions_of_training_and_evaluation_are_required() -> None:
    assert missing(COMPLETE.model_copy(update={"stage_versions": {"train": 1}})) == ["stage_versions.evaluate"]


def test_environment_names_packages_and_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLOWFAST_IMAGE", raising=False)
    assert environment().image == "none"
    monkeypatch.setenv("SLOWFAST_IMAGE", "registry/slowfast@sha256:1")
    here = environment()
    assert here.image == "registry/slowfast@sha256:1"
    assert set(here.packages) == set(PACKAGES)
    assert here.packages["numpy"][0].isdigit()


def test_a_clean_tree_is_identified_by_its_commit(package: Path) -> None:
    assert code_revision(package) == (git(package, "rev-parse", "HEAD"), "")
    assert environment(package).code_diff_sha256 == ""


def test_a_dirty_tree_is_reproducible_from_commit_and_diff(package: Path, tmp_path: Path) -> None:
    (package / "__init__.py").write_text("a = 2\n")
    (package / "video.mp4").write_bytes(b"\x00bulk")
    revision, diff = code_revision(package)
    assert "video.mp4" not in diff
    assert len(environment(package).code_diff_sha256) == 64

    copy = tmp_path / "copy"
    git(tmp_path, "clone", "--quiet", str(package.parent), str(copy))
    git(copy, "checkout", "--quiet", revision)
    (tmp_path / "diff").write_text(diff)
    git(copy, "apply", str(tmp_path / "diff"))
    assert (copy / "core" / "__init__.py").read_text() == "a = 2\n"


SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "name", ["my_credentials.yaml", "secret.toml", "core/secret.json", "notes.py", "pipelines/x.yaml"]
)
def test_files_that_git_does_not_track_are_not_in_the_diff(package: Path, name: str) -> None:
    (package / "__init__.py").write_text("a = 2\n")
    file = package.parent / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"password: {SECRET}\n")
    revision, diff = code_revision(package)
    assert revision == git(package, "rev-parse", "HEAD")
    assert "+a = 2" in diff
    assert SECRET not in environment(package).model_dump_json()


def test_tracked_settings_with_a_password_are_not_in_the_diff(package: Path) -> None:
    settings = package.parent / "settings.yaml"
    settings.write_text("password: none\n")
    git(package.parent, "add", ".")
    git(package, "commit", "--quiet", "-m", "settings")
    settings.write_text(f"password: {SECRET}\n")
    (package / "__init__.py").write_text("a = 2\n")
    assert "+a = 2" in code_revision(package)[1]
    assert SECRET not in environment(package).model_dump_json()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("core/new.py", f"b = {SECRET!r}", "git does not track core/new.py"),
        ("core/installed/new.py", f"b = {SECRET!r}", "git does not track core/installed/new.py"),  # it is ignored
        ("core/__init__.py", f"u = 'https://me:{SECRET}@host/'", "an address in the diff has credentials"),
        ("core/__init__.py", f"b = {SECRET!r}\n" * 50_000, "the diff is larger than 1,048,576 bytes"),
    ],
)
def test_a_diff_that_may_not_be_stored_is_reported(package: Path, name: str, text: str, reason: str) -> None:
    file = package.parent / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text + "\n")
    revision, diff = code_revision(package)
    commit = git(package, "rev-parse", "HEAD")
    assert revision.startswith(f"{commit} dirty, not stored: {reason}; sources sha256:")
    assert diff == ""
    assert SECRET not in environment(package).model_dump_json()
    file.write_text(text + "  # changed\n")
    assert code_revision(package)[0] != revision


def test_a_model_includes_only_the_tracked_sources(package: Path) -> None:
    (package / "my_credentials.yaml").write_text(SECRET)
    (package / "stray.py").write_text(SECRET)
    (package / "data.json").write_text("{}")
    git(package.parent, "add", "core/data.json")
    assert [path.name for path in sources(package)] == ["__init__.py", "data.json"]


def test_an_untracked_package_is_identified_by_its_digest(package: Path) -> None:
    installed = package.parent / "installed" / "core"  # as in a virtual environment inside a repository
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("a = 1\n")
    revision, diff = code_revision(installed)
    assert revision.startswith("slowfast ")
    assert "sha256:" in revision
    assert diff == ""
    (installed / "__init__.py").write_text("a = 2\n")
    assert code_revision(installed)[0] != revision
