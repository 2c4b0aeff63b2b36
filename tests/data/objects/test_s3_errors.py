"""A failed ingestion reports one line that includes the fix, and leaves no partial files."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import yaml
from faulty_proxy import FaultyProxy, Request

from slowfast_core.data.objects.bucket import Bucket
from slowfast_core.data.objects.fetch import collect
from slowfast_core.data.objects.folder import Folder
from slowfast_core.data.objects.object import StoredObject, Transfer
from slowfast_core.data.objects.partial_file import partial_paths
from slowfast_core.errors import InputError

ONCE = Transfer(attempts=1, timeout_seconds=5, part_bytes=1000)


@pytest.fixture
def root(s3: str, new_bucket: Callable[[], str]) -> str:
    bucket = new_bucket()
    for key, size in (("sets/small.mp4", 10), ("sets/large.mp4", 5000)):
        boto3.client("s3", endpoint_url=s3).put_object(Bucket=bucket, Key=key, Body=bytes(size))
    return f"s3://{bucket}/sets"


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_sources_are_reported(s3: str, root: str, tmp_path: Path) -> None:
    nowhere = f"s3://slowfast-{uuid.uuid4().hex}"
    for store, expected in (
        (Folder(str(tmp_path / "none")), "no such folder"),
        (Bucket(nowhere, s3), "no such bucket"),
        (Bucket(f"{root}/other", s3), "nothing below this prefix"),
        (Bucket("s3://", s3), "bucket"),
        (Bucket("s3://No_Bucket", s3), "bucket"),
        (Bucket(nowhere, "nonsense"), "nonsense"),
        (Bucket(nowhere, "http://127.0.0.1:1"), "could not connect to http://127.0.0.1:1/"),
        (Bucket(nowhere, "http://no-such-host.invalid"), "unknown host name in http://no-such-host.invalid/"),
    ):
        assert expected in refusal(store.objects)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("AccessDenied", r"access denied \(s3://bucket"),
        ("ExpiredToken", "the credentials have expired"),
        ("InvalidObjectState", "the object is archived"),
        ("SignatureDoesNotMatch", "the secret key does not belong to the access key"),
        ("MethodNotAllowed", r"S3 refused: .*\bMethodNotAllowed\b"),
    ],
)
def test_a_refusal_by_s3_is_reported_without_retries(
    fault: str, expected: str, root: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """When objects are listed, when one is read whole, and in the middle of its ranges."""
    store = Bucket(root, proxy.url, transfer=Transfer(part_bytes=1000, backoff_seconds=60))
    large, small = store.objects()
    expected = expected.replace("s3://bucket", root)
    proxy.fault = lambda request: fault if request.range in ("", "bytes=2000-2999") else None
    assert re.search(expected, refusal(store.objects))
    proxy.log.clear()
    assert re.search(expected, refusal(lambda: store.fetch(small, tmp_path / "small.mp4")))
    assert len(proxy.log) == 1
    assert re.search(expected, refusal(lambda: store.fetch(large, tmp_path / "large.mp4")))
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".mp4"]


def test_objects_changed_or_removed_during_a_download_are_reported(
    root: str, s3: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    client, bucket = boto3.client("s3", endpoint_url=s3), root.split("/")[2]
    store = Bucket(root, proxy.url, transfer=Transfer(workers=1, attempts=1, part_bytes=1000))
    large = store.objects()[0]

    def change(request: Request) -> None:
        if request.range == "bytes=2000-2999":
            client.put_object(Bucket=bucket, Key="sets/large.mp4", Body=b"x" * 5000)

    def remove(request: Request) -> None:
        if request.range == "bytes=2000-2999":
            client.delete_object(Bucket=bucket, Key="sets/large.mp4")

    proxy.fault = change
    assert "the object changed while it was read" in refusal(lambda: store.fetch(large, tmp_path / "large.mp4"))
    large = store.objects()[0]
    proxy.fault = remove
    assert "the object was removed while it was read" in refusal(lambda: store.fetch(large, tmp_path / "large.mp4"))
    assert not (tmp_path / "large.mp4").exists()


def test_missing_credentials_are_reported(s3: str, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    assert "absent" in refusal(Bucket(root, s3).objects)
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(Bucket(root, s3).objects)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(Bucket(root, s3).objects)


def test_a_full_disk_is_reported(root: str, s3: str, tmp_path: Path) -> None:
    """/dev/full behaves like a full disk."""
    store = Bucket(root, s3, transfer=ONCE)
    large = store.objects()[0]
    partial_paths(tmp_path / "large.mp4", large)[0].symlink_to("/dev/full")
    expected = refusal(lambda: store.fetch(large, tmp_path / "large.mp4"))
    assert "no space left on the disk" in expected
    assert "a rerun keeps the finished files" in expected
    assert not (tmp_path / "large.mp4").exists()


def test_a_file_size_limit_is_reported(root: str, s3: str, tmp_path: Path) -> None:
    store = Bucket(root, s3, transfer=Transfer(attempts=1, part_bytes=8 << 20))
    large = store.objects()[0]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        expected = refusal(lambda: store.fetch(large, tmp_path / "large.mp4"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no space left on the disk" in expected
    assert not list(tmp_path.iterdir())


def test_objects_larger_than_the_free_space_are_refused_before_the_download(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    immense = StoredObject("immense.mp4", 1 << 60, "identity")
    expected = refusal(lambda: collect(Folder("/nowhere"), [immense], tmp_path / "partial", tmp_path / "previous"))
    assert "no space left on the disk for 1152921504.6 GB" in expected


def test_a_missing_target_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.mp4").write_bytes(b"a")
    store = Folder(str(tmp_path / "source"))
    assert "cannot read or write" in refusal(lambda: store.fetch(store.objects()[0], tmp_path / "none" / "a.mp4"))


def test_the_command_exits_with_2(root: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.fault = lambda request: "AccessDenied"
    recipe = {"name": "mine", "data": {"name": "mine", "source": root, "endpoint_url": proxy.url}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    slowfast = Path(sys.executable).with_name("slowfast")
    command = [slowfast, "ingest", "mine.yaml", "--workspace", "workspace"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"access denied ({root})" in done.stderr
    assert not (tmp_path / "workspace" / "data" / "mine" / "ingest").exists()
