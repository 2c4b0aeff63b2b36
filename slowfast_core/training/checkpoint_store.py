"""Checkpoints kept in an object store as well, so that a training outlives the machine that it ran on."""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from slowfast_core.credentials import without_credentials
from slowfast_core.data.objects.object import StoredObject
from slowfast_core.data.objects.store import open_store
from slowfast_core.errors import InputError
from slowfast_core.once import key_of_partial
from slowfast_core.training.checkpoint import (
    STATE,
    SUMS,
    checkpoint_of,
    is_whole,
    load_checkpoint,
    newest_checkpoint,
    step_of,
    unfinished_of,
)
from slowfast_core.training.job import Job

Tell = Callable[[str], None]

ATTEMPTS = 2  # at an object: what fails is tried again with the next checkpoint
WORKERS = 4
KEY_LETTERS = 16


class CheckpointStore:
    """The checkpoints of one training, as its folder has them: `step-N/state.pt`, and then its checksum."""

    def __init__(self, root: str, endpoint_url: str | None = None) -> None:
        self.objects = open_store(root, endpoint_url, workers=WORKERS, attempts=ATTEMPTS)

    @classmethod
    def of(cls, job: Job) -> CheckpointStore | None:
        """That of the recipe; below it each training has its place, by all that its weights depend on."""
        train = job.recipe.train
        if train.checkpoint_store is None:
            return None
        key = key_of_partial(job.folder)[:KEY_LETTERS]
        return cls(f"{train.checkpoint_store.rstrip('/')}/{key}", train.checkpoint_endpoint_url)

    def put(self, folder: Path, step: int, best: int | None, keep: int) -> None:
        """Have the checkpoint of `step`, and the best, there; of the older ones the last stay. Raises InputError."""
        there = self._listed()
        whole = {number for number, items in there.items() if _both(items)}
        # A best that this machine lost, and that the weights do not need, is nowhere to be had.
        lost = best is not None and not checkpoint_of(folder, best).exists()
        wanted = [step] if best is None or lost or best in (step, *whole) else [step, best]
        for number in wanted:
            path = checkpoint_of(folder, number)
            for name in (STATE, SUMS):
                self.objects.put(path / name, f"{path.name}/{name}")
        kept = sorted((number for number in whole if number < step and number != best), reverse=True)[: keep - 1]
        for number, items in there.items():
            if number < step and number not in (best, *kept):
                for item in items:
                    self.objects.remove(item.key)

    def fetch_newest(self, folder: Path, with_best: bool) -> list[str]:
        """Bring the newest whole one where it is newer than the folder's own; return what is to be noted.

        `with_best`: with the one that is the best so far; one whose best is lost is passed over. Raises InputError.
        """
        own, _ = newest_checkpoint(folder)
        there, notes, root = self._listed(), [], without_credentials(self.objects.root)
        for step in sorted(there, reverse=True):
            if own is not None and step <= step_of(own):
                break
            name = checkpoint_of(folder, step).name
            if self._bring(there, step, folder, with_best):
                notes.append(f"checkpoint {name} came from {root}")
                break
            notes.append(f"checkpoint {name} of {root} is not whole and was passed over")
        return notes

    def _listed(self) -> dict[int, list[StoredObject]]:
        """By step, whole or not."""
        found: dict[int, list[StoredObject]] = defaultdict(list)
        for item in self.objects.objects(missing_ok=True):
            name, _, file = item.key.partition("/")
            if name.startswith("step-") and name[5:].isdigit() and file in (STATE, SUMS):
                found[int(name[5:])].append(item)
        return dict(found)

    def _bring(self, there: dict[int, list[StoredObject]], step: int, folder: Path, with_best: bool) -> bool:
        """Whether the folder has the checkpoint, now at least; and before it, the best that goes with it."""
        if is_whole(checkpoint_of(folder, step)):
            return True
        if not _both(there.get(step, [])):
            return False
        temporary = self._fetch(there[step], unfinished_of(folder, step))
        whole = is_whole(temporary)
        best = load_checkpoint(temporary)["best"] if whole and with_best else None
        if not whole or (best and best[0] != step and not self._bring(there, best[0], folder, with_best=False)):
            shutil.rmtree(temporary)
            return False
        final = checkpoint_of(folder, step)
        shutil.rmtree(final, ignore_errors=True)  # a torn one
        temporary.rename(final)
        return True

    def _fetch(self, items: list[StoredObject], target: Path) -> Path:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for item in items:
            self.objects.fetch(item, target / item.key.partition("/")[2])
        return target


class Uploader:
    """Sends checkpoints in the background. When it is slow the newest is the next, and those between are left out.

    What fails is told, once, and tried again with the next checkpoint.
    """

    def __init__(self, store: CheckpointStore, folder: Path, keep: int, tell: Tell) -> None:
        self.store, self.folder, self.keep, self.tell = store, folder, keep, tell
        self.thread, self.lock = ThreadPoolExecutor(1, "upload"), threading.Lock()
        self.sending: tuple[int, int | None] | None = None  # step, and that of the best
        self.next: tuple[int, int | None] | None = None
        self.running: Future[None] | None = None
        self.failing = False

    @classmethod
    def of(cls, job: Job, tell: Tell) -> Uploader | None:
        """Where the recipe has a store."""
        store = CheckpointStore.of(job)
        return cls(store, job.checkpoints, job.recipe.train.keep_checkpoints, tell) if store else None

    def send(self, step: int, best: int | None) -> None:
        with self.lock:
            self.next = step, best
            if self.sending is None:
                self.sending, self.next = self.next, None
                self.running = self.thread.submit(self._send_all)

    def needed(self) -> set[int]:
        """Steps whose checkpoints must stay in the folder."""
        with self.lock:
            return {step for pair in (self.sending, self.next) if pair for step in pair if step is not None}

    def wait(self) -> None:
        if self.running is not None:
            self.running.result()

    def _send_all(self) -> None:
        while self.sending is not None:
            self._try(*self.sending)
            with self.lock:
                self.sending, self.next = self.next, None

    def _try(self, step: int, best: int | None) -> None:
        try:
            self.store.put(self.folder, step, best, self.keep)
        except Exception as error:  # noqa: BLE001  whatever a store answers, the training goes on
            if not self.failing:
                self.tell(f"checkpoint {checkpoint_of(self.folder, step).name} is only here: {_said(error)}")
            self.failing = True
        else:
            if self.failing:
                self.tell(f"checkpoint {checkpoint_of(self.folder, step).name} is in the store again")
            self.failing = False


def fetch_newest(job: Job) -> list[str]:
    """What the recipe's store has of this training, where that is more than its folder has. Raises InputError."""
    store = CheckpointStore.of(job)
    if store is None:
        return []
    try:
        return store.fetch_newest(job.checkpoints, with_best=job.recipe.train.final == "best")
    except InputError as error:
        what = f"cannot look for checkpoints: {_said(error)}"
        raise InputError(what, "train.checkpoint_store", "correct it, or set it to null to train without") from None


def _both(items: list[StoredObject]) -> bool:
    """Whether they are both files of a checkpoint: it was sent to its end."""
    return len(items) == 2


def _said(error: Exception) -> str:
    """Without how to mend it, which of a store is said for that of the data."""
    line = without_credentials(" ".join(str(error).split()) or type(error).__name__)
    return line.rpartition("; ")[0] or line
