"""Copies checkpoints to an object store, so that a training can resume on another machine."""

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

Log = Callable[[str], None]

ATTEMPTS = 2  # per object; a failed upload is repeated with the next checkpoint
WORKERS = 4
KEY_LETTERS = 16


class CheckpointStore:
    """The checkpoints of one training in an object store: `step-N/state.pt`, followed by its checksum."""

    def __init__(self, root: str, endpoint_url: str | None = None) -> None:
        self.objects = open_store(root, endpoint_url, workers=WORKERS, attempts=ATTEMPTS)

    @classmethod
    def of(cls, job: Job) -> CheckpointStore | None:
        """The store of the recipe, if any, below a key derived from everything that the trained weights depend on."""
        train = job.recipe.train
        if train.checkpoint_store is None:
            return None
        key = key_of_partial(job.folder)[:KEY_LETTERS]
        return cls(f"{train.checkpoint_store.rstrip('/')}/{key}", train.checkpoint_endpoint_url)

    def put(self, folder: Path, step: int, best: int | None, keep: int) -> None:
        """Upload the checkpoints of `step` and of the `best` step; delete older ones but the last `keep`.

        Raises InputError when the store cannot be used.
        """
        stored = self._list()
        complete = {number for number, items in stored.items() if _is_complete(items)}
        # The best may be lost on this machine, when the final weights do not need it; then there is nothing to upload.
        lost = best is not None and not checkpoint_of(folder, best).exists()
        uploads = [step] if best is None or lost or best in (step, *complete) else [step, best]
        for number in uploads:
            path = checkpoint_of(folder, number)
            for name in (STATE, SUMS):
                self.objects.put(path / name, f"{path.name}/{name}")
        kept = sorted((number for number in complete if number < step and number != best), reverse=True)[: keep - 1]
        for number, items in stored.items():
            if number < step and number not in (best, *kept):
                for item in items:
                    self.objects.remove(item.key)

    def fetch_newest(self, folder: Path, with_best: bool) -> list[str]:
        """Download the newest complete checkpoint if it is newer than those in `folder`; return notes for the log.

        `with_best` also downloads the best checkpoint so far, and skips checkpoints without it. Raises InputError when
        the store cannot be used.
        """
        own, _ = newest_checkpoint(folder)
        root = without_credentials(self.objects.root)
        stored = self._list()
        notes = []
        for step in sorted(stored, reverse=True):
            if own is not None and step <= step_of(own):
                break
            name = checkpoint_of(folder, step).name
            if self._fetch(stored, step, folder, with_best):
                notes.append(f"checkpoint {name} was downloaded from {root}")
                break
            notes.append(f"checkpoint {name} in {root} is incomplete and was skipped")
        return notes

    def _list(self) -> dict[int, list[StoredObject]]:
        """Objects of each step, complete or not."""
        found: dict[int, list[StoredObject]] = defaultdict(list)
        for item in self.objects.objects(missing_ok=True):
            name, _, file = item.key.partition("/")
            if name.startswith("step-") and name[5:].isdigit() and file in (STATE, SUMS):
                found[int(name[5:])].append(item)
        return dict(found)

    def _fetch(self, stored: dict[int, list[StoredObject]], step: int, folder: Path, with_best: bool) -> bool:
        """Download a checkpoint unless `folder` has it; the best one that it refers to comes first.

        Returns whether `folder` then has both.
        """
        if is_whole(checkpoint_of(folder, step)):
            return True
        if not _is_complete(stored.get(step, [])):
            return False
        temporary = self._download(stored[step], unfinished_of(folder, step))
        whole = is_whole(temporary)
        best = load_checkpoint(temporary)["best"] if whole and with_best else None
        if not whole or (best and best[0] != step and not self._fetch(stored, best[0], folder, with_best=False)):
            shutil.rmtree(temporary)
            return False
        final = checkpoint_of(folder, step)
        shutil.rmtree(final, ignore_errors=True)  # an incomplete checkpoint
        temporary.rename(final)
        return True

    def _download(self, items: list[StoredObject], target: Path) -> Path:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for item in items:
            self.objects.fetch(item, target / item.key.partition("/")[2])
        return target


class Uploader:
    """Uploads checkpoints in a background thread.

    If uploads are slow, the newest checkpoint is uploaded next and those in between are skipped. The first of several
    failures is logged, and the upload is repeated with the next checkpoint.
    """

    def __init__(self, store: CheckpointStore, folder: Path, keep: int, log: Log) -> None:
        self.store = store
        self.folder = folder
        self.keep = keep
        self.log = log
        self.thread = ThreadPoolExecutor(1, "upload")
        self.lock = threading.Lock()
        self.sending: tuple[int, int | None] | None = None  # step, and step of the best checkpoint
        self.next: tuple[int, int | None] | None = None
        self.running: Future[None] | None = None
        self.failing = False

    @classmethod
    def of(cls, job: Job, log: Log) -> Uploader | None:
        """The uploader of a training, or None if its recipe has no checkpoint store."""
        store = CheckpointStore.of(job)
        return cls(store, job.checkpoints, job.recipe.train.keep_checkpoints, log) if store else None

    def send(self, step: int, best: int | None) -> None:
        """Start the upload of a checkpoint, or queue it in place of the one that is queued."""
        with self.lock:
            self.next = step, best
            if self.sending is None:
                self.sending, self.next = self.next, None
                self.running = self.thread.submit(self._send_all)

    def needed(self) -> set[int]:
        """Steps of the checkpoints that must stay in the folder until they are uploaded."""
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
        except Exception as error:  # noqa: BLE001  training must go on whatever the store answers
            if not self.failing:
                self.log(f"checkpoint {checkpoint_of(self.folder, step).name} was not uploaded: {_reason(error)}")
            self.failing = True
        else:
            if self.failing:
                self.log(f"checkpoint {checkpoint_of(self.folder, step).name} was uploaded; the store works again")
            self.failing = False


def fetch_newest(job: Job) -> list[str]:
    """Download the newest checkpoint of this training if the recipe has a checkpoint store; return notes for the log.

    Raises InputError when the store cannot be used.
    """
    store = CheckpointStore.of(job)
    if store is None:
        return []
    try:
        return store.fetch_newest(job.checkpoints, with_best=job.recipe.train.final == "best")
    except InputError as error:
        what = f"cannot look for checkpoints: {_reason(error)}"
        raise InputError(what, "train.checkpoint_store", "correct it, or set it to null to train without") from None


def _is_complete(items: list[StoredObject]) -> bool:
    """Whether both files of a checkpoint are stored."""
    return len(items) == 2


def _reason(error: Exception) -> str:
    """The message without its last part, the fix: stores word it for the data, not for checkpoints."""
    line = without_credentials(" ".join(str(error).split()) or type(error).__name__)
    return line.rpartition("; ")[0] or line
