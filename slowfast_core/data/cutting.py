"""From one source video all files that the clip store has of it, decoded once. Runs in a worker process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.decoding import DecodeError, VideoInfo, probe
from slowfast_core.data.disk import full_disk_in_one_line
from slowfast_core.data.encoding import ClipEncoder
from slowfast_core.data.flow import flow_file, write_flow
from slowfast_core.data.seeking import KeyFrames, decode_from, key_frames
from slowfast_core.errors import InputError
from slowfast_core.files import sha256_of, sync
from slowfast_core.recipe import Store

GAP = 250  # frames: what is not wanted is decoded, up to so many; beyond, it is sought over
AT_ONCE = 8  # files written at a time where segments overlap: each encoder holds tens of megabytes


@dataclass(frozen=True)
class Cut:
    """One file of the store: source frames `start` to `stop`, of which those before `needed` must decode.

    What the source does not have, or does not decode, after those is left out.
    """

    source: Path
    target: Path
    scratch: Path  # a folder beside the store: what a killed worker leaves must not become part of the data version
    store: Store
    fps: float  # of the source
    start: int
    stop: int
    needed: int


@dataclass(frozen=True)
class Written:
    info: VideoInfo
    bytes: int
    sha256: str


class ClipError(Exception):
    """A file that cannot be written, and why."""

    def __init__(self, cut: Cut, reason: str) -> None:
        super().__init__(cut, reason)
        self.cut, self.reason = cut, reason


def write_clips(cuts: Sequence[Cut]) -> list[Written] | InputError:
    """Write the files of `cuts`, all of one source, and their flow, unless they are there, whole.

    An error is returned, not raised, so that it crosses process borders as it is.
    """
    try:
        with full_disk_in_one_line(cuts[0].target.parent):
            _write_missing([cut for cut in cuts if not cut.target.exists()])
            for cut in cuts:
                if cut.store.flow and not flow_file(cut.target).exists():
                    _write_flow(cut)
            return [Written(probe(cut.target), cut.target.stat().st_size, sha256_of(cut.target)) for cut in cuts]
    except ClipError as error:
        return InputError(f"cannot extract {error.cut.target.stem}: {error.reason}", error.cut.source, "validate again")
    except InputError as error:
        return error


def _write_missing(cuts: list[Cut]) -> None:
    if not cuts:
        return
    try:
        frames = probe(cuts[0].source).frames
    except DecodeError as error:
        raise ClipError(cuts[0], error.reason) from None
    far = max(cut.start for cut in cuts) > GAP
    keys = key_frames(cuts[0].source, frames) if far else None
    for run in _runs(cuts):
        _write_run(run, frames, keys)


def _runs(cuts: list[Cut]) -> Iterator[list[Cut]]:
    """Cuts that one pass over the source writes, in order of their start."""
    waiting = sorted(cuts, key=lambda cut: cut.start)
    while waiting:
        run, later = waiting[:1], list[Cut]()
        for cut in waiting[1:]:
            near = cut.start <= max(other.stop for other in run) + GAP
            overlapping = sum(other.stop > cut.start for other in run)
            (run if near and overlapping < AT_ONCE else later).append(cut)
        yield run
        waiting = later


def _write_run(run: list[Cut], frames: int, keys: KeyFrames | None) -> None:
    first, stop = run[0].start, min(max(cut.stop for cut in run), frames)
    waiting, begun = run, list[_ClipFile]()
    number, reason = first, f"the video ends before frame {stop}"
    try:
        try:
            for frame in decode_from(run[0].source, first, stop, keys):
                while waiting and waiting[0].start == number:
                    begun.append(_ClipFile(waiting[0]))
                    waiting = waiting[1:]
                number += 1
                for file in list(begun):
                    file.add(frame)
                    if file.cut.stop == number:
                        file.publish()
                        begun.remove(file)
        except DecodeError as error:
            reason = error.reason
        for file in list(begun):
            if number < file.cut.needed:
                raise ClipError(file.cut, reason)
            file.publish()
            begun.remove(file)
        if waiting:
            raise ClipError(waiting[0], reason)
    finally:
        for file in begun:
            file.discard()


class _ClipFile:
    """A file of the store while it is written: it has a name of its own until it is whole."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self._scratch = _scratch(cut, cut.target)
        self._encoder = ClipEncoder(self._scratch, cut.store, cut.fps, cut.stop - cut.start)

    def add(self, frame: NDArray[np.uint8]) -> None:
        self._encoder.add(frame)

    def publish(self) -> None:
        written = self._encoder.finish()
        if (found := probe(self._scratch).frames) != written:
            raise ClipError(self.cut, f"{found} frames in the store instead of {written}")
        _move(self._scratch, self.cut.target)

    def discard(self) -> None:
        self._encoder.abandon()
        self._scratch.unlink(missing_ok=True)


def _write_flow(cut: Cut) -> None:
    scratch = _scratch(cut, flow_file(cut.target))
    try:
        write_flow(cut.target, scratch)
        _move(scratch, flow_file(cut.target))
    except DecodeError as error:
        raise ClipError(cut, error.reason) from None
    finally:
        scratch.unlink(missing_ok=True)


def _scratch(cut: Cut, target: Path) -> Path:
    # A name for this try only: a worker of a killed run, or of a node taken for lost, may still write its own.
    return cut.scratch / f"{uuid.uuid4().hex[:8]}.{target.name}"


def _move(scratch: Path, target: Path) -> None:
    sync(scratch)
    scratch.replace(target)
