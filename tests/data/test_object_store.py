from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from slowfast_core.data.object_store import Bucket, Folder, ObjectStore, StoredObject, fetch_all, open_store
from slowfast_core.errors import InputError

Upload = Callable[..., str]  # see conftest.py
CONTENT = {"a.mp4": b"a" * 1000, "deep/er/b c.mp4": b"b" * 3_000_000, "empty.txt": b""}


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


def test_lists_and_fetches_every_object(store: ObjectStore, tmp_path: Path) -> None:
    items = store.objects()
    assert {item.key: item.size for item in items} == {name: len(content) for name, content in CONTENT.items()}
    targets = [(item, tmp_path / str(index)) for index, item in enumerate(items)]
    digests = dict(fetch_all(store, targets, workers=2))
    for item, target in targets:
        assert target.read_bytes() == CONTENT[item.key]
        assert digests[item] == hashlib.sha256(CONTENT[item.key]).hexdigest()


def test_identity_is_that_of_the_content(folder: Path, upload: Upload, s3: str) -> None:
    bucket = open_store(upload(folder), s3)
    before = {item.key: item.identity for item in bucket.objects()}
    assert before["a.mp4"] == hashlib.md5(CONTENT["a.mp4"]).hexdigest()

    store = open_store(str(folder))
    seen = store.objects()
    assert store.objects() == seen
    os.utime(folder / "a.mp4", ns=(1, 1))
    assert [item.key for item, old in zip(store.objects(), seen, strict=True) if item != old] == ["a.mp4"]


def test_an_object_that_changes_meanwhile_is_refused(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    item = store.objects()[0]
    stale = StoredObject(item.key, item.size, "0" * 32)
    with pytest.raises(InputError, match="changed or removed while it was read"):
        store.fetch(stale, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_bodies_that_end_early_are_fetched_again(folder: Path, upload: Upload, proxy, tmp_path: Path) -> None:
    store = Bucket(upload(folder), proxy.url, attempts=3, backoff_seconds=0.01)
    item = store.objects()[1]
    proxy.cut = 2
    assert store.fetch(item, tmp_path / "target") == hashlib.sha256(CONTENT[item.key]).hexdigest()
    assert len(proxy.read) == 3


def test_bodies_that_always_end_early_leave_nothing(folder: Path, upload: Upload, proxy, tmp_path: Path) -> None:
    store = Bucket(upload(folder), proxy.url, attempts=2, backoff_seconds=0.01)
    item = store.objects()[1]
    proxy.cut = 100
    with pytest.raises(InputError, match="goes on from the finished files"):
        store.fetch(item, tmp_path / "target")
    assert len(proxy.read) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_multipart_etags_are_not_taken_for_an_md5(s3: str, tmp_path: Path) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="multipart")
    upload = client.create_multipart_upload(Bucket="multipart", Key="x.mp4")["UploadId"]
    parts = []
    for number, body in enumerate((b"x" * (5 << 20), b"y"), start=1):
        named = {"Bucket": "multipart", "Key": "x.mp4", "UploadId": upload, "PartNumber": number}
        parts.append({"PartNumber": number, "ETag": client.upload_part(**named, Body=body)["ETag"]})
    client.complete_multipart_upload(Bucket="multipart", Key="x.mp4", UploadId=upload, MultipartUpload={"Parts": parts})
    store = open_store("s3://multipart", s3)
    (item,) = store.objects()
    assert "-" in item.identity
    store.fetch(item, tmp_path / "target")
    assert (tmp_path / "target").stat().st_size == (5 << 20) + 1


def test_missing_roots_are_told_in_one_line(s3: str, upload: Upload, folder: Path, tmp_path: Path) -> None:
    bucket = upload(folder).split("/")[2]
    for store, message in (
        (Folder(str(tmp_path / "none")), "no such folder"),
        (Bucket("s3://not-there/x", s3), "no such bucket"),
        (Bucket(f"s3://{bucket}/other", s3), "nothing below this prefix"),
        (Bucket("s3://", s3), "bucket"),
        (Bucket("s3://not-there", "nonsense"), "Invalid endpoint"),
        (Bucket("s3://not-there", "http://127.0.0.1:1", attempts=1), "Could not connect"),
    ):
        with pytest.raises(InputError, match=message) as error:
            store.objects()
        assert "\n" not in str(error.value)


def test_missing_credentials_are_told_in_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match=r"credentials.*set AWS_ACCESS_KEY_ID"):
        open_store("s3://somewhere", s3).objects()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match="nobody"):
        open_store("s3://somewhere", s3).objects()


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret")
    store = open_store(str(folder))
    link = next(item for item in store.objects() if item.key == "link.mp4")
    with pytest.raises(InputError, match="leaves the data root"):
        store.fetch(link, tmp_path / "target")
    assert not (tmp_path / "target").exists()
