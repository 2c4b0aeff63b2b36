"""Checkpoints in an object store: the last k and the best; a training on another machine resumes from them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slowfast_core.data.objects.folder import Folder
from slowfast_core.data.objects.object import OnBytes, StoredObject, ignore_bytes
from slowfast_core.errors import InputError
from slowfast_core.model.weights import load_weights, weights_digest
from slowfast_core.once import BEGUN
from slowfast_core.recipe.load import load_recipe
from slowfast_core.training.checkpoint import Saver, is_whole, load_checkpoint, newest_checkpoint, save_checkpoint
from slowfast_core.training.checkpoint_store import CheckpointStore, Uploader, fetch_newest
from slowfast_core.training.job import Job
from slowfast_core.training.loop import train_worker
from slowfast_core.workspace import Workspace

Best = tuple[int, float] | None


def state_of(step: int, best: Best = None) -> dict[str, object]:
    return {"step": step, "best": best, "model": {"w": torch.full((100,), float(step))}}


def save(folder: Path, step: int, best: Best = None) -> Path:
    return save_checkpoint(folder, state_of(step, best), 100)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    if request.param == "folder":
        return CheckpointStore(str(tmp_path / "store"))
    return CheckpointStore(f"s3://{request.getfixturevalue('new_bucket')()}/runs", request.getfixturevalue("s3"))


def steps_in(store: CheckpointStore) -> list[int]:
    names = [item.key.split("/") for item in store.objects.objects(missing_ok=True)]
    assert all(sorted(file for name, file in names if name == one) == ["sha256.json", "state.pt"] for one, _ in names)
    return sorted({int(name.removeprefix("step-")) for name, _ in names})


def test_the_last_k_and_the_best_are_kept(store: CheckpointStore, tmp_path: Path) -> None:
    for step in (3, 9, 10, 100, 1000):
        save(tmp_path, step)
        store.put(tmp_path, step, 9 if step >= 9 else None, keep=2)
    assert steps_in(store) == [9, 100, 1000]
    store.put(tmp_path, 1000, 1000, keep=1)
    assert steps_in(store) == [1000]
    store.put(tmp_path, 1000, 10, keep=1)  # the best was not uploaded when it was the newest
    assert steps_in(store) == [10, 1000]


def remove_checksum(store: CheckpointStore, step: int) -> None:
    store.objects.remove(f"step-{step:09d}/sha256.json")


def test_an_incomplete_upload_of_the_best_is_repeated(store: CheckpointStore, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    save(there, 10, (10, 0.5))
    store.put(there, 10, 10, keep=2)
    remove_checksum(store, 10)
    for step in (20, 30, 40):
        save(there, step, (10, 0.5))
        store.put(there, step, 10, keep=2)
    assert steps_in(store) == [10, 30, 40]
    (note,) = store.fetch_newest(here, with_best=True)
    assert "step-000000040 was downloaded from" in note
    assert sorted(path.name for path in here.iterdir()) == ["step-000000010", "step-000000040"]
    shutil.rmtree(there / "step-000000010")
    remove_checksum(store, 10)
    save(there, 50)
    store.put(there, 50, 10, keep=2)  # a best checkpoint that no longer exists does not prevent uploads


def test_incomplete_uploads_are_deleted_and_do_not_count(store: CheckpointStore, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
        store.put(tmp_path, step, None, keep=3)
    remove_checksum(store, 3)
    save(tmp_path, 4)
    store.put(tmp_path, 4, None, keep=3)
    assert steps_in(store) == [1, 2, 4]


def test_the_newest_checkpoint_is_downloaded(store: CheckpointStore, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    assert store.fetch_newest(here, with_best=False) == []
    for step in (4, 8):
        save(there, step)
        store.put(there, step, None, keep=3)
    (note,) = store.fetch_newest(here, with_best=False)
    assert "step-000000008 was downloaded from" in note
    path, skipped = newest_checkpoint(here)
    assert path is not None
    assert ([path.name], skipped) == ([one.name for one in here.iterdir()], [])
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.full((100,), 8.0))
    assert store.fetch_newest(here, with_best=False) == []
    save(here, 9)
    (path / "state.pt").write_bytes(b"damaged")
    assert store.fetch_newest(here, with_best=False) == []  # the local checkpoint is newer
    assert not is_whole(path)


def remove_the_checksum(folder: Path) -> None:
    (folder / "sha256.json").unlink()


def change_the_state(folder: Path) -> None:
    (folder / "state.pt").write_bytes(b"something else")


@pytest.mark.parametrize("damage", [remove_the_checksum, change_the_state])
def test_an_incomplete_checkpoint_is_skipped(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for step in (4, 8):
        save(there, step)
    damage(there / "step-000000008")
    notes = CheckpointStore(str(there)).fetch_newest(here, with_best=False)
    assert "step-000000008" in notes[0]
    assert "is incomplete and was skipped" in notes[0]
    assert [path.name for path in here.iterdir()] == ["step-000000004"]
    damage(there / "step-000000004")
    assert len(CheckpointStore(str(there)).fetch_newest(tmp_path / "empty", with_best=False)) == 2
    assert list((tmp_path / "empty").glob("*")) == []


def test_checkpoints_are_downloaded_only_with_their_best(tmp_path: Path) -> None:
    there = tmp_path / "there"
    for step, best in ((2, None), (4, (4, 0.5)), (6, (4, 0.5)), (8, (7, 0.6))):
        save(there, step, best)
    notes = CheckpointStore(str(there)).fetch_newest(tmp_path / "here", with_best=True)
    assert ["step-000000008" in notes[0], "step-000000006 was downloaded" in notes[1]] == [True, True]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["step-000000004", "step-000000006"]


class Cut(Folder):
    """A store whose connection breaks in the middle of a checkpoint."""

    def fetch(self, item: StoredObject, target: Path, on_bytes: OnBytes = ignore_bytes) -> str:
        if item.key.endswith("state.pt"):
            raise InputError("the connection was cut", self.root, "try again")
        return super().fetch(item, target, on_bytes)


def test_leftovers_of_an_interrupted_download_are_deleted(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    save(there, 4)
    cut = CheckpointStore(str(there))
    cut.objects = Cut(str(there))
    with pytest.raises(InputError, match="the connection was cut"):
        cut.fetch_newest(here, with_best=False)
    assert newest_checkpoint(here) == (None, [])
    save(here, 2)
    assert [path.name for path in here.iterdir()] == ["step-000000002"]


class Slow(Folder):
    """A store whose uploads wait for the event LET."""

    def put(self, source: Path, key: str) -> StoredObject:
        PUTTING.set()
        assert LET.wait(30)
        return super().put(source, key)


PUTTING, LET = threading.Event(), threading.Event()


def test_a_slow_store_delays_nothing_and_gets_the_newest_checkpoint(tmp_path: Path) -> None:
    there = CheckpointStore(str(tmp_path / "there"))
    here = tmp_path / "here"
    messages: list[str] = []
    there.objects = Slow(str(tmp_path / "there"))
    saver = Saver(here, 1, Uploader(there, here, 1, messages.append))
    saver.save(state_of(1))
    assert PUTTING.wait(30)
    for step in range(2, 6):
        saver.save(state_of(step))
        saver.wait()
    # The checkpoint in upload stays, and so does the one that was queued when the last one was saved.
    assert [int(path.name[-9:]) for path in sorted(here.iterdir())] == [1, 4, 5]
    LET.set()
    saver.finish()
    assert (steps_in(there), messages) == ([5], [])


def test_a_failing_store_is_logged_once_and_tried_again(tmp_path: Path) -> None:
    here = tmp_path / "here"
    messages: list[str] = []
    (tmp_path / "there").write_text("a file in place of the folder")
    saver = Saver(here, 3, Uploader(CheckpointStore(str(tmp_path / "there")), here, 3, messages.append))
    for step in (1, 2, 3):
        saver.save(state_of(step))
        saver.finish()
    assert len(messages) == 1
    assert messages[0].startswith("checkpoint step-000000001 was not uploaded: ")
    (tmp_path / "there").unlink()
    saver.save(state_of(4))
    saver.finish()
    assert messages[1:] == ["checkpoint step-000000004 was uploaded; the store works again"]
    assert steps_in(CheckpointStore(str(tmp_path / "there"))) == [4]


@pytest.fixture
def job_in(tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path) -> Callable[..., Job]:
    """Make trainings of one worker, without Ray, each in its own folder and all with the same inputs."""
    store = tiny_workspace(tmp_path / "data").data("motion", "extract") / "store"

    def make(name: str, *overrides: str) -> Job:
        recipe = load_recipe(str(tiny_recipe), ["train.epochs=4", "compute.workers=1", *overrides])
        (tmp_path / name).mkdir()
        (tmp_path / name / BEGUN).write_text("0123456789abcdef" * 4)
        return Job(recipe, "", store, tmp_path / name, None)

    return make


class LostError(Exception):
    """Stands for the loss of the machine."""


def trained(job: Job, until: int = 100) -> str | None:
    """Train and return the digest of the weights, or None if the machine is lost at the end of epoch `until`."""

    def epoch_done(epoch: int) -> None:
        if epoch == until:
            raise LostError

    job.prepare()
    threads = torch.get_num_threads()
    try:
        train_worker(job, 0, 1, torch.device("cpu"), epoch_done, lambda measured: None)
    except LostError:
        return None
    finally:
        torch.set_num_threads(threads)
    return weights_digest(load_weights(job.folder / "model.safetensors"))


def test_another_machine_reaches_the_same_weights(
    job_in: Callable[..., Job], new_bucket: Callable[[], str], s3: str
) -> None:
    settings = (f"train.checkpoint_store=s3://{new_bucket()}/runs", f"train.checkpoint_endpoint_url={s3}")
    lost, found = job_in("lost", *settings), job_in("found", *settings)
    assert fetch_newest(lost) == []
    assert trained(lost, until=2) is None
    notes = fetch_newest(found)  # the newest may still be in upload, and is then reported as incomplete
    assert any(note.endswith("/runs/0123456789abcdef") for note in notes)
    digest = trained(found)
    assert "resumed from checkpoint" in found.log.read_text()
    assert digest == trained(job_in("plain"))


def test_an_unreadable_store_is_refused(job_in: Callable[..., Job], s3: str) -> None:
    job = job_in("none", "train.checkpoint_store=s3://no-such-bucket/runs", f"train.checkpoint_endpoint_url={s3}")
    with pytest.raises(InputError, match=r"no such bucket.*train\.checkpoint_store") as caught:
        fetch_newest(job)
    assert "data.source" not in str(caught.value)
