"""Measures memory and time of validation and extraction of a very long video.

    python benchmarks/long_video.py [--minutes 60] [--segments 1000] [--folder FOLDER]

Generates 1080p video (one minute, encoded once, its packets repeated) with segments of about two seconds, one in every
3.6 seconds. Prints the seconds, the result and the largest resident memory of any worker for each stage. With --folder,
the video is stored there and reused.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.stages.flow import STAGE_FUNCTIONS
from slowfast_core.workspace import Workspace

FPS, HEIGHT, WIDTH = 25, 1080, 1920
POLL_SECONDS = 0.2


def write_minute(path: Path) -> None:
    """Waves that move at several speeds, so that every frame differs from the others."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32) / 60
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = HEIGHT, WIDTH, "yuv420p", 50
        for number in range(60 * FPS):
            wave = np.sin(x + number / 7) + np.sin(y + x / 3 - number / 11)
            luma = (128 + 50 * wave).astype(np.uint8)
            planes = np.full((HEIGHT * 3 // 2, WIDTH), 90 + number % 60, np.uint8)
            planes[:HEIGHT] = luma
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def repeat(minute: Path, target: Path, times: int) -> None:
    """Write the packets of the minute `times` times, each time one minute later."""
    with av.open(str(target), "w") as output:
        stream = None
        for turn in range(times):
            with av.open(str(minute)) as source:
                original = source.streams.video[0]
                stream = stream or output.add_stream_from_template(original)
                later = round(turn * 60 / (original.time_base or 1))
                for packet in source.demux(original):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + later, packet.dts + later, stream
                        output.mux(packet)


class PeakOfWorkers:
    """The largest resident memory (MB) of any child process, from the peak that the system records for each."""

    def __enter__(self) -> PeakOfWorkers:
        self.megabytes, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            for children in Path("/proc/self/task").glob("*/children"):
                try:
                    for child in children.read_text().split():
                        self.megabytes = max(self.megabytes, peak_megabytes(child))
                except OSError:
                    continue  # the thread or the process has just ended


def peak_megabytes(process: str) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def write_annotations(folder: Path, minutes: int, segments: int) -> None:
    random, room = (
        np.random.default_rng(0),
        60 * minutes / segments,
    )  # seconds; segments do not overlap, so none is in both splits
    with (folder / "annotations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        for number in range(segments):
            split = "val" if number % 5 == 0 else "train"
            start, end = room * (number + np.sort(random.uniform(0, 1, 2) * [0.3, 0.2] + [0, 0.7]))
            writer.writerow([f"class {number // 5 % 2}", "long", f"{start:.2f}", f"{end:.2f}", split])


def recipe_of(folder: Path) -> Recipe:
    data = {"name": "long", "source": str(folder), "annotations": "annotations.csv"}
    return parse_recipe({"name": "long", "data": {**data, "validation": {"max_bad_share": 0}}})


def measure(folder: Path, minutes: int, segments: int) -> None:
    video, minute = folder / f"long_{minutes}.mp4", folder / ".minute.mp4"
    source = folder / "source"
    source.mkdir(exist_ok=True)
    if not video.is_file():
        write_minute(minute)
        repeat(minute, video, minutes)
    (source / "long.mp4").unlink(missing_ok=True)
    (source / "long.mp4").hardlink_to(video)
    write_annotations(source, minutes, segments)
    print(f"{minutes} minutes of {WIDTH}x{HEIGHT}, {video.stat().st_size / 1e6:.0f} MB, {segments} segments\n")
    print("| stage | seconds | result | largest worker (MB) |")
    print("| --- | --- | --- | --- |")
    recipe = recipe_of(source)
    with tempfile.TemporaryDirectory(dir=folder) as workspace:
        at = Workspace.at(workspace)
        for stage in ("ingest", "validate", "extract"):
            started = time.monotonic()
            with PeakOfWorkers() as peak:
                result = STAGE_FUNCTIONS[stage](recipe, at)
            seconds = time.monotonic() - started
            print(f"| {stage} | {seconds:.0f} | {result.summary} | {peak.megabytes:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--segments", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options.folder, options.minutes, options.segments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), options.minutes, options.segments)


if __name__ == "__main__":
    main()
