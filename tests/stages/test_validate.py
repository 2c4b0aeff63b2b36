from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from videos import ava_row, break_frame, ingested, kinetics_row, moving_frames, write_video

from slowfast_core.data.manifest import read_manifest
from slowfast_core.errors import InputError
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Data, Validation
from slowfast_core.stages.validate import validate


def settings(max_bad_share: float = 1.0, limits: dict[str, Any] | None = None, **data: Any) -> Data:
    strict = {"min_frames": 5, "decode_timeout_seconds": 3} | (limits or {})
    return Data(name="some", validation=Validation(max_bad_share=max_bad_share, **strict), **data)


def reasons(folder: Path) -> dict[str, str]:
    with (folder / "quarantine.csv").open(newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult]:
    """A validated Kinetics-style data set with one row for each kind of fault."""
    root = tmp_path_factory.mktemp("mixed")
    videos = root / "videos"
    for number in range(4):
        write_video(videos / f"good{number}.mp4", moving_frames(30, seed=number))
    (videos / "copy.mp4").write_bytes((videos / "good3.mp4").read_bytes())
    whole = write_video(videos / "cut.mp4", moving_frames(30, seed=5)).read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    whole = write_video(videos / "short.mkv", moving_frames(60, seed=6)).read_bytes()
    (videos / "short.mkv").write_bytes(whole[: len(whole) // 2])
    break_frame(write_video(videos / "damaged.mp4", moving_frames(40, seed=7), b_frames=0), 14)
    (videos / "text.mp4").write_text("this is no video\n" * 100)
    write_video(videos / "tiny.mp4", moving_frames(3, seed=8))
    os.mkfifo(videos / "hangs.mp4")
    rows = [
        kinetics_row("good0", "videos/good0.mp4"),
        kinetics_row("good1", "videos/good1.mp4", label=1, start=1.0, end=2.0),
        kinetics_row("good2", "videos/good2.mp4", split="val"),
        kinetics_row("good3", "videos/good3.mp4", split="val", label=1),
        kinetics_row("undamaged", "videos/damaged.mp4", start=2.0, end=4.0),
        kinetics_row("leak", "videos/copy.mp4", label=1),
        kinetics_row("cut", "videos/cut.mp4"),
        kinetics_row("short", "videos/short.mkv", start=4.0, end=6.0),
        kinetics_row("beyond", "videos/good0.mp4", start=2.0, end=5.0),
        kinetics_row("damaged", "videos/damaged.mp4", start=0.0, end=2.0),
        kinetics_row("text", "videos/text.mp4"),
        kinetics_row("tiny", "videos/tiny.mp4"),
        kinetics_row("hangs", "videos/hangs.mp4"),
        kinetics_row("unfound", ""),
        kinetics_row("gone", "videos/none.mp4"),
        kinetics_row("label", "videos/good0.mp4", label=2),
        kinetics_row("negative", "videos/good0.mp4", label=-1),
        kinetics_row("backwards", "videos/good0.mp4", start=2.0, end=1.0),
        kinetics_row("split", "videos/good1.mp4", split="test"),
        kinetics_row("../escape", "videos/good1.mp4"),
        kinetics_row("good0", "videos/good1.mp4"),
    ]
    result = validate(settings(), ingested(root, rows), root / "validate")
    return root, result


def test_each_bad_row_is_quarantined_with_its_reason(mixed: tuple[Path, StageResult]) -> None:
    found = reasons(mixed[0] / "validate")
    expected = {
        "leak": "the same clip is in val (good3)",
        "cut": "cannot decode: not a readable video",
        "beyond": "the segment 2-5 s is after the end of the video (3.0 s)",
        "damaged": "6 of 20 frames are damaged",
        "text": "cannot decode: not a readable video",
        "tiny": "only 3 frames",
        "hangs": "cannot decode: took longer than 3 s",
        "unfound": "file missing",
        "gone": "file missing",
        "label": "label 2 is outside the 2 classes; the same clip as good0",
        "negative": "label -1 is below 0; the same clip as good0",
        "backwards": "the segment ends at 1 s, not after its start at 2 s",
        "split": "unknown split 'test'",
        "../escape": "the id '../escape' is not safe as a file name",
        "good0": "another row has the id 'good0'; the same clip as ../escape",
    }
    assert {id_: found[id_] for id_ in expected} == expected
    assert "is after the end of the video" in found["short"]
    assert set(found) == {*expected, "short"}


def test_every_row_is_accounted_for(mixed: tuple[Path, StageResult]) -> None:
    root, result = mixed
    rows = read_manifest(root / "ingest" / "manifest.parquet").rows
    good = read_manifest(root / "validate" / "manifest.parquet").rows
    assert result.metrics == {"good": 5, "quarantined": 16, "undecodable": 6}
    assert result.summary == "5 good, 16 quarantined"
    assert len(good) + len(pd.read_csv(root / "validate" / "quarantine.csv")) == len(rows)


def test_good_rows_have_their_number_of_frames(mixed: tuple[Path, StageResult]) -> None:
    good = read_manifest(mixed[0] / "validate" / "manifest.parquet").rows
    assert list(good["id"]) == ["good0", "good1", "good2", "good3", "undamaged"]
    assert list(good["frames"]) == [30, 10, 30, 30, 20]
    assert set(good["fps"]) == {10.0}
    assert {(row.width, row.height) for row in good.itertuples()} == {(64, 48)}
    assert good["path"].iloc[0] == "videos/good0.mp4"


def test_the_report_is_self_contained(mixed: tuple[Path, StageResult]) -> None:
    page = Path(mixed[1].outputs["report"]).read_text()
    assert "http" not in page
    assert "src=" not in page
    assert "cannot decode: took longer than 3 s" in page
    report = json.loads((mixed[0] / "validate" / "report.json").read_text())
    assert report["splits"] == {"train": 3, "val": 2}
    assert sum(check["bad"] for check in report["checks"]) >= report["quarantined"] == 16
    assert {kind["name"]: (kind["train"], kind["val"]) for kind in report["classes"]} == {
        "left": (2, 1),
        "right": (1, 1),
    }


def test_unchanged_input_is_not_validated_again(mixed: tuple[Path, StageResult]) -> None:
    again = validate(settings(), mixed[0] / "ingest", mixed[0] / "validate")
    assert again.status == "unchanged"
    assert again.digest == mixed[1].digest


@pytest.fixture
def good_videos(tmp_path: Path) -> Callable[..., Path]:
    def make(rows: list[dict[str, Any]]) -> Path:
        for number in range(2):
            write_video(tmp_path / "videos" / f"{number}.mp4", moving_frames(30, seed=number))
        return ingested(tmp_path, rows)

    return make


def test_too_many_bad_rows_stop_the_stage_in_one_line(tmp_path: Path, good_videos: Callable[..., Path]) -> None:
    rows = [kinetics_row("a", "videos/0.mp4"), kinetics_row("b", "videos/1.mp4", split="val")]
    folder = good_videos([*rows, kinetics_row("c", ""), kinetics_row("d", "")])
    with pytest.raises(InputError) as error:
        validate(settings(0.4), folder, tmp_path / "validate")
    text = str(error.value)
    rejected = tmp_path / "validate.rejected"
    assert "2 of 4 rows are bad (50.0%, allowed 40.0%), most often: file missing" in text
    assert str(rejected / "quarantine.csv") in text
    assert "\n" not in text
    assert reasons(rejected) == {"c": "file missing", "d": "file missing"}
    assert (rejected / "report.html").is_file()
    assert not (tmp_path / "validate").exists()
    validate(settings(0.5), folder, tmp_path / "validate")
    assert not rejected.exists()


def test_an_empty_split_stops_the_stage(tmp_path: Path, good_videos: Callable[..., Path]) -> None:
    folder = good_videos([kinetics_row("a", "videos/0.mp4"), kinetics_row("b", "", split="val")])
    with pytest.raises(InputError, match="split 'val' has no good row"):
        validate(settings(), folder, tmp_path / "validate")


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, good_videos: Callable[..., Path]) -> None:
    write_video(tmp_path / "outside.mp4", moving_frames(30))
    folder = good_videos([kinetics_row("a", "../outside.mp4"), kinetics_row("b", "videos/0.mp4", split="val")])
    with pytest.raises(InputError, match="leaves the data root"):
        validate(settings(), folder, tmp_path / "validate")


def test_ava_boxes_and_key_frames_are_checked(tmp_path: Path, good_videos: Callable[..., Path]) -> None:
    folder = good_videos(
        [
            ava_row("a", "videos/0.mp4", 1),
            ava_row("b", "videos/1.mp4", 1, split="val"),
            ava_row("a", "videos/0.mp4", 2, boxes=[(0.1, 0.1, 0.5, 0.9), (0.6, 0.1, 0.5, 0.9)]),
            ava_row("b", "videos/1.mp4", 2, split="val", boxes=[(0.1, 0.1, 1.5, 0.9)]),
            ava_row("a", "videos/0.mp4", 9),
            ava_row("b", "videos/1.mp4", 0, split="val", boxes=[]),
            {**ava_row("b", "videos/1.mp4", 3, split="val"), "box_labels": [[]], "labels": []},
        ]
    )
    result = validate(settings(format="ava"), folder, tmp_path / "validate")
    assert reasons(tmp_path / "validate") == {
        "a_0002": "1 of 2 boxes are outside [0, 1] or empty",
        "b_0002": "1 of 1 boxes are outside [0, 1] or empty",
        "a_0009": "the key frame at 9 s is after the end of the video (3.0 s)",
        "b_0000": "no boxes",
    }
    assert result.metrics["good"] == 3
    good = read_manifest(tmp_path / "validate" / "manifest.parquet").rows
    assert np.array_equal(good["boxes"][0][0], [0.1, 0.1, 0.5, 0.9])


def test_duplicate_content_is_quarantined_within_a_split_and_in_train(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for name in ("a", "b", "c"):
        write_video(videos / f"{name}.mp4", moving_frames(60, seed=ord(name)))
    for copy, name in (("a2", "a"), ("b2", "b"), ("c2", "c")):
        (videos / f"{copy}.mp4").write_bytes((videos / f"{name}.mp4").read_bytes())
    rows = [
        kinetics_row("first", "videos/a.mp4", start=0.0, end=2.0),
        kinetics_row("later", "videos/a.mp4", start=2.0, end=4.0),
        kinetics_row("again", "videos/a2.mp4", label=1, start=2.0, end=4.0),
        kinetics_row("held", "videos/b.mp4", split="val", start=1.0, end=3.0),
        kinetics_row("touches", "videos/b2.mp4", start=3.0, end=5.0),
        kinetics_row("overlaps", "videos/b2.mp4", start=2.5, end=4.5),
        kinetics_row("whole", "videos/c.mp4", split="val"),
        kinetics_row("part", "videos/c2.mp4", start=4.0, end=5.0),
    ]
    validate(settings(), ingested(tmp_path, rows), tmp_path / "validate")
    assert reasons(tmp_path / "validate") == {
        "again": "the same clip as later",
        "overlaps": "the same clip is in val (held)",
        "part": "the same clip is in val (whole)",
    }


def test_rows_beyond_the_limits_of_length_and_rate_are_quarantined(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_video(videos / "a.mp4", moving_frames(30))
    write_video(videos / "b.mp4", moving_frames(30, seed=1))
    write_video(videos / "fast.mp4", moving_frames(30, seed=2), fps=200)
    rows = [
        kinetics_row("a_000010_000014", "videos/a.mp4"),
        kinetics_row("b_000010_000020", "videos/b.mp4"),
        kinetics_row("fast", "videos/fast.mp4"),
        kinetics_row("val", "videos/b.mp4", split="val", start=0.5, end=1.0),
    ]
    rows[-1]["path"] = str(write_video(videos / "v.mp4", moving_frames(30, seed=3)).relative_to(tmp_path))
    validate(settings(limits={"max_fps": 120}), ingested(tmp_path, rows), tmp_path / "validate")
    assert reasons(tmp_path / "validate") == {
        "b_000010_000020": "only 30% of the expected length",
        "fast": "200 frames per second",
    }


def test_a_file_that_takes_too_much_memory_is_quarantined(tmp_path: Path, good_videos: Callable[..., Path]) -> None:
    write_video(tmp_path / "videos" / "huge.mp4", np.zeros((5, 4096, 4096, 3), np.uint8), gop=1, b_frames=0)
    rows = [kinetics_row("a", "videos/0.mp4"), kinetics_row("b", "videos/1.mp4", split="val")]
    folder = good_videos([*rows, kinetics_row("huge", "videos/huge.mp4")])
    validate(settings(limits={"decode_memory_mb": 300, "decode_timeout_seconds": 30}), folder, tmp_path / "validate")
    assert reasons(tmp_path / "validate") == {"huge": "cannot decode: took more than 300 MB of memory"}


def test_unbalanced_classes_give_warnings_or_are_refused(tmp_path: Path) -> None:
    for number in range(6):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_frames(30, seed=number))
    rows = [kinetics_row(str(number), f"videos/{number}.mp4", label=int(number == 3)) for number in range(6)]
    rows[5]["split"] = "val"
    folder = ingested(tmp_path, rows, labels=("left", "right", "up"))
    result = validate(settings(limits={"max_imbalance": 3}), folder, tmp_path / "validate")
    report = json.loads((tmp_path / "validate" / "report.json").read_text())
    assert result.summary == "6 good, 0 quarantined; 2 warnings in the report"
    assert report["warnings"] == [
        "'right': 0 good clips in val; the largest class has 4 times as many clips in train",
        "'up': 0 good clips in train; 0 good clips in val",
    ]
    with pytest.raises(InputError, match="2 classes violate the limits on class balance; 'right': 0 good clips in val"):
        validate(settings(limits={"class_balance": "refuse"}), folder, tmp_path / "refused")
    assert (tmp_path / "refused.rejected" / "report.html").is_file()


def test_coverage_counts_undecodable_rows(mixed: tuple[Path, StageResult]) -> None:
    coverage = json.loads((mixed[0] / "validate" / "coverage.json").read_text())
    everything = {"expected": 21, "present": 19, "missing": 2, "undecodable": 6, "quarantined": 16, "good": 5}
    assert {name: coverage[name] for name in everything} == everything
    assert coverage["by_split"]["val"] == {
        "expected": 2,
        "present": 2,
        "missing": 0,
        "undecodable": 0,
        "quarantined": 0,
        "good": 2,
    }
    assert coverage["by_class"]["left"]["undecodable"] == 6


def test_the_report_names_the_suites_that_checked_the_rows(tmp_path: Path, good_videos: Callable[..., Path]) -> None:
    """A format without its own suite is checked by the suite of Kinetics, and the report names it."""
    rows = [kinetics_row("a", "videos/0.mp4"), kinetics_row("b", "videos/1.mp4", split="val")]
    validate(settings(format="folders", source=str(tmp_path)), good_videos(rows), tmp_path / "validate")
    report = json.loads((tmp_path / "validate" / "report.json").read_text())
    assert report["suites"] == ["common", "kinetics"]
