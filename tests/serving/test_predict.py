"""Predictions of a tiny network for a real video, from a checkpoint folder and from the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from predicted import classified

from slowfast_core.errors import InputError
from slowfast_core.evaluation.operating_points import (
    OperatingPoints,
    choose_operating_points,
    write_operating_points,
)
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.once import StageResult, read_result
from slowfast_core.recipe.load import parse_recipe
from slowfast_core.serving.predict import predict
from slowfast_core.stages.register import register
from slowfast_core.tracking.registry import download_version
from slowfast_core.tracking.runs import open_run
from slowfast_core.workspace import Workspace

RECIPE = parse_recipe(
    {
        "name": "tiny",
        "data": {"name": "motion"},
        "clip": {"T": 2, "tau": 4, "alpha": 2},
        "model": {"depth": 18, "width": 8, "beta": 0.25, "lateral_kernel": 3, "classes": 4},
        "evaluate": {"clips": 2, "crops": 1, "size": 32},
        "register": {"model": "slowfast-tiny"},
    }
)
LABELS = ["left", "right", "up"]  # the network has one more output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def video(root: Path) -> Path:
    path = root / "video.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Path:
    """The folder of a finished training, tracked in `root`."""
    at, folder = Workspace(root), root / "train"
    folder.mkdir()
    with open_run(RECIPE.tracking, at, "train", "train") as run:
        pass
    torch.manual_seed(0)
    weights = build_model(RECIPE.model, RECIPE.clip).state_dict()
    save_weights(folder / "model.safetensors", weights)
    digest = weights_digest(weights)
    record = {"labels": LABELS, "data_version": "d", "parent_checkpoint": None, "run_id": run.id}
    record["weights_digest"] = digest
    (folder / "checkpoint.json").write_text(json.dumps({**json.loads(RECIPE.to_json()), **record}))
    finished(folder, StageResult(stage="train", weights_digest=digest, data_version="d"))
    (folder / "run.json").write_text(json.dumps({"run_id": run.id}))
    return folder


@pytest.fixture
def points(root: Path, checkpoint: Path, video: Path) -> OperatingPoints:
    """Operating points by which the best class of the video is accepted."""
    (prediction,) = predict([video], str(checkpoint), Workspace(root))
    best = LABELS.index(prediction["top"][0]["label"])
    digest = json.loads((checkpoint / "checkpoint.json").read_text())["weights_digest"]
    scores = np.tile(np.eye(3)[best] * 0.2 + 0.3, (20, 1))
    return choose_operating_points(classified(scores, [[best]] * 20, LABELS, weights_digest=digest), 0.9)


def test_a_class_is_accepted_by_its_threshold(
    root: Path, checkpoint: Path, video: Path, points: OperatingPoints
) -> None:
    at, path = Workspace(root), root / "points.json"
    (plain,) = predict([video], str(checkpoint), at, 3)
    best = plain["top"][0]["label"]

    def decided(threshold: float | None, temperature: float) -> dict[str, Any]:
        classes = tuple(each.model_copy(update={"threshold": threshold}) for each in points.classes)
        changed = points.model_copy(update={"classes": classes, "temperature": temperature})
        write_operating_points(path, changed)
        (prediction,) = predict([video], str(checkpoint), at, 3, path)
        return prediction

    assert "accepted" not in plain
    assert decided(0.0, 1.0)["accepted"] == [best]
    assert decided(1.0, 1.0)["accepted"] == decided(None, 1.0)["accepted"] == []
    hot, cold = decided(0.0, 5.0)["top"], decided(0.0, 0.2)["top"]
    assert [guess["label"] for guess in hot] == [guess["label"] for guess in cold] == [g["label"] for g in plain["top"]]
    assert hot[0]["score"] < cold[0]["score"]
    assert sum(guess["score"] for guess in hot) == pytest.approx(1, abs=1e-5)


def test_the_command_prints_none_of_these(root: Path, checkpoint: Path, video: Path, points: OperatingPoints) -> None:
    classes = tuple(each.model_copy(update={"threshold": None}) for each in points.classes)
    write_operating_points(root / "points.json", points.model_copy(update={"classes": classes}))
    command = [str(Path(sys.executable).with_name("slowfast")), "predict", str(video), "--model", str(checkpoint)]
    command += ["--operating-points", str(root / "points.json"), "--workspace", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "  accepted: none of these"


def test_operating_points_of_other_weights_are_refused(
    root: Path, checkpoint: Path, video: Path, points: OperatingPoints
) -> None:
    for other in (
        points.model_copy(update={"weights_digest": "sha256:other"}),
        points.model_copy(update={"classes": points.classes[:2]}),
    ):
        write_operating_points(root / "points.json", other)
        with pytest.raises(InputError, match="operating points of other weights"):
            predict([video], str(checkpoint), Workspace(root), 3, root / "points.json")


@pytest.fixture(scope="module")
def registered(root: Path, checkpoint: Path) -> Workspace:
    evaluation = root / "evaluate"
    evaluation.mkdir()
    (evaluation / "run.json").write_text((checkpoint / "run.json").read_text())
    digest = read_result(checkpoint).weights_digest
    measured = {"top1": 0.5, "samples": 100, "lower_bound": 0.4, "chance": 0.25}
    (evaluation / "metrics.json").write_text(json.dumps(measured))
    finished(evaluation, StageResult(stage="evaluate", weights_digest=digest, data_version="d", metrics={"top1": 0.5}))
    register(RECIPE, checkpoint, evaluation, root / "register", Workspace(root))
    return Workspace(root)


def finished(folder: Path, result: StageResult) -> None:
    result = result.model_copy(update={"versions": {result.stage: 1}})
    (folder / "stage.json").write_text(json.dumps({"key": folder.name, **result.model_dump()}))


def test_checkpoint_and_registered_model_agree(video: Path, checkpoint: Path, registered: Workspace) -> None:
    (answer,) = predict([video], str(checkpoint), registered)
    assert answer["video"] == str(video)
    assert {best["label"] for best in answer["top"]} == set(LABELS)
    scores = [best["score"] for best in answer["top"]]
    assert scores == sorted(scores, reverse=True)
    for model in ("models:/slowfast-tiny@champion", "models:/slowfast-tiny/1"):
        assert predict([video], model, registered) == [answer]
    (short,) = predict([video], str(checkpoint), registered, top=1)
    assert short["top"] == answer["top"][:1]


def test_pyfunc_works_in_a_process_with_mlflow_only(
    video: Path, checkpoint: Path, registered: Workspace, tmp_path: Path
) -> None:
    model = download_version("models:/slowfast-tiny@champion", registered.tracking_uri, tmp_path / "model").folder
    code = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(pandas.DataFrame({"video": [sys.argv[2]]}))
import slowfast_core
print(slowfast_core.__file__)
print(answer.to_json(orient="records"))
"""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-c", code, str(model), str(video)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    package, answer = ran.stdout.strip().splitlines()[-2:]
    assert package.startswith(str(model))  # the registered code, not the installed package
    (row,) = json.loads(answer)
    (expected,) = predict([video], str(checkpoint), registered)
    assert json.loads(row["top"]) == expected["top"]
    assert {"label": row["label"], "score": row["score"]} == expected["top"][0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/nothing@champion", "no such model"),
        ("models:/slowfast-tiny@unknown", "no such model"),
        ("models:/slowfast-tiny/99", "no such model"),
        ("models:/slowfast-tiny", "is not a model version"),
        ("nowhere", "no model.safetensors"),
    ],
)
def test_unknown_model_is_one_line(video: Path, registered: Workspace, model: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        predict([video], model, registered)
    assert "\n" not in str(error.value)


def test_missing_video_and_missing_registry_are_one_line(video: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such video"):
        predict([tmp_path / "none.mp4"], str(checkpoint), Workspace(tmp_path))
    with pytest.raises(InputError, match="no model registry"):
        predict([video], "models:/slowfast-tiny@champion", Workspace(tmp_path))


def test_detection_model_is_refused(video: Path, checkpoint: Path, tmp_path: Path) -> None:
    record = json.loads((checkpoint / "checkpoint.json").read_text())
    record["model"]["head"] = "detect"
    (tmp_path / "checkpoint.json").write_text(json.dumps(record))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="needs boxes of people"):
        predict([video], str(tmp_path), Workspace(tmp_path))
