"""Checkpoints of a training in progress: written whole, checksummed, the last k kept, a torn one passed over."""

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
    """Sends saved checkpoints to where they outlive this machine (checkpoint_store.Uploader)."""

    def send(self, step: int, best: int | None) -> None: ...

    def needed(self) -> set[int]: ...

    def wait(self) -> None: ...


class Saver:
    """Saves in the background while training goes on, one checkpoint at a time, and has them sent where asked to."""

    def __init__(self, folder: Path, keep: int, uploader: Upload | None = None) -> None:
        self.folder, self.keep, self.uploader = folder, keep, uploader
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[Path] | None = None

    def save(self, state: Mapping[str, Any], best: int | None = None) -> None:
        """Copy the state, and write the copy. Nothing is saved after one that `failed`."""
        if self.pending is not None:
            wait([self.pending])
        if self.failed:
            return
        copy = _copied(state)
        self.pending = self.thread.submit(self._save, copy, best)

    @property
    def failed(self) -> bool:
        """Whether the one before could not be written; `wait` then says why."""
        return self.pending is not None and self.pending.done() and self.pending.exception() is not None

    def wait(self) -> None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            try:
                pending.result()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                what = f"cannot save a checkpoint: {error.strerror}"
                raise InputError(what, self.folder, "make room and run again; it goes on from the last one") from None

    def finish(self) -> None:
        """What was saved is whole, and in the store, or the store has failed."""
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
    """Write `folder/step-N` whole, N being `state["step"]`; the last `keep` stay, and those of the `needed` steps.

    Random states are functions of (seed, step, rank) and need no saving.
    """
    step = int(state["step"])
    final = checkpoint_of(folder, step)
    temporary = unfinished_of(folder, step)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write(state, temporary / STATE)
        write_whole(temporary / SUMS, json.dumps({STATE: sha256_of(temporary / STATE)}))
    except OSError:  # it leaves room on a full disk to say so
        shutil.rmtree(temporary)
        raise
    if final.exists():  # a torn one of the same step
        shutil.rmtree(final)
    temporary.rename(final)
    sync(folder)
    saved = sorted(folder.glob("step-*"))
    torn = [path for path in saved if step_of(path) > step]  # training went on from before them
    unfinished = folder.glob(".step-*")  # saved or fetched by a process that was killed
    old = [path for path in saved[: -keep - len(torn)] if step_of(path) not in needed]
    for path in [*torn, *unfinished, *old]:
        shutil.rmtree(path)
    return final


def _write(state: Mapping[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(dict(state), file)
    except RuntimeError as error:  # torch says so of whatever kept it from writing
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    sync(path)


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint, and the torn ones that were passed over."""
    torn: list[Path] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        if is_whole(path):
            return path, torn
        torn.append(path)
    return None, torn


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Raises OSError when the checkpoint is not the one that was saved."""
    if not is_whole(path):
        raise OSError(errno.EIO, "the checkpoint is damaged", str(path))
    state: dict[str, Any] = torch.load(path / STATE, weights_only=True, map_location="cpu")
    return state


def checkpoint_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def unfinished_of(folder: Path, step: int) -> Path:
    """Where it is until it is whole; the next save clears what a killed process left."""
    return folder / f".{checkpoint_of(folder, step).name}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def is_whole(path: Path) -> bool:
    try:
        sums = json.loads((path / SUMS).read_text())
        return bool(sums[STATE] == sha256_of(path / STATE))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _copied(value: Any) -> Any:
    """Tensors on CPU, which later steps do not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
