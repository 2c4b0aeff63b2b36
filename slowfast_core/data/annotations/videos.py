"""Finds the videos of a source by name, in any folder and container: files, and folders of numbered frames."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from slowfast_core.errors import InputError

VIDEO_ENDINGS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv", "wmv", "3gp", "ogv")
VIDEO = re.compile(rf"(?P<name>.+)\.(?:{'|'.join(VIDEO_ENDINGS)})", re.IGNORECASE)
FRAME = re.compile(r"(?P<folder>.+)/(?!flow_)[^/]*[0-9]\.(?:jpe?g|png)", re.IGNORECASE)


class Videos:
    """Index of the videos among the keys of a source."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._frames: dict[str, list[str]] = defaultdict(list)
        with_files = set()
        for key in keys:
            if match := VIDEO.fullmatch(key):
                self._by_stem[_stem(match["name"])].append(key)
                with_files.add(key.rpartition("/")[0])
            elif match := FRAME.fullmatch(key):
                self._frames[match["folder"]].append(key)
        for folder in with_files & {*self._frames}:
            del self._frames[folder]  # images next to videos are not frames
        for folder in self._frames:
            self._by_stem[_stem(folder)].append(folder)

    def __iter__(self) -> Iterator[str]:
        return (video for of_stem in self._by_stem.values() for video in of_stem)

    def find(self, name: str, folders: Sequence[str] = ()) -> str | None:
        """Find the key of a video file or a folder of frames by its name, which may include folders and an extension.

        Among several matches, files precede folders of frames, then the path with most of `folders` wins. Raises
        InputError if the match is still ambiguous.
        """
        match = VIDEO.fullmatch(name)
        bare = match["name"] if match else name
        found = [key for key in self._by_stem.get(_stem(bare), ()) if f"/{self.name(key)}".endswith(f"/{bare}")]
        if match and (exact := [key for key in found if f"/{key}".endswith(f"/{name}")]):
            found = exact
        found = [key for key in found if not self.is_folder(key)] or found
        if len(found) > 1:
            matches = {key: len({*key.split("/")[:-1]} & {*folders}) for key in found}
            found = [key for key in found if matches[key] == max(matches.values())]
        if len(found) > 1:
            raise InputError(f"several videos match {name!r}", ", ".join(found[:3]), "keep one of the files")
        return found[0] if found else None

    def is_folder(self, video: str) -> bool:
        return video in self._frames

    def name(self, video: str) -> str:
        """The key of a video without the extension."""
        return video if self.is_folder(video) else video.rpartition(".")[0]

    def objects(self, video: str) -> list[str]:
        """The keys of the objects of a video: the file, or the frames."""
        return self._frames.get(video) or [video]


def _stem(name: str) -> str:
    return name.rpartition("/")[2]
