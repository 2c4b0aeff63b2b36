"""Transfers between a bucket and the disk with faults, injected by a proxy in front of a real endpoint."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from faulty_proxy import BODY_FAULTS, REQUEST_FAULTS, FaultyProxy, SeededFaults
from object_trees import fetch_tree, put_tree
from s3_fixtures import ENDPOINT

from slowfast_core.data.objects.bucket import Bucket
from slowfast_core.data.objects.object import StoredObject, Transfer
from slowfast_core.data.objects.partial_file import partial_paths
from slowfast_core.data.objects.store import fetch_all
from slowfast_core.errors import InputError

QUICK = Transfer(workers=4, attempts=4, backoff_seconds=0.01, timeout_seconds=20, part_bytes=100_000)
SMALL, LARGE = random.Random(1).randbytes(50_000), random.Random(2).randbytes(950_000)
PART = 5 << 20  # the smallest part that S3 accepts, except for the last one


@pytest.fixture
def root(s3: str, new_bucket: Callable[[], str]) -> str:
    bucket = new_bucket()
    for key, body in (("sets/small.mp4", SMALL), ("sets/large.mp4", LARGE)):
        boto3.client("s3", endpoint_url=s3).put_object(Bucket=bucket, Key=key, Body=body)
    return f"s3://{bucket}/sets"


def opened(root: str, proxy: FaultyProxy, **transfer: float) -> tuple[Bucket, dict[str, StoredObject]]:
    store = Bucket(root, proxy.url, transfer=Transfer(**{**QUICK.__dict__, **transfer}))
    return store, {item.key: item for item in store.objects()}


def is_md5_of_the_whole(item: StoredObject, content: bytes) -> bool:
    """Some stores use it as the ETag of multipart uploads; AWS and the server on loopback do not."""
    return ENDPOINT in os.environ and item.identity == hashlib.md5(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["whole", "in ranges"])
def test_a_temporary_fault_is_retried(
    content: bytes, s3: str, new_bucket: Callable[[], str], proxy: FaultyProxy, tmp_path: Path
) -> None:
    """One object for each kind of fault, which occurs once."""
    bucket, faults = new_bucket(), (*REQUEST_FAULTS, *BODY_FAULTS)
    for fault in faults:
        boto3.client("s3", endpoint_url=s3).put_object(Bucket=bucket, Key=fault, Body=content)
    store, _ = opened(f"s3://{bucket}", proxy, timeout_seconds=2)
    faulty_range = "" if content == SMALL else "bytes=300000-399999"
    proxy.fault = lambda request: request.key if request.nth == 0 and request.range == faulty_range else None
    digests = {item.key: digest for item, digest in fetch_tree(store, tmp_path)}
    assert digests == dict.fromkeys(faults, sha256(content))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(faults, content)
    assert proxy.faults == dict.fromkeys(faults, 1)


def test_a_permanent_fault_leaves_no_file(
    root: str, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slowfast_core.data.objects.bucket.REQUEST_ATTEMPTS", 2)  # botocore's pauses grow to seconds
    store, items = opened(root, proxy, attempts=2)
    proxy.stall_seconds = 0.3
    in_botocore_too = {"InternalError": 4, "reset": 4}
    for fault, requests in {**in_botocore_too, "reset body": 2, "cut": 2, "corrupt": 2, "stall": 2}.items():
        proxy.log.clear()
        proxy.fault = lambda request, fault=fault: fault
        with pytest.raises(InputError, match="resumes from the finished files") as error:
            store.fetch(items["small.mp4"], tmp_path / "target")
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())
        assert len(proxy.names_read) == requests


def test_a_large_object_is_fetched_in_ranges(root: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    store, items = opened(root, proxy)
    arrived: list[int] = []
    assert store.fetch(items["large.mp4"], tmp_path / "target", arrived.append) == sha256(LARGE)
    asked = sorted(request.range for request, _ in proxy.log if request.key)
    assert asked == sorted(f"bytes={start}-{min(start + 100_000, 950_000) - 1}" for start in range(0, 950_000, 100_000))
    assert sum(arrived) == len(LARGE)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_failed_download_resumes_from_its_finished_ranges(root: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    store, items = opened(root, proxy, attempts=1, workers=1)
    proxy.fault = lambda request: "cut" if request.range.startswith("bytes=400000-") else None
    with pytest.raises(InputError, match=r"\b50000\b.*\b100000\b"):
        store.fetch(items["large.mp4"], tmp_path / "target")
    assert not (tmp_path / "target").exists()
    part, journal = partial_paths(tmp_path / "target", items["large.mp4"])
    assert {part, journal} == set(tmp_path.iterdir())
    finished = len(journal.read_text().splitlines())
    assert finished >= 4
    with journal.open("a") as file:
        file.write("400000 500000 abc")  # an incomplete line, as after a kill

    proxy.fault = lambda request: None
    proxy.log.clear()
    arrived: list[int] = []
    assert store.fetch(items["large.mp4"], tmp_path / "target", arrived.append) == sha256(LARGE)
    assert len(proxy.names_read) == 10 - finished
    assert sum(arrived) == len(LARGE)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_finished_ranges_of_changed_content_are_not_used(
    root: str, s3: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    store, items = opened(root, proxy, attempts=1, workers=1)
    proxy.fault = lambda request: "cut" if request.range.startswith("bytes=400000-") else None
    with pytest.raises(InputError):
        store.fetch(items["large.mp4"], tmp_path / "target")
    other = LARGE[::-1]
    boto3.client("s3", endpoint_url=s3).put_object(Bucket=root.split("/")[2], Key="sets/large.mp4", Body=other)
    proxy.fault = lambda request: None
    with pytest.raises(InputError, match="changed while it was read"):
        store.fetch(items["large.mp4"], tmp_path / "target")
    store, items = opened(root, proxy)
    assert store.fetch(items["large.mp4"], tmp_path / "target") == sha256(other)


def test_finished_ranges_lost_by_the_disk_are_fetched_again(root: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    """After a power cut, the journal may list ranges that never reached the disk."""
    store, items = opened(root, proxy, attempts=1, workers=1)
    proxy.fault = lambda request: "cut" if request.range.startswith("bytes=400000-") else None
    with pytest.raises(InputError):
        store.fetch(items["large.mp4"], tmp_path / "target")
    with partial_paths(tmp_path / "target", items["large.mp4"])[0].open("r+b") as file:
        file.write(bytes(1000))
    proxy.fault = lambda request: None
    store, items = opened(root, proxy, attempts=2)
    arrived: list[int] = []
    assert store.fetch(items["large.mp4"], tmp_path / "target", arrived.append) == sha256(LARGE)
    assert sum(arrived) == len(LARGE)


def test_a_killed_download_resumes_from_its_finished_ranges(root: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    """SIGKILL in the middle of a large object; the next process requests only the other ranges."""
    proxy.fault = lambda request: "stall" if request.range and len(proxy.names_read) >= 6 else None
    script = (
        "import sys; from pathlib import Path; from slowfast_core.data.objects.bucket import Bucket;"
        "from slowfast_core.data.objects.object import Transfer; root, url, target = sys.argv[1:];"
        "store = Bucket(root, url, transfer=Transfer(workers=2, part_bytes=100_000));"
        "print(store.fetch(store.objects()[0], Path(target)))"
    )
    command = [sys.executable, "-c", script, root, proxy.url, str(tmp_path / "target")]
    process = subprocess.Popen(command)
    journal = partial_paths(tmp_path / "target", opened(root, proxy)[1]["large.mp4"])[1]
    try:
        assert proxy.stalled.wait(60)
        while not journal.is_file() or len(journal.read_text().splitlines()) < 6:
            assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "target").exists()
    before = {request.range for request, fault in proxy.log if request.key and not fault}
    proxy.fault = lambda request: None
    proxy.log.clear()
    assert subprocess.check_output(command, text=True).strip() == sha256(LARGE)
    after = [request.range for request, _ in proxy.log if request.key]
    assert (len(before), len(after), before & set(after)) == (6, 4, set())
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("sizes", [(PART, PART), (PART, PART + 1000, 5), (100,)])
def test_multipart_etags_are_checked(
    sizes: tuple[int, ...], s3: str, root: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """Uploads in equal parts, in unequal parts, and in a single part."""
    client, named = boto3.client("s3", endpoint_url=s3), {"Bucket": root.split("/")[2], "Key": "sets/parts.mp4"}
    bodies = [random.Random(size + number).randbytes(size) for number, size in enumerate(sizes)]
    named["UploadId"] = client.create_multipart_upload(**named)["UploadId"]
    tags = [client.upload_part(**named, PartNumber=n, Body=body)["ETag"] for n, body in enumerate(bodies, start=1)]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, start=1)]
    client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})

    store, items = opened(root, proxy, part_bytes=8 << 20)
    item = items["parts.mp4"]
    assert item.identity.endswith(f"-{len(sizes)}") or is_md5_of_the_whole(item, b"".join(bodies))
    proxy.fault = lambda request: "corrupt" if request.key and request.nth == 0 else None
    assert store.fetch(item, tmp_path / "target") == sha256(b"".join(bodies))
    assert proxy.faults["corrupt"] == 1


def test_the_crc_is_checked_where_the_etag_is_not_an_md5(
    s3: str, root: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """With SSE-KMS, the ETag does not depend on the content; the CRC stored by the upload does."""
    named = {"Bucket": root.split("/")[2], "Key": "sets/secret.mp4"}
    boto3.client("s3", endpoint_url=s3).put_object(Body=SMALL, ServerSideEncryption="aws:kms", **named)
    store, items = opened(root, proxy)
    proxy.fault = lambda request: "corrupt" if request.key and request.nth == 0 else None
    assert store.fetch(items["secret.mp4"], tmp_path / "target") == sha256(SMALL)
    assert proxy.faults["corrupt"] == 1


def test_a_large_file_is_uploaded_in_parts(root: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    content = random.Random(3).randbytes(2 * PART + 77)
    (tmp_path / "tree" / "model.safetensors").write_bytes(content)
    (tmp_path / "tree" / "report.html").write_text("<p>good</p>")
    store = Bucket(root + "/new", proxy.url, transfer=Transfer(workers=4, part_bytes=PART, timeout_seconds=5))
    proxy.fault = SeededFaults(5, 0.3)
    put = {item.key: item for item in put_tree(store, tmp_path / "tree")}
    proxy.fault = lambda request: None
    model = put["model.safetensors"]
    assert model.identity.endswith("-3") or is_md5_of_the_whole(model, content)
    sent = [request.query for request, _ in proxy.log if request.method == "PUT" and "partNumber" in request.query]
    assert len(set(sent)) == 3
    fetched = dict(fetch_tree(store, tmp_path / "back"))
    assert fetched[model] == sha256(content)
    proxy.log.clear()
    assert {item.key: item for item in put_tree(store, tmp_path / "tree")} == put
    assert {request.method for request, _ in proxy.log} == {"HEAD"}
    client = boto3.client("s3", endpoint_url=proxy.url)
    head = client.head_object(Bucket=root.split("/")[2], Key="sets/new/report.html")
    assert head["ContentType"] == "text/html"


def test_there_are_at_most_as_many_requests_at_a_time_as_workers(root: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    store, items = opened(root, proxy, workers=2)
    proxy.fault = lambda request: "slow" if request.key else None
    wanted = [(items["large.mp4"], tmp_path / str(number)) for number in range(3)]
    assert {digest for _, digest in fetch_all(store, wanted)} == {sha256(LARGE)}
    assert proxy.max_running == 2


def test_the_requester_pays_header_is_sent_if_requested(root: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    store = Bucket(root, proxy.url, requester_pays=True, transfer=QUICK)
    list(fetch_tree(store, tmp_path / "back"))
    store.put(tmp_path / "back" / "small.mp4", "copy.mp4")
    assert {request.payer for request, _ in proxy.log} == {"requester"}
    proxy.log.clear()
    Bucket(root, proxy.url, transfer=QUICK).objects()
    assert {request.payer for request, _ in proxy.log} == {""}
