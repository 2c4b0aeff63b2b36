"""Atomic writes, digests, and paths that leave a root folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from slowfast_core.errors import InputError
from slowfast_core.files import inside, sha256_of, whole_file, write_whole


def test_a_file_gets_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".html"  # some writers choose the format by the suffix
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_whole(path, "old")

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    write_whole(tmp_path / "labels.txt", "über\n")
    assert (tmp_path / "labels.txt").read_bytes() == "über\n".encode()


def test_sha256_of_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("relative", ["a.mp4", "deep/er/a.mp4", "deep/../a.mp4", "./a.mp4"])
def test_paths_below_the_root_are_accepted(tmp_path: Path, relative: str) -> None:
    assert inside(tmp_path, relative) == (tmp_path / relative).resolve()


@pytest.mark.parametrize("relative", ["../a.mp4", "deep/../../a.mp4", "/etc/passwd", "../root-2/a.mp4", "link/a.mp4"])
def test_paths_that_leave_the_root_are_refused(tmp_path: Path, relative: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leaves the data root"):
        inside(root, relative)


def test_a_link_within_the_root_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    assert inside(tmp_path, "link/a.mp4") == tmp_path.resolve() / "videos" / "a.mp4"
