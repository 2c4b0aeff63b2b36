from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.data.objects.store import open_store
from slowfast_core.errors import InputError
from slowfast_core.once import StageResult
from slowfast_core.progress import PROGRESS_FILE
from slowfast_core.recipe.load import Data
from slowfast_core.stages.ingest import ingest

HEADER = "label,youtube_id,time_start,time_end,split\n"
VIDEOS = 12
Upload = Callable[..., str]  # see conftest.py


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve Kinetics "videos", two classes, every fourth one val; ingestion does not decode."""
    root = tmp_path / "source"
    rows = []
    for number in range(VIDEOS):
        label = f"class {number % 2}"
        path = root / "videos" / label / f"v{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"video {number}".encode() * 100)
        rows.append(f"{label},v{number},0,2,{'val' if number % 4 == 0 else 'train'}\n")
    (root / "annotations.csv").write_text(HEADER + "".join(rows))
    (root / "videos" / "unnamed.mp4").write_bytes(b"no row names this")
    return root


def run(source: Path | str, output: Path, **fields: Any) -> StageResult:
    return ingest(Data(name="k", **{"source": str(source), **fields}), output.with_name("generated"), output)


def manifest(output: Path) -> Manifest:
    return read_manifest(output / "manifest.parquet")


def files(output: Path) -> dict[str, Path]:
    videos = output / "videos"
    return {path.relative_to(videos).as_posix(): path for path in sorted(videos.rglob("*")) if path.is_file()}


def test_a_folder_is_copied_with_a_manifest(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "ingest"
    result = run(source, output)
    assert (result.status, result.metrics) == ("done", {"videos": 12.0, "missing": 0.0})
    assert result.summary == "12 of 12 videos (0.0 MB), 0 missing; 12 copied, 0 kept"
    assert result.digest == hashlib.sha256((output / "manifest.parquet").read_bytes()).hexdigest()
    table = manifest(output)
    assert table.labels == ("class 0", "class 1")
    assert table.rows["split"].value_counts().to_dict() == {"train": 9, "val": 3}
    for row in table.rows.itertuples():
        content = (output / row.path).read_bytes()
        assert (row.bytes, row.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert table.rows["frames"].isna().all()
    assert set(files(output)) == {f"videos/class {number % 2}/v{number}.mp4" for number in range(VIDEOS)}


def test_a_bucket_gives_the_same_manifest(source: Path, upload: Upload, s3: str, tmp_path: Path) -> None:
    local = run(source, tmp_path / "local" / "ingest")
    remote = run(upload(source), tmp_path / "remote" / "ingest", endpoint_url=s3)
    assert remote.digest == local.digest
    assert remote.summary == local.summary
    assert run(upload(source), tmp_path / "remote" / "ingest", endpoint_url=s3).status == "unchanged"


def test_progress_is_shown_in_bytes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "events.jsonl"))
    run(source, tmp_path / "ingest")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").open()]
    size = sum(path.stat().st_size for path in files(tmp_path / "ingest").values())
    assert {(event["stage"], event["total"], event["unit"]) for event in events} == {("ingest", size, "bytes")}
    done = [event["done"] for event in events]
    assert (done, done[-1]) == (sorted(done), size)


def test_an_unchanged_source_is_not_read_again(source: Path, tmp_path: Path) -> None:
    first = run(source, tmp_path / "ingest")
    again = run(source, tmp_path / "ingest")
    assert (again.status, again.digest, again.summary) == ("unchanged", first.digest, first.summary)


def test_only_changed_videos_are_copied(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "ingest"
    run(source, output)
    before = {key: path.stat().st_ino for key, path in files(output).items()}
    changed = source / "videos" / "class 1" / "v3.mp4"
    changed.write_bytes(b"another take")
    result = run(source, output)
    assert result.status == "done"
    assert result.summary.endswith("1 copied, 11 kept")
    after = {key: path.stat().st_ino for key, path in files(output).items()}
    assert {key for key in before if before[key] != after[key]} == {"videos/class 1/v3.mp4"}
    row = manifest(output).rows.set_index("video").loc["v3"]
    assert row["sha256"] == hashlib.sha256(b"another take").hexdigest()


def test_only_the_changed_object_of_a_bucket_is_read(source: Path, upload: Upload, proxy, tmp_path: Path) -> None:
    root, output = upload(source), tmp_path / "ingest"
    run(root, output, endpoint_url=proxy.url)
    assert len(proxy.names_read) == 1 + VIDEOS
    (source / "videos" / "class 1" / "v3.mp4").write_bytes(b"another take")
    upload(source, root)
    proxy.log.clear()
    assert run(root, output, endpoint_url=proxy.url).summary.endswith("1 copied, 11 kept")
    assert proxy.names_read == ["annotations.csv", "v3.mp4"]


def test_changed_annotations_copy_no_videos(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "ingest"
    run(source, output)
    rows = (source / "annotations.csv").read_text().splitlines(keepends=True)
    (source / "annotations.csv").write_text("".join(rows[:-1]))
    assert run(source, output).summary == "11 of 11 videos (0.0 MB), 0 missing; 0 copied, 11 kept"
    assert len(files(output)) == 11


def test_a_killed_run_resumes(source: Path, upload: Upload, proxy, s3: str, tmp_path: Path) -> None:
    """SIGKILL after the endpoint has served seven videos (and the csv); the next run reads only the others."""
    root, output = upload(source), tmp_path / "ingest"
    proxy.fault = lambda request: "stall" if request.key and len(proxy.names_read) >= 8 else None
    script = (
        "import sys; from pathlib import Path; from slowfast_core.recipe.load import Data;"
        "from slowfast_core.stages.ingest import ingest; source, endpoint, output = sys.argv[1:];"
        "ingest(Data(name='k', source=source, endpoint_url=endpoint), Path(output), Path(output))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, root, proxy.url, str(output)])
    try:
        assert proxy.stalled.wait(60)
        journal = tmp_path / ".ingest.partial" / "objects.jsonl"
        while len(journal.read_text().splitlines()) < 7:
            assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with journal.open("a") as file:
        file.write('{"key": "videos/cl')  # an incomplete line, as after a kill
    (tmp_path / ".ingest.partial" / "videos" / ".v9.part.mp4").write_bytes(b"half")

    result = run(root, output, endpoint_url=s3)
    assert result.summary == "12 of 12 videos (0.0 MB), 0 missing; 5 copied, 7 kept"
    assert len(files(output)) == VIDEOS
    assert result.digest == run(source, tmp_path / "local" / "ingest").digest
    assert len((output / "objects.jsonl").read_text().splitlines()) == VIDEOS


def test_after_a_change_of_the_source_only_changed_videos_are_read(
    source: Path, upload: Upload, proxy, tmp_path: Path
) -> None:
    root, output = upload(source), tmp_path / "ingest"
    proxy.fault = lambda request: "AccessDenied" if request.name == "v9.mp4" else None
    with pytest.raises(InputError, match=r"access denied .*v9\.mp4"):
        run(root, output, endpoint_url=proxy.url, fetch_workers=1)
    whole = {json.loads(line)["key"] for line in (tmp_path / ".ingest.partial" / "objects.jsonl").open()}
    assert "videos/class 0/v0.mp4" in whole
    (source / "videos" / "class 0" / "v0.mp4").write_bytes(b"another take")
    upload(source, root)
    proxy.fault = lambda request: None
    proxy.log.clear()
    result = run(root, output, endpoint_url=proxy.url)
    assert result.summary.endswith(f"{VIDEOS - len(whole) + 1} copied, {len(whole) - 1} kept")
    assert {request.key.removeprefix("sets/one/") for request, _ in proxy.log if request.name.startswith("v")} == (
        set(files(output)) - whole | {"videos/class 0/v0.mp4"}
    )
    assert result.digest == run(source, tmp_path / "local" / "ingest").digest


def test_missing_videos_are_counted(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "ingest"
    (source / "videos" / "class 0" / "v4.mp4").unlink()
    (source / "videos" / "class 1" / "v5.mp4").unlink()
    result = run(source, output)
    assert result.metrics == {"videos": 10.0, "missing": 2.0}
    assert result.summary.startswith("10 of 12 videos")
    missing = manifest(output).rows.query("path == ''")
    assert set(missing["video"]) == {"v4", "v5"}
    assert missing["sha256"].isna().all()
    coverage = json.loads((output / "coverage.json").read_text())
    assert (coverage["expected"], coverage["present"], coverage["missing"]) == (12, 10, 2)
    assert coverage["by_split"]["val"] == {"expected": 3, "present": 2, "missing": 1}
    assert coverage["by_class"]["class 1"] == {"expected": 6, "present": 5, "missing": 1}
    assert coverage["missing_videos"] == ["v4", "v5"]


def test_ava_rows_have_their_boxes(source: Path, tmp_path: Path) -> None:
    (source / "ava.csv").write_text("v0,0001,0,0,1,0.5,2,0\nv0,0001,0,0,1,0.5,1,0\nv1,0002,0,0.5,1,1,,1\n")
    (source / "map.pbtxt").write_text('item { name: "run" id: 1 } item { name: "jump" id: 2 }')
    result = run(source, tmp_path / "ingest", format="ava", annotations="ava.csv", labels="map.pbtxt", holdout=0.5)
    table = manifest(tmp_path / "ingest")
    assert result.metrics == {"videos": 2.0, "missing": 0.0}
    assert table.labels == ("run", "jump")
    row = table.rows.set_index("id").loc["v0_0001"]
    assert [list(box) for box in row["boxes"]] == [[0, 0, 1, 0.5]]
    assert [list(labels) for labels in row["box_labels"]] == [[0, 1]]
    assert (row["second"], row["key"]) == (1, 1.0)
    assert set(table.rows["split"]) == {"train", "val"}


def test_annotations_may_be_outside_the_source(source: Path, tmp_path: Path) -> None:
    rows = (source / "annotations.csv").read_text().splitlines(keepends=True)[1:]
    for split in ("train", "val"):
        own = tmp_path / "own" / f"{split}.csv"
        own.parent.mkdir(exist_ok=True)
        own.write_text("\ufeff" + HEADER + "".join(row for row in rows if row.endswith(f"{split}\n")), encoding="utf-8")
    shutil.move(source / "annotations.csv", tmp_path / "elsewhere.csv")
    annotations = {split: str(tmp_path / "own" / f"{split}.csv") for split in ("train", "val")}
    run(source, tmp_path / "one" / "ingest", annotations=str(tmp_path / "elsewhere.csv"))
    run(source, tmp_path / "two" / "ingest", annotations=annotations)
    one, two = (manifest(tmp_path / name / "ingest").rows for name in ("one", "two"))
    assert set(one["id"]) == set(two["id"])


def test_invalid_input_is_reported_in_one_line(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "ingest"
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (source / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (source / "latin.csv").write_bytes(HEADER.encode() + b"caf\xe9,v0,0,1,train\n")
    (source / "none.csv").write_text(HEADER + "a,x,0,1,train\na,y,0,1,val\n")
    (source / "link.csv").write_text(HEADER + "a,link,0,1,train\na,v0,0,1,val\n")
    (source / "escape.csv").write_text(HEADER + "a,../../secret,0,1,train\na,v0,0,1,val\n")
    for fields, message in (
        ({"source": str(tmp_path / "none")}, "no such folder"),
        ({"annotations": "nothere.csv"}, "no annotation file 'nothere.csv'"),
        ({"labels": "nothere.txt"}, "no annotation file 'nothere.txt'"),
        ({"annotations": "latin.csv"}, "not a UTF-8 text file"),
        ({"annotations": "none.csv"}, "the videos of all 2 rows are missing"),
        ({"annotations": "link.csv"}, "'videos/link.mp4' leaves the data root"),
        ({"annotations": "escape.csv"}, r"'../../secret' leaves the data root .*escape\.csv:2"),
    ):
        with pytest.raises(InputError, match=message) as error:
            run(**{"source": source, "output": output, **fields})
        assert "\n" not in str(error.value)
        assert not output.exists()


def test_a_key_that_leaves_the_output_is_refused(source: Path, upload: Upload, s3: str, tmp_path: Path) -> None:
    root = upload(source)
    client = boto3.client("s3", endpoint_url=s3)
    client.put_object(Bucket=root.split("/")[2], Key="sets/one/../../../../evil.mp4", Body=b"evil")
    if not any("evil" in item.key for item in open_store(root, s3).objects()):
        pytest.skip("this endpoint does not store such keys")
    (tmp_path / "evil.csv").write_text(HEADER + "a,evil,0,1,train\na,v0,0,1,val\n")
    with pytest.raises(InputError, match="leaves the data root"):
        run(root, tmp_path / "ingest", endpoint_url=s3, annotations=str(tmp_path / "evil.csv"))
    assert not list(tmp_path.rglob("evil.mp4"))
