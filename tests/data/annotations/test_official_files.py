"""Published annotation files are processed by ingest, validate and extract, up to the clip store and coverage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import moving_frames, psnr, write_video

from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.data.video.decoding import pick_frames, probe
from slowfast_core.errors import InputError
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Clip, Data, load_recipe
from slowfast_core.stages.extract import extract
from slowfast_core.stages.flow import STAGE_FUNCTIONS
from slowfast_core.stages.ingest import ingest
from slowfast_core.stages.validate import validate
from slowfast_core.workspace import Workspace

STORE = {"short_side": 0}


def manifest_of_store(data: Data, at: Path) -> Manifest:
    ingest(data, at / "generated", at / "ingest")
    validate(data, at / "ingest", at / "validate")
    extract(data, Clip(), at / "ingest", at / "validate", at / "extract", workers=1)
    return read_manifest(at / "extract" / "store" / "manifest.parquet")


def write_frames(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(moving_frames(count, seed=seed), start=1):
        Image.fromarray(frame).save(folder / f"{number:05d}.jpg", quality=95)


@pytest.fixture
def something_v1(tmp_path: Path) -> Path:
    """Four videos of 10 to 13 frames in the layout of Something-Something V1."""
    root = tmp_path / "source"
    for video in range(4):
        write_frames(root / "20bn-something-something-v1" / str(video), 10 + video, video)
    (root / "labels.csv").write_text("Bending something\nHolding something\n")
    (root / "train.csv").write_text("0;Bending something\n1;Holding something\n9;Holding something\n")
    (root / "validation.csv").write_text("2;Bending something\n3;Holding something\n")
    return root


def v1_data(source: Path | str, **fields: object) -> Data:
    tree = {"name": "v1", "format": "something", "source": str(source), "labels": "labels.csv", "frame_rate": 12}
    tree |= {"annotations": {"train": "train.csv", "val": "validation.csv"}, "store": STORE}
    return Data.model_validate(tree | fields)


def test_folders_of_frames_become_clips(something_v1: Path, tmp_path: Path) -> None:
    data = v1_data(something_v1, validation={"max_bad_share": 0.3})
    rows = manifest_of_store(data, tmp_path / "at").rows.set_index("id")
    assert rows["frames"].to_dict() == {"0": 10, "1": 11, "2": 12, "3": 13}
    assert {label: list(of) for label, of in rows["labels"].items()} == {"0": [0], "1": [1], "2": [0], "3": [1]}
    clip = tmp_path / "at" / "extract" / "store" / rows.loc["3", "path"]
    assert probe(clip).fps == pytest.approx(12)
    frames = pick_frames(clip, range(13))
    for frame, original in zip(frames, moving_frames(13, seed=3), strict=True):
        assert psnr(frame, original) > 30
    coverage = json.loads((tmp_path / "at" / "ingest" / "coverage.json").read_text())
    assert (coverage["expected"], coverage["present"], coverage["missing_videos"]) == (5, 4, ["9"])
    assert coverage["by_class"]["Holding something"] == {"expected": 3, "present": 2, "missing": 1}
    (ingested,) = (tmp_path / "at" / "ingest" / "videos").iterdir()
    assert len(list((ingested / "0").iterdir())) == 11  # the frames and their rate


def test_folders_of_frames_in_a_bucket_are_ingested_like_local_ones(
    something_v1: Path, upload: Callable[..., str], s3: str, tmp_path: Path
) -> None:
    local = ingest(v1_data(something_v1), tmp_path, tmp_path / "local" / "ingest")
    remote = ingest(v1_data(upload(something_v1), endpoint_url=s3), tmp_path, tmp_path / "remote" / "ingest")
    assert (remote.digest, remote.summary) == (local.digest, local.summary)
    assert local.summary.endswith("4 of 5 videos (0.1 MB), 1 missing; 46 copied, 0 kept")
    (something_v1 / "20bn-something-something-v1" / "0" / "00003.jpg").write_bytes(b"another picture")
    again = ingest(v1_data(something_v1), tmp_path, tmp_path / "local" / "ingest")
    assert again.summary.endswith("1 copied, 45 kept")
    assert again.digest != local.digest


def test_a_folder_with_a_missing_frame_is_quarantined(something_v1: Path, tmp_path: Path) -> None:
    (something_v1 / "20bn-something-something-v1" / "1" / "00004.jpg").unlink()
    ingest(v1_data(something_v1), tmp_path, tmp_path / "at" / "ingest")
    with pytest.raises(InputError, match=r"2 of 5 rows are bad \(40\.0%, allowed 5\.0%\)"):
        validate(v1_data(something_v1), tmp_path / "at" / "ingest", tmp_path / "at" / "validate")
    quarantine = (tmp_path / "at" / "validate.rejected" / "quarantine.csv").read_text()
    assert "1,1,train,cannot decode: no frame 4\n" in quarantine
    assert "9,9,train,file missing\n" in quarantine


@pytest.mark.parametrize("annotated", ["folders", "list", "something_v2"])
def test_three_formats_give_the_same_rows(annotated: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, label in enumerate(("push", "pull", "push", "pull")):
        folder = source / ("train" if number < 2 else "val") / label
        folder.mkdir(parents=True)
        (folder / f"{number}.mp4").write_bytes(b"not decoded by ingest")
    tree: dict[str, object] = {"name": "own", "source": str(source), "store": STORE, "format": annotated}
    annotations = {"train": "train.txt", "val": "val.txt"}
    if annotated == "list":
        (source / "train.txt").write_text("train/push/0.mp4 1\ntrain/pull/1.mp4 0\n")
        (source / "val.txt").write_text("val/push/2.mp4 1\nval/pull/3.mp4 0\n")
        tree["annotations"] = annotations
    if annotated == "something_v2":
        (source / "labels.json").write_text('{"pull": "0", "push": "1"}')
        (source / "train.txt").write_text('[{"id": "0", "template": "[push]"}, {"id": "1", "template": "pull"}]')
        (source / "val.txt").write_text('[{"id": "2", "template": "[push]"}, {"id": "3", "template": "pull"}]')
        tree |= {"format": "something", "annotations": annotations, "labels": "labels.json"}
    ingest(Data.model_validate(tree), tmp_path, tmp_path / "ingest")
    rows = read_manifest(tmp_path / "ingest" / "manifest.parquet").rows
    assert sorted((row.path, row.split, int(row.labels[0])) for row in rows.itertuples()) == [
        ("videos/train/pull/1.mp4", "train", 0),
        ("videos/train/push/0.mp4", "train", 1),
        ("videos/val/pull/3.mp4", "val", 0),
        ("videos/val/push/2.mp4", "val", 1),
    ]


CHARADES = """
name: charades
data:
  name: charades
  format: charades
  source: {source}
  annotations: {{train: train.csv, val: test.csv}}
  labels: classes.txt
  store: {{short_side: 0}}
clip: {{T: 2, tau: 4, alpha: 2}}
model: {{depth: 18, width: 8, beta: 0.25, classes: 3, multi_label: true}}
train: {{epochs: 1, batch: 4, learning_rate: 0.02, warmup_epochs: 0, jitter: [32, 36], crop: 32}}
evaluate: {{clips: 2, crops: 3, size: 32, aggregation: max}}
register: {{model: charades}}
"""


@pytest.fixture
def charades(tmp_path: Path) -> Path:
    """A recipe and eight videos of 3 s: class 0 in the first second, class 1 in the last, or no action at all."""
    source = tmp_path / "source"
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(8):
        write_video(source / "Charades_v1_480" / f"V{number}.mp4", moving_frames(30, seed=number))
        actions = "" if number == 7 else "c000 0.00 1.00;c001 2.00 3.00" if number % 2 else "c000 0.00 1.00"
        row = f'V{number},S,Kitchen,6,7,Yes,"a, b",cup,"c; d",{actions},3.00\n'
        rows["train" if number < 4 else "test"].append(row)
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    for name, lines in rows.items():
        (source / f"{name}.csv").write_text(header + "".join(lines))
    (source / "classes.txt").write_text("c000 Holding some clothes\nc001 Putting them\nc002 Never seen\n")
    (tmp_path / "charades.yaml").write_text(CHARADES.format(source=source))
    return tmp_path


def test_charades_videos_keep_their_action_times_or_have_none(charades: Path) -> None:
    data = load_recipe(str(charades / "charades.yaml")).data
    rows = manifest_of_store(data, charades / "at").rows.set_index("id")
    assert [list(span) for span in rows.loc["V1", "spans"]] == [[0, 0.0, 1.0], [1, 2.0, 3.0]]
    assert (list(rows.loc["V7", "labels"]), list(rows.loc["V7", "spans"])) == ([], [])


@pytest.mark.exhaustive
def test_charades_runs_from_its_csv_to_registration(charades: Path) -> None:
    at, recipe = Workspace(charades / "workspace"), load_recipe(str(charades / "charades.yaml"))
    results: dict[str, StageResult] = {name: stage(recipe, at) for name, stage in STAGE_FUNCTIONS.items()}
    assert results["evaluate"].metrics.keys() == {"mAP", "mAP_low", "mAP_high", "ece"}
    assert 0 < results["evaluate"].metrics["mAP"] <= 1
    assert results["register"].status == "done"
    page = (at.run("charades", "evaluate") / "report.html").read_text()
    assert "1 of them have no action" in page
    assert "Never seen" in page


def test_max_aggregation_scores_by_the_largest_view(charades: Path) -> None:
    """For each class, the largest score of the views exceeds their mean."""
    from slowfast_core.evaluation.scoring import Scorer
    from slowfast_core.model.build import build_model
    from slowfast_core.model.weights import save_weights, weights_digest

    recipe = load_recipe(str(charades / "charades.yaml"))
    folder = charades / "checkpoint"
    folder.mkdir()
    weights = build_model(recipe.model, recipe.clip).state_dict()
    save_weights(folder / "model.safetensors", weights)
    record = {"labels": ["a", "b", "c"], "weights_digest": weights_digest(weights)}
    (folder / "checkpoint.json").write_text(json.dumps({**json.loads(recipe.to_json()), **record}))
    video = charades / "source" / "Charades_v1_480" / "V0.mp4"
    scores = {
        how: Scorer(folder, recipe.evaluate.model_copy(update={"aggregation": how})).score_video(video)
        for how in ("mean", "max")
    }
    assert scores["max"].shape == (3,)
    assert np.all(scores["max"] > scores["mean"])
