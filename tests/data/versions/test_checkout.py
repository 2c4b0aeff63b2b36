"""Data versions on S3 are pushed, listed and checked out by the command; the server can stall."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from stalling_s3 import StallingS3
from videos import moving_frames, write_video

from slowfast_core.data.manifest import read_manifest
from slowfast_core.data.versions.checkout import checkout
from slowfast_core.data.versions.remote import Address
from slowfast_core.data.versions.track import data_version, track
from slowfast_core.errors import InputError
from slowfast_core.files import md5_of, sha256_of
from slowfast_core.once import read_result
from slowfast_core.recipe.load import load_recipe
from slowfast_core.stages.flow import run_extract, run_ingest, run_validate
from slowfast_core.workspace import Workspace

PUSH = """
import sys
from pathlib import Path
from slowfast_core.data.versions import remote
from slowfast_core.data.versions import track as versions
store, root, url, endpoint = sys.argv[1:]
versions.track(Path(store), Path(root) / "data", Path(root) / "dvc-remote", remote.Address(url, endpoint))
"""


@pytest.fixture
def server(s3: str) -> Iterator[StallingS3]:
    server = StallingS3()
    yield server
    server.close()


@pytest.fixture
def remote(server: StallingS3) -> Address:
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket=bucket)
    return Address(f"s3://{bucket}/dvc", server.url)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "made" / "data" / "motion" / "extract" / "store"
    (folder / "clips").mkdir(parents=True)
    for number in range(12):
        (folder / "clips" / f"{number}.mp4").write_bytes(f"clip {number}".encode() * 100)
    return folder


def push(store: Path, remote: Address) -> str:
    root = store.parents[3]
    return track(store, root / "data", root / "dvc-remote", remote)


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("slowfast")), "data", *map(str, arguments)]


def data(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def at(remote: Address) -> tuple[str, ...]:
    return ("--remote", str(remote.url), "--endpoint-url", str(remote.endpoint_url))


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def objects(remote: Address) -> list[str]:
    _, _, bucket, _ = str(remote.url).split("/")
    listed = boto3.client("s3", endpoint_url=remote.endpoint_url).list_objects_v2(Bucket=bucket)
    return [entry["Key"] for entry in listed.get("Contents", ())]


def corrupt(path: Path) -> None:
    """Change the bytes, but not the size, time or permissions."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_older_version_is_checked_out_in_another_workspace(
    tmp_path: Path, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], server: StallingS3, remote: Address
) -> None:
    made = tiny_workspace(tmp_path / "made")
    source = shutil.copytree(made.source("motion"), tmp_path / "source")
    settings = {"source": source, "remote": remote.url, "remote_endpoint_url": remote.endpoint_url}
    recipe = load_recipe(str(tiny_recipe), [f"data.{key}={value}" for key, value in settings.items()])

    def extracted() -> tuple[str, dict[str, str]]:
        run_ingest(recipe, made), run_validate(recipe, made)
        version = run_extract(recipe, made).data_version
        return str(version), tree(made.data("motion", "extract") / "store")

    older, files = extracted()
    video = next(source.rglob("*.mp4"))
    write_video(video, moving_frames(16, 32, 32, seed=5), fps=8)
    already = len(server.put)
    newer, changed = extracted()
    assert len([name for name in files if files[name] != changed[name]]) == 2  # the clip and the manifest
    assert len(server.put) - already == 4  # these two, the list of files and the record of the version
    assert run_extract(recipe, made).status == "unchanged"
    assert len(server.put) - already == 4

    elsewhere = tmp_path / "elsewhere"
    listed = json.loads(data("versions", *at(remote), "--workspace", elsewhere, "--json"))
    assert [version["hash"] for version in listed] in ([newer, older], [older, newer])
    (described,) = (version for version in listed if version["hash"] == older)
    rows = read_manifest(made.data("motion", "extract") / "store" / "manifest.parquet").rows
    assert (described["clips"], described["videos"]) == (len(rows), rows["video"].nunique())
    assert (described["data"], described["where"]) == ("motion", [remote.url])
    assert described["files"] == len(files)

    done = json.loads(data("checkout", older[:10], *at(remote), "--workspace", elsewhere, "--json"))
    restored = Workspace(elsewhere).data("motion", "extract")
    assert done["outputs"] == {"data": str(restored / "store")}
    assert tree(restored / "store") == files
    assert read_result(restored).data_version == data_version(restored / "store") == older

    md5 = md5_of(restored / "store" / "manifest.parquet")
    corrupt(elsewhere / "data" / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:])
    server.got.clear()
    output = data("checkout", older, "--to", tmp_path / "again", *at(remote), "--workspace", elsewhere)
    assert "1 damaged in the cache and fetched again" in output
    assert tree(tmp_path / "again") == files
    assert [key for key in server.got if key.startswith("files/")] == [f"files/md5/{md5[:2]}/{md5[2:]}"]

    data("checkout", newer, *at(remote), "--workspace", elsewhere)
    assert tree(restored / "store") == changed


def test_a_damaged_object_of_the_remote_is_refused(tmp_path: Path, store: Path, remote: Address) -> None:
    version = push(store, remote)
    damaged = next(key for key in objects(remote) if key.startswith("dvc/files/") and not key.endswith(".dir"))
    client = boto3.client("s3", endpoint_url=remote.endpoint_url)
    client.put_object(Bucket=str(remote.url).split("/")[2], Key=damaged, Body=b"rot")
    output = data("checkout", version, "--to", tmp_path / "to", *at(remote), "--workspace", tmp_path / "new", code=2)
    assert len(output.splitlines()) == 1
    assert "".join(damaged.split("/")[-2:]) in output
    assert not (tmp_path / "to").exists()
    client.delete_object(Bucket=str(remote.url).split("/")[2], Key=damaged)
    with pytest.raises(InputError, match="1 objects of this version are not in the remote"):
        checkout(version, Workspace(tmp_path / "new"), remote, tmp_path / "to")
    assert push(store, remote) == version
    checkout(version, Workspace(tmp_path / "new"), remote, tmp_path / "to")
    assert data_version(tmp_path / "to") == version


def test_a_changed_store_file_is_detected_and_restored(
    tmp_path: Path, tiny_workspace: Callable[[Path], Workspace]
) -> None:
    """Detected by its md5, because size, time and permissions are unchanged."""
    here = tiny_workspace(tmp_path / "workspace")
    extracted = here.data("motion", "extract")
    version, files = str(read_result(extracted).data_version), tree(extracted / "store")
    assert checkout(version, here).status == "unchanged"
    clip = next((extracted / "store" / "clips").rglob("*.mp4"))
    corrupt(clip)
    assert tree(extracted / "store") != files
    assert checkout(version, here).status == "done"
    assert tree(extracted / "store") == files
    corrupt(clip)
    with pytest.raises(InputError, match="the folder is not empty"):
        checkout(version, here, to=extracted / "store")


def test_unknown_or_ambiguous_versions_are_refused(tmp_path: Path, store: Path, remote: Address) -> None:
    version = push(store, remote)
    _, _, bucket, _ = str(remote.url).split("/")
    client, key = boto3.client("s3", endpoint_url=remote.endpoint_url), f"dvc/versions/{version}.json"
    record = client.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    like = f"{version[:3]}{'0' * 29}.dir"
    client.put_object(Bucket=bucket, Key=key.replace(version, like), Body=record.replace(version, like).encode())
    twice = version[:3]
    new = Workspace(tmp_path / "new")
    with pytest.raises(InputError, match=f"'{twice}' matches 2 data versions"):
        checkout(twice, new, remote)
    with pytest.raises(InputError, match="no data version 'xyz'"):
        checkout("xyz", new, remote)
    with pytest.raises(InputError, match="are not in the remote"):
        checkout("0" * 32, new, remote, tmp_path / "to")
    with pytest.raises(InputError, match="no such remote"):
        checkout(twice, new, Address("s3://no-such-bucket/dvc", remote.endpoint_url))
    with pytest.raises(InputError, match="no such remote"):
        checkout(twice, new)
    with pytest.raises(InputError, match="foo"):
        checkout(twice, new, Address("foo://bucket/dvc"))
    (tmp_path / "mine").write_text("of the user")
    with pytest.raises(InputError, match="not empty"):
        checkout(version, new, remote, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "of the user"


def test_data_that_no_version_records_is_not_replaced(
    tmp_path: Path, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace]
) -> None:
    made = tiny_workspace(tmp_path / "made")
    output = made.data("motion", "extract")
    version = str(read_result(output).data_version)
    assert checkout(version[:8], made).status == "unchanged"
    clip = next((output / "store" / "clips").iterdir())
    clip.write_bytes(b"damaged by hand")
    away = made.dvc_remote.rename(tmp_path / "away")  # the cache has all files
    # The folder belongs to a recorded version, so its damaged files may be replaced.
    assert checkout(version[:8], made).status == "done"
    assert data_version(output / "store") == version
    assert run_extract(load_recipe(str(tiny_recipe)), made).status == "unchanged"
    for record in (made.root / "data" / ".versions").iterdir():
        record.unlink()
    clip.write_bytes(b"of the user")
    away.rename(made.dvc_remote)
    with pytest.raises(InputError, match="would be lost"):
        checkout(version, made)
    assert clip.read_bytes() == b"of the user"


def run_and_kill(arguments: list[str], server: StallingS3, **before_stall: int) -> None:
    """Run the command and kill it when a request stalls and all requests before are done."""
    server.got.clear()
    server.before_stall = dict(before_stall)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert server.stalled.wait(60)
    while len(server.put + server.got) < sum(before_stall.values()):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.before_stall.clear()


def test_a_killed_push_resumes(tmp_path: Path, store: Path, server: StallingS3, remote: Address) -> None:
    root, url, endpoint = store.parents[3], str(remote.url), str(remote.endpoint_url)
    run_and_kill([sys.executable, "-c", PUSH, str(store), str(root), url, endpoint], server, PUT=5)
    there = objects(remote)
    assert len(there) == 5
    assert not [key for key in there if key.endswith((".dir", ".json"))]  # an incomplete version is not listed
    server.put.clear()
    version = push(store, remote)
    assert len(server.put) == 12 - 5 + 2
    assert not {f"dvc/{key}" for key in server.put} & set(there)
    checkout(version, Workspace(tmp_path / "new"), remote, tmp_path / "to")
    assert tree(tmp_path / "to") == tree(store)


def test_a_killed_checkout_resumes(tmp_path: Path, store: Path, server: StallingS3, remote: Address) -> None:
    version = push(store, remote)
    where = ("--to", tmp_path / "to", *at(remote), "--workspace", tmp_path / "new")
    server.put.clear()
    run_and_kill(command("checkout", version, *where), server, GET=7)
    assert not (tmp_path / "to").exists()
    cache = tmp_path / "new" / "data" / ".dvc" / "cache" / "files" / "md5"
    before = {"".join(path.parts[-2:]) for path in cache.rglob("*") if len(path.name) in (30, 34)}
    assert before
    server.got.clear()
    data("checkout", version, *where)
    assert tree(tmp_path / "to") == tree(store)
    assert not {"".join(key.split("/")[-2:]) for key in server.got} & before
    assert not list(tmp_path.glob(".to*"))


def test_data_pushed_by_dvc_can_be_checked_out(tmp_path: Path, store: Path, remote: Address) -> None:
    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=store.parent, check=True, capture_output=True)

    dvc("init", "--no-scm", "--quiet")
    where = f"url = {remote.url}\nendpointurl = {remote.endpoint_url}\n"
    settings = f"[core]\nno_scm = True\nremote = s3\n['remote \"s3\"']\n{where}"
    (store.parent / ".dvc" / "config").write_text(settings)
    dvc("add", "store")
    dvc("push")
    version = data_version(store)
    with pytest.raises(InputError, match="--to"):
        checkout(version, Workspace(tmp_path / "new"), remote)
    checkout(version, Workspace(tmp_path / "new"), remote, tmp_path / "to")
    assert tree(tmp_path / "to") == tree(store)


def test_a_record_from_the_remote_cannot_lead_out_of_the_workspace(
    tmp_path: Path, store: Path, remote: Address
) -> None:
    version = push(store, remote)
    _, _, bucket, prefix = str(remote.url).split("/")
    key = f"{prefix}/versions/{version}.json"
    client = boto3.client("s3", endpoint_url=remote.endpoint_url)
    record = json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    for change in ({"data": "../../other"}, {"hash": "0" * 32 + ".dir"}):
        client.put_object(Bucket=bucket, Key=key, Body=json.dumps({**record, "stage": {}, **change}).encode())
        with pytest.raises(InputError, match="damaged record"):
            checkout(version, Workspace(tmp_path / "new"), remote)
