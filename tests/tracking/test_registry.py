from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from safetensors.numpy import save_file

from slowfast_core.data.manifest import SCHEMA, Manifest
from slowfast_core.errors import InputError
from slowfast_core.model.folder import LEARNED_FROM, checkpoint_of, load_verified
from slowfast_core.model.weights import weights_digest
from slowfast_core.once import StageResult, read_result
from slowfast_core.recipe.load import Register, parse_recipe
from slowfast_core.serving.predict import predict
from slowfast_core.tracking import registry, turns
from slowfast_core.tracking.gate import Decision
from slowfast_core.tracking.lineage import Lineage, missing
from slowfast_core.tracking.registry import download_version
from slowfast_core.tracking.runs import connect
from slowfast_core.training.overlap import check_overlap, write_learned_from

if TYPE_CHECKING:
    from flows import Flow

NAME = "slowfast-tiny"
RegisterWeights = Callable[[str, float], StageResult]


def aliases(flow: Flow) -> dict[str, int]:
    found = connect(flow.at.tracking_uri).get_registered_model(NAME).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_first_version_is_champion_with_its_lineage(flow: Flow, registered: RegisterWeights) -> None:
    result = registered("w1", 0.5)
    assert result.summary == "slowfast-tiny v1: champion (no champion before)"
    assert result.weights_digest == read_result(flow.root / "train-w1").weights_digest
    assert result.data_version == "0123456789abcdef0123456789abcdef.dir"
    assert result.metrics == {"top1": 0.5, "top5": 1.0}
    with open(result.outputs["version"]) as file:
        record = json.load(file)
    assert record["uri"] == "models:/slowfast-tiny/1"
    assert record["aliases"] == ["challenger", "champion"]

    files = download_version(f"models:/{NAME}@champion", flow.at.tracking_uri, flow.root / "got").folder / "artifacts"
    assert sorted(path.name for path in files.iterdir()) == ["checkpoint.json", "lineage.json", "model.safetensors"]
    lineage = Lineage.model_validate_json((files / "lineage.json").read_text())
    assert missing(lineage) == []
    assert lineage.stage_versions == {"train": 1, "evaluate": 1}
    assert lineage.parent_checkpoint == "none"
    client = connect(flow.at.tracking_uri)
    version = client.get_model_version(NAME, "1")
    assert version.run_id == lineage.training_run
    assert version.tags["metric_top1"] == "0.5"
    assert version.tags["stage_versions"] == "train 1, evaluate 1"
    assert version.tags["code_revision"] == lineage.code_revision
    assert client.get_run(version.run_id).info.status == "FINISHED"


def test_only_a_better_version_becomes_champion(flow: Flow, registered: RegisterWeights) -> None:
    registered("w1", 0.5)
    worse = registered("w2", 0.4)
    assert worse.summary == "slowfast-tiny v2: challenger (top1 0.4000 does not beat the champion's 0.5000)"
    assert aliases(flow) == {"champion": 1, "challenger": 2}
    better = registered("w3", 0.6)
    assert better.summary == "slowfast-tiny v3: champion (top1 0.6000 beats the champion's 0.5000)"
    assert aliases(flow) == {"champion": 3, "challenger": 3}
    client = connect(flow.at.tracking_uri)
    tags = [client.get_model_version(NAME, str(number)).tags for number in (1, 2, 3)]
    assert [(each["decision"], each["decision_reason"]) for each in tags] == [
        ("champion", "no champion before"),
        ("challenger", "top1 0.4000 does not beat the champion's 0.5000"),
        ("champion", "top1 0.6000 beats the champion's 0.5000"),
    ]


def test_other_evaluation_data_is_reported(flow: Flow, registered: RegisterWeights) -> None:
    registered("w1", 0.5)
    result = flow.register(flow.train("w2"), flow.evaluate("w2", 0.6, data_version="f" * 32))
    assert result.summary.endswith("champion's 0.5000, which was evaluated on other data (0123456789ab))")


def test_same_weights_get_one_version(flow: Flow) -> None:
    training = flow.train("w1")
    assert flow.register(training, flow.evaluate("w1", 0.5)).status == "done"
    assert flow.register(training, flow.root / "evaluate-w1").status == "unchanged"
    again = flow.register(training, flow.evaluate("w1", 0.7, name="again"))
    assert again.summary == "slowfast-tiny v1: champion (already the champion)"
    (version,) = connect(flow.at.tracking_uri).search_model_versions(f"name = '{NAME}'")
    assert version.tags["metric_top1"] == "0.7"


def test_the_gain_of_the_recipe_is_required(flow: Flow, registered: RegisterWeights) -> None:
    registered("w1", 0.5)
    recipe = flow.recipe.model_copy(update={"register_": Register(model=NAME, min_gain=0.2)})
    result = flow.register(flow.train("w2"), flow.evaluate("w2", 0.6), recipe)
    assert "does not beat the champion's 0.5000 by more than 0.2" in result.summary


@pytest.mark.parametrize(
    ("top1", "samples", "reason"),
    [
        (1.0, 2, "top1 1.0000 is measured on 2 samples, register.floor needs 20"),
        (0.15, 100, "top1 0.1500 is not above chance: the 95 % interval begins at 0.1200, chance is 0.1250"),
    ],
)
def test_a_model_below_the_floor_does_not_become_champion(flow: Flow, top1: float, samples: int, reason: str) -> None:
    training, evaluation = flow.train("w1"), flow.evaluate("w1", top1, samples=samples)
    assert flow.register(training, evaluation).summary == f"slowfast-tiny v1: challenger ({reason})"
    assert aliases(flow) == {"challenger": 1}
    tags = connect(flow.at.tracking_uri).get_model_version(NAME, "1").tags
    assert (tags["decision"], tags["decision_reason"]) == ("challenger", reason)
    anything = flow.recipe.model_copy(update={"register_": Register(model=NAME, floor=None)})
    assert flow.register(training, evaluation, anything).summary == "slowfast-tiny v1: champion (no champion before)"


@pytest.mark.parametrize(("other", "champion"), [(0.75, 2), pytest.param(0.55, 1, marks=pytest.mark.exhaustive)])
def test_a_process_suspended_during_its_turn_decides_again(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, other: float, champion: int
) -> None:
    """After its decision and before it sets the alias, another process considers it dead and becomes champion."""
    suspended = flow.train("suspended"), flow.evaluate("suspended", 0.65)
    running = flow.train("running"), flow.evaluate("running", other)
    decide = registry._decide
    monkeypatch.setattr(turns, "PATIENCE", 0.3)

    def decide_and_suspend(*arguments: Any) -> Decision:
        decision = decide(*arguments)
        monkeypatch.setattr(registry, "_decide", decide)
        assert flow.register(*running, folder="other").summary == "slowfast-tiny v2: champion (no champion before)"
        return decision

    monkeypatch.setattr(registry, "_decide", decide_and_suspend)
    result = flow.register(*suspended)
    assert aliases(flow)["champion"] == champion
    expected = {
        1: "v1: champion (no champion before)",
        2: "v1: challenger (top1 0.6500 does not beat the 0.7500 of v2, which was promoted meanwhile)",
    }
    assert result.summary == f"slowfast-tiny {expected[champion]}"


def test_changed_artifacts_of_a_version_are_refused(flow: Flow, registered: RegisterWeights) -> None:
    registered("w1", 0.5)
    (artifacts,) = (path.parent for path in flow.at.artifacts.rglob("checkpoint.json"))
    weights, config = artifacts / "model.safetensors", artifacts / "checkpoint.json"
    recorded = json.loads(config.read_text())["weights_digest"]
    save_file({"w": np.ones(2, dtype=np.float32)}, weights)
    got = download_version(f"models:/{NAME}/1", flow.at.tracking_uri, flow.root / "got").folder / "artifacts"
    with pytest.raises(InputError, match=rf"weights were changed: .* recorded {recorded} \(.*/model\.safetensors"):
        load_verified(got)
    changed = weights_digest({"w": torch.ones(2)})
    config.write_text(config.read_text().replace(recorded, changed))
    refusal = f"the weights differ from the registered ones: .* {changed}, .* tagged with {recorded}"
    with pytest.raises(InputError, match=refusal), checkpoint_of(f"models:/{NAME}@champion", flow.at):
        pass


def test_a_registered_model_records_its_training_videos(flow: Flow) -> None:
    """A training that starts from it cannot evaluate on them, as with the folder of the training."""
    training = flow.train("w1")
    rows = [
        {"id": video, "video": video, "split": split, "labels": [0], "sha256": video}
        for video, split in (("seen", "train"), ("held out", "val"))
    ]
    write_learned_from(training, Manifest(pd.DataFrame(rows, columns=SCHEMA.names, dtype=object), ("class",)), None)
    flow.register(training, flow.evaluate("w1", 0.5))
    got = download_version(f"models:/{NAME}@champion", flow.at.tracking_uri, flow.root / "got").folder / "artifacts"
    assert (got / LEARNED_FROM).read_bytes() == (training / LEARNED_FROM).read_bytes()
    swapped = [{**row, "split": "val"} for row in rows[:1]]
    seen = Manifest(pd.DataFrame(swapped, columns=SCHEMA.names, dtype=object), ("class",))
    with pytest.raises(InputError, match="the start weights were trained on 1 of the 1 val clips, such as 'seen'"):
        check_overlap(flow.recipe, seen, got)


def test_a_detection_model_is_registered_without_a_python_function(flow: Flow) -> None:
    model = {**json.loads(flow.recipe.to_json())["model"], "head": "detect"}
    data = {"name": "people", "format": "ava"}
    recipe = parse_recipe({**json.loads(flow.recipe.to_json()), "data": data, "model": model})
    training, evaluation = flow.train("w1", model=model), flow.evaluate("w1", 0.5)
    stage = json.loads((evaluation / "stage.json").read_text())
    (evaluation / "stage.json").write_text(json.dumps({**stage, "metrics": {"mAP": 0.5}}))
    assert flow.register(training, evaluation, recipe).summary == "slowfast-tiny v1: champion (no champion before)"
    folder = download_version(f"models:/{NAME}/1", flow.at.tracking_uri, flow.root / "got").folder
    assert {path.name for path in folder.iterdir()} >= {"MLmodel", "artifacts"}
    described = yaml.safe_load((folder / "MLmodel").read_text())
    assert described.get("flavors", {}) == {}
    assert "signature" not in described
    with pytest.raises(MlflowException, match='does not have the "python_function" flavor'):
        mlflow.pyfunc.load_model(str(folder))
    video = flow.root / "video.mp4"
    video.touch()
    with pytest.raises(InputError, match=r"this model needs boxes of people.*models:/slowfast-tiny@champion"):
        predict([video], f"models:/{NAME}@champion", flow.at)


def test_lineage_has_the_recipe_of_the_training(flow: Flow) -> None:
    training, evaluation = flow.train("w1"), flow.evaluate("w1", 0.5)
    edited = flow.recipe.model_copy(update={"seed": 7})
    result = flow.register(training, evaluation, edited)
    with open(result.outputs["lineage"]) as file:
        lineage = Lineage.model_validate_json(file.read())
    assert lineage.seed == 0
    assert "seed: 0" in lineage.recipe


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"run_id": "0" * 32}, "code_revision, packages, image, training_run"),
        ({"data_version": "absent"}, "data_version"),
        ({"parent_checkpoint": "absent"}, "parent_checkpoint"),
    ],
)
def test_incomplete_lineage_is_refused_with_the_missing_fields(flow: Flow, changes: dict[str, Any], named: str) -> None:
    training, evaluation = flow.train("w1", **changes), flow.evaluate("w1", 0.5)
    with pytest.raises(InputError, match=f"lineage is incomplete: {named} "):
        flow.register(training, evaluation)
    assert connect(flow.at.tracking_uri).search_registered_models() == []


def test_evaluation_of_other_weights_is_refused(flow: Flow) -> None:
    with pytest.raises(InputError, match=r"other weights were evaluated \(([0-9a-f]{64})\)") as refused:
        flow.register(flow.train("w1"), flow.evaluate("w2", 0.5))
    assert str(read_result(flow.root / "evaluate-w2").weights_digest) in str(refused.value)


def test_a_registration_killed_before_its_aliases_resumes_with_the_same_version(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, evaluation = flow.train("w1"), flow.evaluate("w1", 0.5)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("slowfast_core.tracking.registry._decide", killed)
        with pytest.raises(KeyboardInterrupt):
            flow.register(training, evaluation)
    assert flow.register(training, evaluation).summary == "slowfast-tiny v1: champion (no champion before)"


@pytest.mark.parametrize(
    "step", ["log_model_artifacts", "finalize_logged_model", "log_outputs", "create_model_version"]
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_registration_killed_while_it_logs_the_model_leaves_one_model(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    training, evaluation = flow.train("w1"), flow.evaluate("w1", 0.5)
    whole = getattr(MlflowClient, step)

    def killed(*arguments: Any, **options: Any) -> None:
        if moment == "after":
            whole(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            flow.register(training, evaluation)
    assert flow.register(training, evaluation).summary.startswith("slowfast-tiny v1: ")
    client = connect(flow.at.tracking_uri)
    (model,) = client.search_logged_models([e.experiment_id for e in client.search_experiments()])
    assert str(model.status) == "READY"
    assert [folder.name for folder in (flow.at.artifacts / "models").iterdir()] == [model.model_id]
    (output,) = client.get_run(str(model.source_run_id)).outputs.model_outputs
    assert output.model_id == model.model_id
