"""The ingest stage: copies annotated videos from a folder or a bucket and writes one manifest for all formats.

The output holds `manifest.parquet`, `coverage.json`, the videos in `videos/`, and `objects.jsonl`, which maps each
video to its object in the source, so that a rerun copies only changed videos and a killed run resumes.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pandas as pd

from slowfast_core.data.annotations.boxes import PersonBoxes
from slowfast_core.data.annotations.interface import Annotations, Item, ReaderInput, Split, Table
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.data.manifest import SCHEMA, Manifest
from slowfast_core.data.objects.fetch import VIDEOS, Entry, collect
from slowfast_core.data.objects.object import StoredObject
from slowfast_core.data.objects.store import ObjectStore, open_store
from slowfast_core.data.person_boxes import read_person_boxes
from slowfast_core.data.video.frames_folder import write_frame_rate
from slowfast_core.errors import InputError
from slowfast_core.files import sha256_of, write_whole
from slowfast_core.once import StageResult, run_once
from slowfast_core.recipe.load import Data

MANIFEST = "manifest.parquet"
COVERAGE = "coverage.json"


@dataclass(frozen=True)
class Source:
    """The listed source: its annotations, the objects of each video, the files to copy, and the inputs of the stage."""

    store: ObjectStore
    annotations: Annotations
    objects: Mapping[str, Sequence[str]]
    folders: list[str]  # the videos that are folders of frames
    named: list[StoredObject]
    inputs: dict[str, Any]


def ingest(data: Data, generated: Path, output: Path) -> StageResult:
    """Copy the data set into `output`; a synthetic one is generated first.

    Raises InputError when annotations or videos are missing or malformed.
    """
    if data.source == "synthetic":
        from slowfast_core.data import synthetic

        data = synthetic.write_source(data, generated)
    source = _list_source(data)
    store, annotations, objects, named = source.store, source.annotations, source.objects, source.named

    def work(partial: Path) -> Mapping[str, Any]:
        files, copied = collect(store, named, partial, output)
        for folder in source.folders:
            write_frame_rate(partial / VIDEOS / folder, data.frame_rate)
        found = {video: _whole(video, [files[key] for key in keys]) for video, keys in objects.items()}
        manifest = Manifest(_rows(annotations.items, found), annotations.labels)
        manifest.write(partial / MANIFEST)
        coverage = _coverage(annotations)
        write_whole(partial / COVERAGE, json.dumps(coverage, indent=1, ensure_ascii=False))
        missing = len(coverage["missing_videos"])
        megabytes = sum(entry.size for entry in files.values()) / 1e6
        ignored = f"; {annotations.ignored} of a test split left out" if annotations.ignored else ""
        return {
            "outputs": {"manifest": MANIFEST, "coverage": COVERAGE, "videos": VIDEOS},
            "summary": f"{len(found)} of {len(found) + missing} videos ({megabytes:.1f} MB), {missing} missing; "
            f"{copied} copied, {len(files) - copied} kept{ignored}",
            "digest": sha256_of(partial / MANIFEST),
            "metrics": {"videos": len(found), "missing": missing},
        }

    return run_once("ingest", output, source.inputs, work, salvages=True)


def ingest_inputs(data: Data, generated: Path) -> dict[str, Any] | None:
    """The inputs of `ingest`; None where a synthetic source would have to be generated first. Writes nothing."""
    if data.source == "synthetic":
        from slowfast_core.data import synthetic

        if not synthetic.is_generated(data.synthetic, generated, data.annotation_format):
            return None
        data = synthetic.as_folder(data, generated)
    return _list_source(data).inputs


def _list_source(data: Data) -> Source:
    """List the source and read its annotations. Raises InputError."""
    store = open_store(data.source, data.endpoint_url, data.requester_pays, data.fetch_workers)
    listing = {item.key: item for item in store.objects()}
    tables, labels = _annotation_files(data, store, listing)
    excluded, boxes, digests = _sidecar_files(data, store, listing)
    videos = Videos(listing)
    given = ReaderInput(
        tables,
        labels,
        videos,
        root=store.root,
        holdout=data.holdout,
        frame_rate=data.frame_rate,
        first_second=data.first_second,
        key_seconds=data.key_seconds,
        excluded=excluded,
        person_boxes=boxes,
        person_box_iou=data.person_boxes.iou,
        person_box_negatives=data.person_boxes.negatives,
    )
    annotations = data.annotation_format.read(given)
    objects = {item.object: videos.objects(item.object) for item in annotations.items if item.object}
    named = [listing[key] for key in sorted({key for keys in objects.values() for key in keys})]
    if not named:
        what = f"the videos of all {len(annotations.items)} rows are missing"
        raise InputError(what, data.source, "check data.source")
    inputs: dict[str, Any] = {
        "data": data.model_dump(include={"format", "holdout", "first_second"}),
        **({} if data.frame_rate == 30 else {"frame_rate": data.frame_rate}),
        "annotations": [(table.split, _digest(table.file)) for table in tables],
        "labels": labels and _digest(labels),
        "objects": {item.key: item.identity for item in named},
    }
    if digests:  # otherwise omitted, so that results without such files stay valid
        inputs["sidecar_files"] = [digests, data.person_boxes.inputs(), data.key_seconds]
    return Source(store, annotations, objects, list(filter(videos.is_folder, objects)), named, inputs)


def source_version(data: Data) -> str:
    """Identity of the source, from its listing and annotation files: changes when an object of the source changes."""
    if data.source == "synthetic":
        found: dict[str, Any] = {"synthetic": data.synthetic.model_dump()}
    else:
        store = open_store(data.source, data.endpoint_url, data.requester_pays, data.fetch_workers)
        listing = {item.key: item for item in store.objects()}
        tables, labels = _annotation_files(data, store, listing)
        _, _, digests = _sidecar_files(data, store, listing)
        files = [table.file for table in tables] + ([labels] if labels else [])
        found = {
            "objects": {key: item.identity for key, item in listing.items()},
            "files": [[_digest(file) for file in files], digests],
        }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _annotation_files(
    data: Data, store: ObjectStore, listing: Mapping[str, StoredObject]
) -> tuple[list[Table], TextFile | None]:
    tables: list[Table]
    if not data.annotation_format.has_files:
        tables = []
    elif isinstance(data.annotations, str):
        tables = [Table(_read_text(data.annotations, store, listing), None)]
    else:
        splits: tuple[Split, ...] = get_args(Split)
        named = [(split, data.annotations[split]) for split in splits if split in data.annotations]
        tables = [Table(_read_text(name, store, listing), split) for split, name in named]
    return tables, _read_text(data.labels, store, listing) if data.labels else None


def _read_text(name: str, store: ObjectStore, listing: Mapping[str, StoredObject]) -> TextFile:
    """Read a text file in the source or, if it is not there, at a local path.

    The source comes first, so that no local file shadows it. Raises InputError when the file is missing.
    """
    in_source = listing.get(posixpath.normpath(name))
    local = Path(name).expanduser()
    if in_source:
        with TemporaryDirectory() as folder:
            store.fetch(in_source, Path(folder) / "annotations")
            return TextFile(posixpath.join(store.root, in_source.key), _text(Path(folder) / "annotations", name))
    if local.is_file():
        return TextFile(name, _text(local, name))
    raise InputError(f"no annotation file {name!r}", store.root, "correct data.annotations or data.labels") from None


def _sidecar_files(
    data: Data, store: ObjectStore, listing: Mapping[str, StoredObject]
) -> tuple[list[TextFile], dict[Split, PersonBoxes], dict[str, str]]:
    """The lists of excluded key frames, the person boxes, and the digest of each of these files."""
    excluded = {split: _read_text(name, store, listing) for split, name in sorted(data.excluded.items())}
    digests = {f"excluded.{split}": _digest(file) for split, file in excluded.items()}
    boxes: dict[Split, PersonBoxes] = {}
    splits: tuple[Split, ...] = get_args(Split)
    with TemporaryDirectory() as folder:
        for split in splits:
            if name := data.person_boxes.files.get(f"person_boxes.{split}"):
                in_source = listing.get(posixpath.normpath(name))
                path = Path(folder) / split if in_source else Path(name).expanduser()
                if in_source:
                    store.fetch(in_source, path)
                elif not path.is_file():
                    raise InputError(f"no file {name!r}", store.root, f"correct data.person_boxes.{split}")
                boxes[split] = read_person_boxes(path, name, data.person_boxes.min_score)
                digests[f"person_boxes.{split}"] = sha256_of(path)
    return list(excluded.values()), boxes, digests


def _text(path: Path, name: str) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError("not a UTF-8 text file", name, "name an annotation file or a label file")
    return text


def _whole(video: str, files: list[Entry]) -> Entry:
    """Size and SHA-256 of a video file, or of all frames of a video that consists of image files."""
    if [file.key for file in files] == [video]:
        return files[0]
    lines = "".join(f"{file.sha256} {posixpath.basename(file.key)}\n" for file in files)
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    return Entry(video, "", sum(file.size for file in files), sha256)


def _rows(items: Iterable[Item], videos: Mapping[str, Entry]) -> pd.DataFrame:
    rows = []
    for item in items:
        row = asdict(item)
        entry = videos[item.object] if item.object else None
        row["path"] = f"{VIDEOS}/{entry.key}" if entry else ""
        row["bytes"] = entry and entry.size
        row["sha256"] = entry and entry.sha256
        rows.append(row)
    return pd.DataFrame(rows, columns=SCHEMA.names, dtype=object)


def _coverage(annotations: Annotations) -> dict[str, Any]:
    """Numbers of expected rows and of rows with their video: in total, by split and by class."""
    expected: Counter[tuple[str, str]] = Counter()
    present: Counter[tuple[str, str]] = Counter()
    for item in annotations.items:
        classes = [annotations.labels[label] for label in item.labels]
        groups = [("all", ""), ("split", item.split), *(("class", name) for name in classes if name)]
        expected.update(groups)
        present.update(groups if item.object else ())

    def count(kind: str, name: str) -> dict[str, int]:
        all_rows = expected[kind, name]
        with_video = present[kind, name]
        return {"expected": all_rows, "present": with_video, "missing": all_rows - with_video}

    return {
        **count("all", ""),
        "by_split": {split: count("split", split) for split in get_args(Split)},
        "by_class": {name: count("class", name) for name in annotations.labels if name},
        "ignored": annotations.ignored,
        "missing_videos": sorted({item.video for item in annotations.items if not item.object}),
    }


def _digest(file: TextFile) -> str:
    return hashlib.sha256(file.text.encode()).hexdigest()
