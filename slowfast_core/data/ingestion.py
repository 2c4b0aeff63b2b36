"""Ingest: official annotation files and the videos they name, from a folder or a bucket, into one manifest.

The output holds `manifest.parquet`, `coverage.json`, the videos under `videos/`, and `objects.jsonl`: which object of
the source each video is, so that a rerun copies only what changed and a killed run goes on.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pandas as pd

from slowfast_core.data.collection import VIDEOS, Entry, collect
from slowfast_core.data.manifest import SCHEMA, Manifest
from slowfast_core.data.object_store import ObjectStore, StoredObject, open_store
from slowfast_core.data.sources import ava, kinetics
from slowfast_core.data.sources.common import Annotations, Item, Split, Table, TextFile, Videos
from slowfast_core.errors import InputError
from slowfast_core.files import sha256_of, write_whole
from slowfast_core.recipe import Data
from slowfast_core.stage import StageResult, run_once

MANIFEST = "manifest.parquet"
COVERAGE = "coverage.json"


def ingest(data: Data, generated: Path, output: Path) -> StageResult:
    """Bring the data set of `data` into `output`; a synthetic one is generated first. Raises InputError."""
    if data.source == "synthetic":
        data = _generate(data, generated)
    store = open_store(data.source, data.endpoint_url)
    listing = {item.key: item for item in store.objects()}
    tables, labels = _annotation_files(data, store, listing)
    annotations = _read(data, tables, labels, Videos(listing))
    named = [listing[key] for key in sorted({item.object for item in annotations.items if item.object})]
    if not named:
        raise InputError(f"none of the {len(annotations.items)} rows has its video", data.source, "check data.source")
    inputs = {
        "data": data.model_dump(include={"format", "holdout", "first_second"}),
        "annotations": [(table.split, _digest(table.file)) for table in tables],
        "labels": labels and _digest(labels),
        "objects": {item.key: item.identity for item in named},
    }

    def work(partial: Path) -> Mapping[str, Any]:
        videos, copied = collect(store, named, partial, output)
        manifest = Manifest(_rows(annotations.items, videos), annotations.labels)
        manifest.write(partial / MANIFEST)
        coverage = _coverage(annotations)
        write_whole(partial / COVERAGE, json.dumps(coverage, indent=1, ensure_ascii=False))
        missing = len(coverage["missing_videos"])
        megabytes = sum(entry.size for entry in videos.values()) / 1e6
        return {
            "outputs": {"manifest": MANIFEST, "coverage": COVERAGE, "videos": VIDEOS},
            "summary": f"{len(videos)} of {len(videos) + missing} videos ({megabytes:.1f} MB), {missing} missing; "
            f"{copied} copied, {len(videos) - copied} kept",
            "digest": sha256_of(partial / MANIFEST),
            "metrics": {"videos": len(videos), "missing": missing},
        }

    return run_once("ingest", output, inputs, work)


def source_version(data: Data) -> str:
    """Identity of what `ingest` would find, from the listing alone: equal when no object of the source has changed."""
    if data.source == "synthetic":
        found: dict[str, Any] = {"synthetic": data.synthetic.model_dump()}
    else:
        store = open_store(data.source, data.endpoint_url)
        listing = {item.key: item for item in store.objects()}
        tables, labels = _annotation_files(data, store, listing)
        files = [table.file for table in tables] + ([labels] if labels else [])
        found = {
            "objects": {key: item.identity for key, item in listing.items()},
            "files": [_digest(file) for file in files],
        }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _generate(data: Data, generated: Path) -> Data:
    """Write the synthetic source and return `data` as that of an ordinary folder."""
    from slowfast_core.data.sources import synthetic

    write = {"kinetics": synthetic.write_kinetics, "ava": synthetic.write_ava}[data.format]
    write(data.synthetic, generated)
    labels = "labels.pbtxt" if data.format == "ava" else None
    annotations = {"train": "train.csv", "val": "val.csv"}
    return data.model_copy(update={"source": str(generated), "annotations": annotations, "labels": labels})


def _annotation_files(
    data: Data, store: ObjectStore, listing: Mapping[str, StoredObject]
) -> tuple[list[Table], TextFile | None]:
    if isinstance(data.annotations, str):
        tables = [Table(_read_text(data.annotations, store, listing), None)]
    else:
        splits: tuple[Split, ...] = get_args(Split)
        named = [(split, data.annotations[split]) for split in splits if split in data.annotations]
        tables = [Table(_read_text(name, store, listing), split) for split, name in named]
    return tables, _read_text(data.labels, store, listing) if data.labels else None


def _read_text(name: str, store: ObjectStore, listing: Mapping[str, StoredObject]) -> TextFile:
    """A file below the source, or a path of its own. The source goes first, so that no stray file shadows it."""
    below = listing.get(posixpath.normpath(name))
    own = Path(name).expanduser()
    try:
        if below:
            with TemporaryDirectory() as folder:
                store.fetch(below, Path(folder) / "annotations")
                text = (Path(folder) / "annotations").read_text(encoding="utf-8-sig")
            return TextFile(posixpath.join(store.root, below.key), text)
        if own.is_file():
            return TextFile(name, own.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError("not a UTF-8 text file", name, "name a csv file or a label file") from None
    raise InputError(f"no annotation file {name!r}", store.root, "correct data.annotations or data.labels") from None


def _read(data: Data, tables: list[Table], labels: TextFile | None, videos: Videos) -> Annotations:
    if data.format == "ava":
        return ava.read_annotations(tables, labels, data.holdout, data.first_second, videos)
    return kinetics.read_annotations(tables, labels, data.holdout, videos)


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
    """How many rows the annotations expect, and how many have their video, in all, by split and by class."""
    expected: Counter[tuple[str, str]] = Counter()
    present: Counter[tuple[str, str]] = Counter()
    for item in annotations.items:
        classes = [annotations.labels[label] for label in item.labels]
        groups = [("all", ""), ("split", item.split), *(("class", name) for name in classes if name)]
        expected.update(groups)
        present.update(groups if item.object else ())

    def count(kind: str, name: str) -> dict[str, int]:
        there = present[kind, name]
        return {"expected": expected[kind, name], "present": there, "missing": expected[kind, name] - there}

    return {
        **count("all", ""),
        "by_split": {split: count("split", split) for split in get_args(Split)},
        "by_class": {name: count("class", name) for name in annotations.labels if name},
        "missing_videos": sorted({item.video for item in annotations.items if not item.object}),
    }


def _digest(file: TextFile) -> str:
    return hashlib.sha256(file.text.encode()).hexdigest()
