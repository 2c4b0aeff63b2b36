"""Fetches objects of a source into a folder, and reuses the files of earlier or killed runs.

A journal next to the videos records the source object of each file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from slowfast_core.data.objects.object import StoredObject
from slowfast_core.data.objects.partial_file import partial_paths
from slowfast_core.data.objects.store import ObjectStore, fetch_all, place
from slowfast_core.files import disk_in_one_line, require_space, write_whole
from slowfast_core.json_lines import JsonLines, read_lines
from slowfast_core.progress import progress

VIDEOS = "videos"
JOURNAL = "objects.jsonl"


@dataclass(frozen=True)
class Entry:
    """A line of the journal: a complete file in the folder."""

    key: str
    identity: str
    size: int
    sha256: str


def collect(
    store: ObjectStore, named: list[StoredObject], partial: Path, previous: Path
) -> tuple[dict[str, Entry], int]:
    """Collect the named objects in `partial`; return their journal entries and the number of fetched objects.

    Complete files of a killed run in `partial` stay, files of the previous output are linked, the rest is fetched.
    """
    with disk_in_one_line(str(partial), partial):
        kept = _kept(partial, previous, named)
        rest = {item.key: item for item in named if item.key not in kept}
        begun = _clear_torn(partial / VIDEOS, kept, rest.values())
        require_space(partial, sum(item.size for item in rest.values()) - begun)
        _fetch(store, rest, kept, partial)
    return kept, len(rest)


def _kept(partial: Path, previous: Path, named: list[StoredObject]) -> dict[str, Entry]:
    """Entries of the files that are complete in `partial` or `previous`; links the latter and rewrites the journal."""
    kept = _finished(partial, named)
    before = _finished(previous, [item for item in named if item.key not in kept])
    for entry in before.values():
        _link(previous / VIDEOS / entry.key, place(partial / VIDEOS, entry.key))
    kept.update(before)
    write_whole(partial / JOURNAL, "".join(json.dumps(asdict(entry)) + "\n" for entry in kept.values()))
    return kept


def _fetch(store: ObjectStore, rest: Mapping[str, StoredObject], kept: dict[str, Entry], partial: Path) -> None:
    """Fetch the rest, and add each complete object to `kept` and to the journal."""
    finished = sum(entry.size for entry in kept.values())
    expected = len(kept) + len(rest)
    wanted = ((item, place(partial / VIDEOS, item.key)) for item in rest.values())
    note = JsonLines(partial / JOURNAL)
    with progress("ingest", finished + sum(item.size for item in rest.values()), "bytes") as advance:

        def on_bytes(size: int) -> None:
            advance(size, f"{len(kept)} of {expected} files")

        on_bytes(finished)
        for item, sha256 in fetch_all(store, wanted, on_bytes):
            kept[item.key] = Entry(item.key, item.identity, item.size, sha256)
            note(**asdict(kept[item.key]))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # file systems without hard links
        shutil.copy2(source, target)


def _finished(folder: Path, named: Iterable[StoredObject]) -> dict[str, Entry]:
    """Journal entries of the complete files in `folder` that match the current version of a named object."""
    identities = {item.key: item.identity for item in named}
    entries = [Entry(**fields) for fields in read_lines(folder / JOURNAL)]
    return {
        entry.key: entry
        for entry in entries
        if identities.get(entry.key) == entry.identity and _size(folder / VIDEOS / entry.key) == entry.size
    }


def _clear_torn(videos: Path, kept: Mapping[str, Entry], rest: Iterable[StoredObject]) -> int:
    """Remove useless files of a killed run; return the disk space in bytes of the partial files that are resumed."""
    begun = {path for item in rest for path in partial_paths(videos / item.key, item)}
    size = 0
    for folder, _, names in os.walk(videos):
        for path in (Path(folder, name) for name in names):
            if path in begun:
                size += path.stat().st_blocks * 512
            elif path.relative_to(videos).as_posix() not in kept:
                path.unlink()
    return size


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
