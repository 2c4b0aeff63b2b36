"""The Python API, used from an empty folder: `import slowfast_core as sf; sf.load(MODEL).predict(VIDEO)`."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_predict import LABELS, checkpoint, registered, root, video  # noqa: F401  (fixtures)

import slowfast_core as sf
from slowfast_core.errors import InputError
from slowfast_core.serving import classifier
from slowfast_core.serving.predict import predict
from slowfast_core.workspace import Workspace

# What the docstring of `load` shows, with the names of the test's model and video.
NAMES = {"models:/slowfast-demo@champion": "models:/slowfast-tiny@champion"}


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )


def example() -> str:
    """The code of the example in the docstring."""
    return "".join(part.source for part in doctest.DocTestParser().get_examples(classifier.load.__doc__ or ""))


def test_example_of_the_docstring_runs_in_an_empty_folder(
    video: Path,  # noqa: F811
    registered: Workspace,  # noqa: F811
    tmp_path: Path,
) -> None:
    code = example().replace("clip.mp4", str(video))
    for shown, name in NAMES.items():
        assert shown in code
        code = code.replace(shown, name)
    done = python(code, tmp_path, SLOWFAST_WORKSPACE=str(registered.root))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(line.split("% ")[1] for line in lines) == sorted(LABELS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["models:/slowfast-tiny@champion", "models:/slowfast-tiny/1", "folder"])
def test_predictions_equal_those_of_the_command(
    model: str,
    video: Path,  # noqa: F811
    checkpoint: Path,  # noqa: F811
    registered: Workspace,  # noqa: F811
) -> None:
    loaded = sf.load(checkpoint if model == "folder" else model, workspace=registered.root)
    (expected,) = predict([video], str(checkpoint), registered)
    predictions = loaded.predict(video)
    assert [{"label": each.label, "score": each.score} for each in predictions] == expected["top"]
    assert loaded.predict(str(video), top=1) == predictions[:1]
    assert loaded.labels == tuple(LABELS)


def test_missing_video_and_model_raise_input_errors(
    checkpoint: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="no such video"):
        sf.load(checkpoint).predict(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="no model registry"):
        sf.load("models:/slowfast-tiny@champion", workspace=tmp_path)


def test_detection_model_raises_one_clear_error(
    checkpoint: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    record = json.loads((checkpoint / "checkpoint.json").read_text())
    record["model"]["head"] = "detect"
    (tmp_path / "checkpoint.json").write_text(json.dumps(record))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="needs boxes of people") as error:
        sf.load(tmp_path)
    assert "\n" not in str(error.value)


def test_unknown_attributes_raise_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        sf.nothing  # noqa: B018
    assert {"load", "Classifier", "Prediction", "__version__"} <= set(dir(sf))
