"""Checkpoints of a training in progress: written atomically with a checksum; incomplete ones are skipped on resume.

A checkpoint is a folder `step-N` with `state.pt` and its SHA-256 in `sha256.json`. Only the last few are kept.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import torch

from slowfast_core.errors import FULL, InputError
from slowfast_core.files import sha256_of, sync, write_whole

STATE, SUMS = "state.pt", "sha256.json"


class Upload(Protocol):
    """Uploads saved checkpoints to storage that outlives this machine (see checkpoint_store.Uploader)."""

    def send(self, step: int, best: int | None) -> None: ...

    def needed(self) -> set[int]: ...

    def wait(self) -> None: ...


class Saver:
    """Saves checkpoints in a background thread, one at a time, and passes them to the uploader if there is one."""

    def __init__(self, folder: Path, keep: int, uploader: Upload | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.uploader = uploader
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[Path] | None = None

    def save(self, state: Mapping[str, Any], best: int | None = None) -> None:
        """Copy the state and start writing the copy; does nothing once a checkpoint has `failed`."""
        if self.pending is not None:
            wait([self.pending])
        if self.failed:
            return
        copy = _copied(state)
        self.pending = self.thread.submit(self._save, copy, best)

    @property
    def failed(self) -> bool:
        """Whether the previous checkpoint could not be written; `wait` then raises the reason."""
        return self.pending is not None and self.pending.done() and self.pending.exception() is not None

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. Raises InputError when the disk is full."""
        if self.pending is not None:
            pending = self.pending
            self.pending = None
            try:
                pending.result()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                what = f"cannot save a checkpoint: {error.strerror}"
                fix = "free disk space and run again; training resumes from the previous checkpoint"
                raise InputError(what, self.folder, fix) from None

    def finish(self) -> None:
        """Wait until everything is written and uploaded; a failed upload is not an error."""
        self.wait()
        if self.uploader:
            self.uploader.wait()

    def _save(self, state: Mapping[str, Any], best: int | None) -> Path:
        needed = self.uploader.needed() if self.uploader else set()
        path = save_checkpoint(self.folder, state, self.keep, needed if best is None else {*needed, best})
        if self.uploader:
            self.uploader.send(step_of(path), best)
        return path


def save_checkpoint(folder: Path, state: Mapping[str, Any], keep: int, needed: Collection[int] = ()) -> Path:
    """Write `folder/step-N` atomically, N being `state["step"]`; delete all but the last `keep` and the `needed` steps.

    Random states are not saved: they are functions of (seed, step, rank).
    """
    step = int(state["step"])
    final = checkpoint_of(folder, step)
    temporary = unfinished_of(folder, step)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write(state, temporary / STATE)
        write_whole(temporary / SUMS, json.dumps({STATE: sha256_of(temporary / STATE)}))
    except OSError:  # free the space again, so that the error can be logged on a full disk
        shutil.rmtree(temporary)
        raise
    if final.exists():  # an incomplete checkpoint of the same step
        shutil.rmtree(final)
    temporary.rename(final)
    sync(folder)
    saved = sorted(folder.glob("step-*"))
    skipped = [path for path in saved if step_of(path) > step]  # incomplete: training resumed from an earlier one
    unfinished = folder.glob(".step-*")  # left by a process that was killed while it wrote or downloaded
    old = [path for path in saved[: -keep - len(skipped)] if step_of(path) not in needed]
    for path in [*skipped, *unfinished, *old]:
        shutil.rmtree(path)
    return final


def _write(state: Mapping[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(dict(state), file)
    except RuntimeError as error:  # torch hides the reason, for example a full disk, behind a RuntimeError
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    sync(path)


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest complete checkpoint, and the newer, incomplete ones that were skipped."""
    skipped: list[Path] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        if is_whole(path):
            return path, skipped
        skipped.append(path)
    return None, skipped


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to CPU memory. Raises OSError when its checksum does not match."""
    if not is_whole(path):
        raise OSError(errno.EIO, "the checkpoint is damaged", str(path))
    state: dict[str, Any] = torch.load(path / STATE, weights_only=True, map_location="cpu")
    return state


def checkpoint_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def unfinished_of(folder: Path, step: int) -> Path:
    """Folder in which a checkpoint is written before it is renamed; the next save deletes leftovers."""
    return folder / f".{checkpoint_of(folder, step).name}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def is_whole(path: Path) -> bool:
    """Whether the checkpoint is complete and its checksum matches."""
    try:
        sums = json.loads((path / SUMS).read_text())
        return bool(sums[STATE] == sha256_of(path / STATE))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _copied(value: Any) -> Any:
    """Copy nested tensors to CPU, so that later training steps do not change them."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
