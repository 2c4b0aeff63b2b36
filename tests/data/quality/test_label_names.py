"""Validation warns of class names that look like typing errors, and only of those."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_validate import settings
from videos import ingested, kinetics_row, moving_frames, write_video

from slowfast_core.data.quality.label_names import doubtful_names
from slowfast_core.stages.validate import validate

MANY = 50  # clips of a regular class


@pytest.mark.parametrize(
    ("name", "typo", "clips"),
    [
        ("arm wrestling", "arm_wrestling", MANY),
        ("arm wrestling", "Arm Wrestling", MANY),
        ("arm wrestling", "armwrestling", MANY),
        ("jumping", "jumpng", 1),
        ("jumping", "jumpinng", 5),
        ("arm wrestling", "arm wrestlng", MANY),
        ("playing guitar", "plying guitar", MANY),
        ("run", "Run ", 2),
    ],
)
def test_the_warning_of_a_typo_names_the_similar_class(name: str, typo: str, clips: int) -> None:
    (warning,) = doubtful_names({typo: clips, name: MANY + 1, "something else": MANY})
    count = "1 clip" if clips == 1 else f"{clips} clips"
    assert warning == f"class {typo!r} ({count}) is similar to {name!r} ({MANY + 1}): is it the same class?"


def test_a_class_with_one_clip_gives_a_warning() -> None:
    assert doubtful_names({"swimming": 1, "jumping": MANY}) == ["class 'swimming' has a single clip"]


# The most similar class names of Kinetics-400, Something-Something, UCF101 and HMDB51.
DIFFERENT = """
washing feet, washing hair, washing hands, washing dishes, eating cake, eating carrots, eating chips,
pull ups, push up, situp, high jump, long jump, triple jump, high kick, side kick, drop kicking,
throwing axe, throwing ball, throwing discus, catching or throwing frisbee, catching or throwing softball,
playing bass guitar, playing guitar, playing clarinet, playing cornet, playing cymbals, playing drums,
braiding hair, brushing hair, curling hair, dying hair, fixing hair, making a cake, making tea,
skiing crosscountry, skiing slalom, ski jumping, surfing water, surfing crowd, waxing back, waxing legs,
swimming backstroke, swimming breast stroke, swimming butterfly stroke, walk, talk, ride_bike, run, class_1,
class_2, class_10, class_11, 0, 1, 2, 10
"""


def test_class_names_of_real_data_sets_give_no_warning() -> None:
    assert doubtful_names(dict.fromkeys(re.split(r",\s*", DIFFERENT.strip()), MANY)) == []


@pytest.mark.parametrize("from_rows", [True, False])
def test_validation_prints_the_first_warning_and_their_number(tmp_path: Path, from_rows: bool) -> None:
    labels = ("jumping", "Jumping", "swimming")
    rows = []
    for number, (label, split) in enumerate([(0, "train"), (0, "val"), (1, "train"), (0, "train"), (2, "val")]):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_frames(30, seed=number))
        rows.append(kinetics_row(str(number), f"videos/{number}.mp4", label=label, split=split))
    folder = ingested(tmp_path, rows, labels=labels)
    named = {"source": "/data"} | ({} if from_rows else {"labels": "names.txt"})
    limits = {"min_class_clips": 0, "min_length_share": 0}
    summary = validate(settings(limits=limits, **named), folder, tmp_path / "validate").summary
    shown = "; 2 warnings in the report: class 'Jumping' (1 clip) is similar to 'jumping' (3): is it the same class?"
    assert summary == "5 good, 0 quarantined" + (shown if from_rows else "")
