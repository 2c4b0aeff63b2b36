"""Annotations with extreme numbers, names or repetitions give one line or the right result, in bounded time."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from videos import ava_row

from slowfast_core.data.annotations.class_names import nearest, read_names
from slowfast_core.data.annotations.interface import Item, ReaderInput, Table, with_unique_ids
from slowfast_core.data.annotations.kinetics import KINETICS
from slowfast_core.data.annotations.label_map import read_label_map
from slowfast_core.data.annotations.lists import LIST
from slowfast_core.data.annotations.something import SOMETHING
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.data.manifest import SCHEMA, Manifest, read_manifest
from slowfast_core.data.objects.store import open_store
from slowfast_core.data.quality.report import quarantined, write_quarantine
from slowfast_core.errors import InputError

DIGITS = "9" * 5000


def item(id_: str) -> Item:
    return Item(id_, "v", None, "train", [0], 0.0, 1.0)


DAMAGED_MAPS = {
    "blanks": "item" + " " * 200_000 + "x",
    "lines": "\n" * 200_000 + "x",
    "open quotes": 'item { name: "' * 14_000,
    "words": "item " * 40_000,
    "an open block": "item {" + "a " * 100_000,
    "escapes": 'item {"' + "\\" * 200_000,
}


@pytest.mark.timeout(60)  # with a single regular expression, 48 kB of blanks took 51 s, and the time grew quadratically
@pytest.mark.parametrize("text", DAMAGED_MAPS.values(), ids=DAMAGED_MAPS)
def test_a_damaged_label_map_is_refused_quickly(text: str) -> None:
    with pytest.raises(InputError, match=r"not a label map \(map\)"):
        read_label_map(TextFile("map", text))


@pytest.mark.parametrize("number", [DIGITS, "-1", "0", "1.5", "x"])
def test_invalid_ids_of_a_label_map_are_refused(number: str) -> None:
    with pytest.raises(InputError, match=r"label without a name or an id|above 9999"):
        read_label_map(TextFile("map", f'item {{ name: "a" id: {number} }}'))


def test_a_label_map_of_both_kinds_with_comments_is_read() -> None:
    first = '# classes\nitem { name: "a # {b}" id: 1 }\n'
    second = "label: {\n  name: 'c'\n  label_id: 3  # two is left out\n  label_type: X\n}"
    assert read_label_map(TextFile("map", first + second)) == ("a # {b}", "", "c")


def test_a_frame_count_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"9{40} frames \(a.txt:1\)"):
        LIST.read(ReaderInput([Table(TextFile("a.txt", f"folder {DIGITS} 1\n"), None)], None, Videos(()), holdout=0.5))


def test_json_numbers_of_thousands_of_digits_are_refused() -> None:
    with pytest.raises(InputError, match="thousands of digits"):
        read_names(TextFile("labels.json", f'{{"a": {DIGITS}}}'))
    with pytest.raises(InputError, match=r"label 'a' has the index '9999"):
        read_names(TextFile("labels.json", f'{{"a": "{DIGITS}"}}'))
    tables = [Table(TextFile("a.json", f'[{{"id": {DIGITS}}}]'), None)]
    with pytest.raises(InputError, match="thousands of digits"):
        SOMETHING.read(ReaderInput(tables, TextFile("l", "x"), Videos(()), holdout=0.5))


def test_an_empty_label_without_an_index_is_refused() -> None:
    with pytest.raises(InputError, match="label '' has the index 'x'"):
        read_names(TextFile("labels.json", '{"": "x"}'))


def test_nesting_inside_an_entry_is_refused() -> None:
    entry = {"annotations": {"label": [[[]]], "segment": [0, 1]}, "subset": "train"}
    tables = [Table(TextFile("a", json.dumps({"v": entry})), None)]
    with pytest.raises(InputError, match="no segment with a start and an end"):
        KINETICS.read(ReaderInput(tables, None, Videos(()), holdout=0.5))


@pytest.mark.timeout(60)
def test_many_rows_with_one_id_are_numbered_quickly() -> None:
    ids = [one.id for one in with_unique_ids([item("a-3"), *(item("a") for _ in range(50_000))])]
    assert ids[:4] == ["a-3", "a", "a-2", "a-4"]
    assert len({*ids}) == len(ids) == 50_001


def test_long_ids_are_shortened_to_valid_file_names(tmp_path: Path) -> None:
    ids = [one.id for one in with_unique_ids([item("é" * 4000 + "1"), item("é" * 4000 + "2"), item("short")])]
    assert len({*ids}) == 3
    assert ids[2] == "short"
    for id_ in ids:
        (tmp_path / f".{id_}.12345678.mp4").touch()


@pytest.mark.timeout(60)
def test_long_names_are_not_compared() -> None:
    assert "correct the row" in nearest("a" * 100_000, ["ab" * 50_000] * 20)
    assert nearest("jmup", ["run", "jump"]) == "did you mean 'jump'?"


CELLS = {cell: f"'{cell}" for cell in ("=1+1", "+1", "-2+3", "@SUM(A1)", " =1", "\uff1d1", "|calc", "%1")}
CELLS |= {"\t=1": r"\t=1", "a\r=1": r"a\r=1", "a\n=1": r"a\n=1"}


@pytest.mark.parametrize("cell", CELLS)
def test_cells_of_the_quarantine_are_not_formulas_in_spreadsheets(cell: str, tmp_path: Path) -> None:
    rows = pd.DataFrame({"id": [cell, "a"], "video": [cell, "b=1"], "split": ["train", "val"]})
    write_quarantine(quarantined(rows, {0: [cell], 1: ["not found"]}), tmp_path / "quarantine.csv")
    with (tmp_path / "quarantine.csv").open(newline="", encoding="utf-8") as file:
        _, first, second = csv.reader(file)
    assert first == [CELLS[cell], CELLS[cell], "train", CELLS[cell]]
    assert second == ["a", "b=1", "val", "not found"]


def test_only_folders_and_buckets_are_stores() -> None:
    with pytest.raises(InputError, match=r"neither a folder nor s3://bucket/prefix \(https://example.com/a\)"):
        open_store("https://example.com/a")


def write_manifest(path: Path) -> bytes:
    rows = [{**ava_row("one", "one.mp4", second), "proposals": None} for second in range(40)]
    table = pd.DataFrame([{name: row.get(name) for name in SCHEMA.names} for row in rows], dtype=object)
    Manifest(table, ("a", "")).write(path)
    return path.read_bytes()


def test_damaged_manifests_are_refused_in_one_line(tmp_path: Path) -> None:
    """A changed byte, a truncation and random bytes at every 40th position; most raised OSError before."""
    path = tmp_path / "manifest.parquet"
    whole = write_manifest(path)
    lines = []
    for at in range(0, len(whole), 40):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :], os.urandom(at)):
            path.write_bytes(damaged)
            try:
                read_manifest(path)
            except InputError as error:
                lines.append(str(error))
    assert len(lines) > 2 * len(whole) // 40
    assert all(line.startswith("not a manifest: ") for line in lines)


@pytest.mark.parametrize("labels", ['"abc"', "{}", "[1]", "[" * 100_000, "9" * 5000, "null"])
def test_a_manifest_with_invalid_labels_is_refused(labels: str, tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    table = pq.read_table(tmp_path / "manifest.parquet").replace_schema_metadata({"labels": labels})
    pq.write_table(table, tmp_path / "manifest.parquet")
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(tmp_path / "manifest.parquet")


def test_a_folder_in_place_of_a_manifest_and_a_missing_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest"):
        read_manifest(tmp_path)
    pq.write_table(pa.table({"id": ["a"]}).replace_schema_metadata({"labels": "[]"}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(tmp_path / "m.parquet")
