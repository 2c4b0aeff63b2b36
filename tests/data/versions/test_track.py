from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slowfast_core.data.versions.remote import Address
from slowfast_core.data.versions.track import data_version, is_tracked, track
from slowfast_core.errors import InputError
from slowfast_core.files import md5_of


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "motion" / "extract" / "store"
    (folder / "clips" / "deep").mkdir(parents=True)
    for name in ("index.bin", "clips/b.mp4", "clips/a.mp4", "clips/deep/ü.mp4"):
        (folder / name).write_bytes(name.encode() * 10)
    return folder


def test_the_version_is_what_dvc_add_records(store: Path, tmp_path: Path) -> None:
    version = data_version(store)
    assert version.endswith(".dir")
    assert sorted(path.name for path in store.parent.iterdir()) == ["store"]
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    dvc(tmp_path, "add", "--quiet", str(store))
    recorded = yaml.safe_load(store.with_suffix(".dvc").read_text())
    assert recorded["outs"][0]["md5"] == version


def test_the_version_depends_on_names_and_bytes(store: Path) -> None:
    before = data_version(store)
    (store / "clips" / "a.mp4").rename(store / "clips" / "c.mp4")
    renamed = data_version(store)
    (store / "clips" / "c.mp4").write_bytes(b"other")
    assert len({before, renamed, data_version(store)}) == 3


def test_tracked_data_can_be_pulled_from_the_remote(store: Path, tmp_path: Path) -> None:
    repository, remote = tmp_path / "data", tmp_path / "remote"
    version = track(store, repository, remote)
    assert version == data_version(store)
    pushed = sorted(path for path in remote.rglob("*") if path.is_file())
    assert len(pushed) == 6  # four files, their list and the record of the version
    assert track(store, repository, remote) == version
    assert sorted(path for path in remote.rglob("*") if path.is_file()) == pushed

    assert "analytics = False" in (repository / ".dvc" / "config").read_text()
    assert str(tmp_path) not in (repository / ".dvc" / "config").read_text()  # the workspace can be moved
    assert os.access(store / "index.bin", os.W_OK)
    (store / "clips" / "a.mp4").unlink()
    assert data_version(store) != version
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    remote.rename(elsewhere / "remote")
    for path in (".dvc/config", "motion/extract/store.dvc"):
        (elsewhere / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / "data" / path).write_bytes((repository / path).read_bytes())
    dvc(elsewhere / "data", "pull", "--quiet")
    assert data_version(elsewhere / "data" / "motion" / "extract" / "store") == version


def test_a_second_version_pushes_only_what_changed(store: Path, tmp_path: Path) -> None:
    repository, remote = tmp_path / "data", tmp_path / "remote"
    first = track(store, repository, remote)
    before = {path for path in remote.rglob("*") if path.is_file()}
    (store / "clips" / "a.mp4").write_bytes(b"better")
    second = track(store, repository, remote)
    assert second == data_version(store) != first
    assert len({path for path in remote.rglob("*") if path.is_file()} - before) == 3  # file, list, record


def test_a_default_remote_set_by_the_user_is_used(store: Path, tmp_path: Path) -> None:
    repository = tmp_path / "data"
    dvc(repository, "init", "--no-scm", "--quiet")
    dvc(repository, "remote", "add", "--default", "mine", str(tmp_path / "mine"))
    track(store, repository, tmp_path / "remote")
    assert not (tmp_path / "remote").exists()
    assert (tmp_path / "mine").is_dir()


def test_damaged_files_of_the_cache_are_not_pushed(store: Path, tmp_path: Path) -> None:
    repository = tmp_path / "data"
    version = track(store, repository, tmp_path / "remote")
    md5 = md5_of(store / "clips" / "a.mp4")
    damaged = repository / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"rot")
    damaged.chmod(0o444)
    other = Address(str(tmp_path / "other"))
    with pytest.raises(InputError, match=md5):
        track(store, repository, tmp_path / "remote", other)
    assert not list((tmp_path / "other").rglob("*.dir"))
    assert track(store, repository, tmp_path / "remote", other) == version
    assert md5_of(tmp_path / "other" / "files" / "md5" / md5[:2] / md5[2:]) == md5


def test_a_version_is_tracked_separately_in_each_remote(store: Path, tmp_path: Path) -> None:
    repository, other = tmp_path / "data", Address(str(tmp_path / "other"))
    version = track(store, repository, tmp_path / "remote")
    assert is_tracked(store, version, repository, Address())
    assert not is_tracked(store, version, repository, other)
    track(store, repository, tmp_path / "remote", other)
    assert is_tracked(store, version, repository, other)
    store.with_suffix(".dvc").unlink()
    assert not is_tracked(store, version, repository, other)
