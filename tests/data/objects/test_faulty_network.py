"""`slowfast ingest` from a bucket over an unreliable network, killed half-way and run again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import yaml
from faulty_proxy import BODY_FAULTS, REQUEST_FAULTS, FaultyProxy, SeededFaults

from slowfast_core.data.manifest import read_manifest

LARGE = 17 << 20  # bytes, more than two parts


def upload_videos(bucket: str, endpoint: str, videos: int) -> dict[str, str]:
    """Upload videos of 1 to 40 kB, a large one and their csv; return the sha256 of each video's key."""
    client = boto3.client("s3", endpoint_url=endpoint)
    bodies, rows = {}, ["label,youtube_id,time_start,time_end,split"]
    for number in range(videos):
        chance = random.Random(number)
        body = chance.randbytes(LARGE if number == videos // 3 else chance.randrange(1_000, 40_000))
        bodies[f"clips/class {number % 5}/v{number}.mp4"] = body
        rows.append(f"class {number % 5},v{number},0,2,{'val' if number % 10 == 0 else 'train'}")
    texts = {"annotations.csv": "\n".join(rows).encode()}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: client.put_object(Bucket=bucket, Key=one[0], Body=one[1]), (bodies | texts).items()))
    return {key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}


def named_files(videos: Path) -> dict[str, str]:
    """The sha256 of each file with its final name."""
    paths = [path for path in videos.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(videos).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def kill_when(process: subprocess.Popen[bytes], journal: Path, lines: int) -> set[str]:
    """SIGKILL the process once the journal has that many lines; return the keys in it."""
    try:
        while not journal.is_file() or journal.read_bytes().count(b"\n") < lines:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return {json.loads(line)["key"] for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")}


@pytest.mark.parametrize("videos", [100, pytest.param(2000, marks=pytest.mark.exhaustive)])
def test_every_object_arrives_once_and_intact(
    videos: int, s3: str, new_bucket: Callable[[], str], proxy: FaultyProxy, tmp_path: Path
) -> None:
    bucket = new_bucket()
    truth = upload_videos(bucket, s3, videos)
    proxy.fault, proxy.stall_seconds = SeededFaults(seed=3, share=0.3), 0.5
    data = {"name": "many", "source": f"s3://{bucket}", "endpoint_url": proxy.url}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump({"name": "many", "data": data}))
    command = [Path(sys.executable).with_name("slowfast"), "ingest", "many.yaml", "--workspace", "workspace"]
    ingested = tmp_path / "workspace" / "data" / "many" / "ingest"
    partial = ingested.with_name(".ingest.partial")

    started = time.monotonic()
    finished = kill_when(subprocess.Popen(command, cwd=tmp_path), partial / "objects.jsonl", videos // 2)
    assert not ingested.exists()
    assert finished <= (arrived := named_files(partial / "videos")).keys() <= truth.keys()
    assert arrived == {key: truth[key] for key in arrived}
    first, first_faults = requests_for_objects(proxy), proxy.faults
    proxy.log.clear()

    subprocess.run(command, cwd=tmp_path, check=True)
    second, second_faults = requests_for_objects(proxy), proxy.faults
    assert {key for key, _ in second} == truth.keys() - finished
    rows = read_manifest(ingested / "manifest.parquet").rows
    assert dict(zip(rows["path"].str.removeprefix("videos/"), rows["sha256"], strict=True)) == truth
    assert named_files(ingested / "videos") == truth
    assert not list((ingested / "videos").rglob(".*"))
    assert {*first_faults, *second_faults} == {*REQUEST_FAULTS, *BODY_FAULTS}
    for run, requests, faults in (("killed", first, first_faults), ("again", second, second_faults)):
        retries = len(requests) - len(set(requests))
        print(f"{run}: {len(dict(requests))} objects, {len(requests)} requests, {retries} retries, {dict(faults)}")
    print(f"{videos} objects, {len(finished)} of them before the kill, {time.monotonic() - started:.1f} s")


def requests_for_objects(proxy: FaultyProxy) -> list[tuple[str, str]]:
    """Key and range of each request for a video."""
    return [(request.key, request.range) for request, _ in proxy.log if request.key.startswith("clips/")]
