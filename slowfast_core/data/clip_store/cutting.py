"""Writes all clips of one source video to the clip store, and decodes the video once. Runs in a worker process."""

from __future__ import annotations

import math
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.clip_store.encoding import ClipEncoder
from slowfast_core.data.clip_store.optical_flow import flow_file, write_flow
from slowfast_core.data.video.decoding import probe
from slowfast_core.data.video.info import DecodeError, VideoInfo
from slowfast_core.data.video.seeking import KeyFrames, decode_from, key_frames
from slowfast_core.errors import InputError
from slowfast_core.files import full_disk_in_one_line, sha256_of, sync
from slowfast_core.parallel.processes import restart_time_limit
from slowfast_core.recipe.load import Store

GAP = 250  # frames: shorter gaps between cuts are decoded, longer ones are skipped by seeking
AT_ONCE = 8  # files written at a time if segments overlap: each encoder takes tens of megabytes


@dataclass(frozen=True)
class Cut:
    """One file of the store: source frames `start` to `stop`; the frames before `needed` must decode.

    Later frames that are missing or do not decode are omitted.
    """

    source: Path
    target: Path
    scratch: Path  # a folder outside the store: files of killed workers must not be part of the data version
    store: Store
    fps: float  # of the source
    start: int
    stop: int
    needed: int
    sha256: str | None = None  # of the ingested source; None if unknown, or for a folder of frames


@dataclass(frozen=True)
class Written:
    """A file of the store."""

    info: VideoInfo
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LeftOut:
    """A file that cannot be written because of the content of the source, on any machine."""

    reason: str


class ClipError(Exception):
    """A file cannot be written; the message is the reason."""


def write_clips(cuts: Sequence[Cut]) -> list[Written | LeftOut] | InputError:
    """Write the missing files of `cuts`, all from one source, and their optical flow.

    Returns errors instead of raising them, so that they cross process borders unchanged.
    """
    try:
        with full_disk_in_one_line(cuts[0].target.parent):
            failed = _write_missing([cut for cut in cuts if not cut.target.exists()])
            for cut in cuts:
                if cut.store.flow and cut.target not in failed and not flow_file(cut.target).exists():
                    _write_flow(cut, failed)
            if failed:
                _require_unchanged(next(cut for cut in cuts if cut.target in failed), failed)
            return [LeftOut(failed[cut.target]) if cut.target in failed else _written(cut) for cut in cuts]
    except InputError as error:
        return error


def _written(cut: Cut) -> Written:
    return Written(probe(cut.target), cut.target.stat().st_size, sha256_of(cut.target))


def _require_unchanged(cut: Cut, failed: dict[Path, str]) -> None:
    """Raises InputError if the source has changed since ingestion, which then explains the failure."""
    if cut.source.is_dir() or cut.sha256 is None:
        return
    if not cut.source.is_file() or sha256_of(cut.source) != cut.sha256:
        what = f"cannot extract {cut.target.stem}: {failed[cut.target]}; the file has changed since it was ingested"
        raise InputError(what, cut.source, "ingest and validate again")


def _write_missing(cuts: list[Cut]) -> dict[Path, str]:
    """Write the files; return the reason of each failed file."""
    if not cuts:
        return {}
    try:
        frames = probe(cuts[0].source).frames
    except DecodeError as error:
        return dict.fromkeys((cut.target for cut in cuts), error.reason)
    far = max(cut.start for cut in cuts) > GAP
    keys = key_frames(cuts[0].source, frames) if far else None
    failed = _write_runs(cuts, frames, keys)
    if failed and keys:  # decoding in order from the first frame is authoritative
        failed = _write_runs([cut for cut in cuts if cut.target in failed], frames, None)
    return failed


def _write_runs(cuts: list[Cut], frames: int, keys: KeyFrames | None) -> dict[Path, str]:
    failed: dict[Path, str] = {}
    for run in _runs(cuts, GAP if keys else math.inf):
        failed |= _write_run(run, frames, keys)
    return failed


def _runs(cuts: list[Cut], gap: float) -> Iterator[list[Cut]]:
    """Group the cuts, in order of their start, into passes over the source."""
    waiting = sorted(cuts, key=lambda cut: cut.start)
    while waiting:
        run, later = waiting[:1], list[Cut]()
        for cut in waiting[1:]:
            near = cut.start <= max(other.stop for other in run) + gap
            overlapping = sum(other.stop > cut.start for other in run)
            (run if near and overlapping < AT_ONCE else later).append(cut)
        yield run
        waiting = later


def _write_run(run: list[Cut], frames: int, keys: KeyFrames | None) -> dict[Path, str]:
    """Write the files in one pass; return the reason of each failed file."""
    first = run[0].start
    stop = min(max(cut.stop for cut in run), frames)
    number = first
    reason = f"the video ends before frame {stop}"
    second = max(round(run[0].fps), 1)
    waiting = deque(run)
    begun: list[_ClipFile] = []
    failed: dict[Path, str] = {}
    try:
        try:
            for frame in decode_from(run[0].source, first, stop, keys):
                while waiting and waiting[0].start == number:
                    begun.append(_ClipFile(waiting.popleft()))
                number += 1
                begun = [file for file in begun if not file.add(frame, number, failed)]
                if number % second == 0:
                    restart_time_limit()
        except DecodeError as error:
            reason = error.reason
        begun = [file for file in begun if not file.end(number, reason, failed)]
        return failed | {cut.target: reason for cut in waiting}
    finally:
        for file in begun:
            file.discard()


@contextmanager
def _encoding() -> Iterator[None]:
    """Raise errors of the encoder as ClipError, but not those of the machine (disk, memory)."""
    import av

    try:
        yield
    except (OSError, MemoryError):
        raise
    except (av.FFmpegError, ValueError, ArithmeticError) as error:
        raise ClipError(f"cannot be encoded: {getattr(error, 'strerror', error)}") from None
    except DecodeError as error:
        raise ClipError(f"cannot be read in the clip store: {error.reason}") from None


class _ClipFile:
    """A file of the store while it is written, under a temporary name until it is complete."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self._scratch = _scratch(cut, cut.target)
        self._encoder: ClipEncoder | None = None

    def add(self, frame: NDArray[np.uint8], number: int, failed: dict[Path, str]) -> bool:
        """Encode frame `number` - 1 of the source; return whether the file is finished or has failed."""
        try:
            with _encoding():
                if self._encoder is None:
                    cut = self.cut
                    self._encoder = ClipEncoder(self._scratch, cut.store, cut.fps, cut.stop - cut.start)
                self._encoder.add(frame)
            if number == self.cut.stop:
                self._publish()
            return number == self.cut.stop
        except ClipError as error:
            return self._fail(str(error), failed)

    def end(self, number: int, reason: str, failed: dict[Path, str]) -> bool:
        """Handle the end of the source before frame `number`: publish the file if it has all needed frames."""
        if number < self.cut.needed:
            return self._fail(reason, failed)
        try:
            self._publish()
            return True
        except ClipError as error:
            return self._fail(str(error), failed)

    def discard(self) -> None:
        if self._encoder is not None:
            self._encoder.abandon()
        self._scratch.unlink(missing_ok=True)

    def _fail(self, reason: str, failed: dict[Path, str]) -> bool:
        failed[self.cut.target] = reason
        self.discard()
        return True

    def _publish(self) -> None:
        with _encoding():
            assert self._encoder is not None
            written = self._encoder.finish()
            found = probe(self._scratch).frames
        if found != written:
            raise ClipError(f"{found} frames in the store instead of {written}")
        _move(self._scratch, self.cut.target)


def _write_flow(cut: Cut, failed: dict[Path, str]) -> None:
    scratch = _scratch(cut, flow_file(cut.target))
    try:
        write_flow(cut.target, scratch)
        _move(scratch, flow_file(cut.target))
    except DecodeError as error:
        failed[cut.target] = f"no optical flow: {error.reason}"
        cut.target.unlink()
    finally:
        scratch.unlink(missing_ok=True)


def _scratch(cut: Cut, target: Path) -> Path:
    # Unique per attempt: a worker of a killed run, or of a node considered lost, may still write its own file.
    return cut.scratch / f"{uuid.uuid4().hex[:8]}.{target.name}"


def _move(scratch: Path, target: Path) -> None:
    sync(scratch)
    scratch.replace(target)
