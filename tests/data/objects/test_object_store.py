from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from object_trees import fetch_tree, put_tree

from slowfast_core.data.objects.object import StoredObject, Transfer
from slowfast_core.data.objects.store import ObjectStore, fetch_all, open_store, place
from slowfast_core.errors import InputError

Upload = Callable[..., str]  # see conftest.py
CONTENT = {"a.mp4": b"a" * 1000, "deep/er/b c+é%.mp4": b"b" * 3_000_000, "empty.txt": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for name, content in CONTENT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, folder: Path) -> ObjectStore:
    if request.param == "folder":
        return open_store(str(folder))
    upload: Upload = request.getfixturevalue("upload")
    return open_store(upload(folder), request.getfixturevalue("s3"))


@pytest.fixture(params=["folder", "bucket"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "there"))
    return open_store(f"s3://{request.getfixturevalue('new_bucket')()}/there", request.getfixturevalue("s3"))


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_object_is_listed_and_fetched(store: ObjectStore, tmp_path: Path) -> None:
    items = store.objects()
    assert {item.key: item.size for item in items} == {name: len(content) for name, content in CONTENT.items()}
    arrived: list[int] = []
    digests = dict(fetch_tree(store, tmp_path / "target"))
    assert tree(tmp_path / "target") == CONTENT
    assert {item.key: digests[item] for item in items} == {
        name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()
    }
    list(fetch_all(store, [(item, tmp_path / "again") for item in items[:1]], arrived.append))
    assert arrived == [1000]


def test_a_tree_is_uploaded_and_downloaded_unchanged(empty_store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    put = {item.key: item for item in put_tree(empty_store, folder)}
    assert put == {item.key: item for item in empty_store.objects()}
    list(fetch_tree(empty_store, tmp_path / "back"))
    assert tree(tmp_path / "back") == CONTENT

    (folder / "a.mp4").write_bytes(b"another take")
    again = {item.key: item for item in put_tree(empty_store, folder)}
    assert {key for key in put if again[key] != put[key]} == {"a.mp4"}
    assert (
        dict(fetch_tree(empty_store, tmp_path / "back"))[again["a.mp4"]] == hashlib.sha256(b"another take").hexdigest()
    )


def test_identity_is_that_of_the_content(folder: Path, upload: Upload, s3: str) -> None:
    bucket = open_store(upload(folder), s3)
    before = {item.key: item.identity for item in bucket.objects()}
    assert before["a.mp4"] == hashlib.md5(CONTENT["a.mp4"]).hexdigest()

    store = open_store(str(folder))
    seen = store.objects()
    assert store.objects() == seen
    os.utime(folder / "a.mp4", ns=(1, 1))
    assert [item.key for item, old in zip(store.objects(), seen, strict=True) if item != old] == ["a.mp4"]


def test_an_object_that_changed_since_it_was_listed_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    item = store.objects()[0]
    stale = StoredObject(item.key, item.size, "0" * 32)
    with pytest.raises(InputError, match=r"changed while it was read.*'a\.mp4'"):
        store.fetch(stale, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_object_that_was_removed_since_it_was_listed_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.mp4"):
        store.fetch(StoredObject("gone.mp4", 10, "0" * 32), tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret")
    store = open_store(str(folder))
    link = next(item for item in store.objects() if item.key == "link.mp4")
    with pytest.raises(InputError, match="leaves the data root"):
        store.fetch(link, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("key", ["../evil", "/evil", "a/../../evil", "a//b.mp4", "./a.mp4", "a/./b.mp4", "file/b.mp4"])
def test_keys_that_are_not_file_paths_are_refused(key: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"leaves the data root|not the path of a file|cannot read or write"):
        place(tmp_path / "root", key)
    assert not list(tmp_path.rglob("*evil*"))


def test_closing_the_iterator_stops_the_downloads(tmp_path: Path) -> None:
    """Ctrl-C must not wait until running downloads are complete."""
    started, released = threading.Event(), threading.Event()

    class Endless:
        root, workers = "endless", 2

        def fetch(self, item: StoredObject, target: Path, on_bytes: Callable[[int], None]) -> str:
            while item.key == "long":
                started.set()
                released.wait(10)
                on_bytes(1)
            return ""

    items = [StoredObject("short", 1, ""), StoredObject("long", 1, "")]
    fetching = fetch_all(Endless(), [(item, tmp_path) for item in items])  # type: ignore[arg-type]
    next(fetching)
    assert started.wait(10)
    threading.Timer(0.1, released.set).start()
    fetching.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_parts_cover_an_object_and_are_at_most_ten_thousand() -> None:
    transfer = Transfer(part_bytes=10)
    assert transfer.parts(0) == [range(0)]
    assert transfer.parts(20) == [range(20)]
    assert transfer.parts(21) == [range(0, 10), range(10, 20), range(20, 21)]
    parts = transfer.parts(1_000_001)
    assert len(parts) == 9901
    assert (parts[0].start, parts[-1].stop) == (0, 1_000_001)
    assert all(one.stop == next_one.start for one, next_one in pairwise(parts))
