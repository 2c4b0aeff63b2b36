from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from slowfast_core.errors import InputError
from slowfast_core.recipe import Register
from slowfast_core.stage import StageResult
from slowfast_core.tracking.lineage import Lineage, missing
from slowfast_core.tracking.registry import download_version
from slowfast_core.tracking.runs import connect

if TYPE_CHECKING:
    from tests.tracking.conftest import Flow

NAME = "slowfast-tiny"
RegisterIt = Callable[[str, float], StageResult]


def aliases(flow: Flow) -> dict[str, int]:
    found = connect(flow.at.tracking_uri).get_registered_model(NAME).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_first_version_is_champion_with_its_lineage(flow: Flow, registered: RegisterIt) -> None:
    result = registered("w1", 0.5)
    assert result.summary == "slowfast-tiny v1: champion (no champion before)"
    assert (result.weights_digest, result.data_version) == ("w1", "0123456789abcdef0123456789abcdef.dir")
    assert result.metrics == {"top1": 0.5, "top5": 1.0}
    with open(result.outputs["version"]) as file:
        record = json.load(file)
    assert record["uri"] == "models:/slowfast-tiny/1"
    assert record["aliases"] == ["challenger", "champion"]

    files = download_version(f"models:/{NAME}@champion", flow.at.tracking_uri, flow.root / "got") / "artifacts"
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


def test_champion_moves_only_to_the_better_one(flow: Flow, registered: RegisterIt) -> None:
    registered("w1", 0.5)
    worse = registered("w2", 0.4)
    assert worse.summary == "slowfast-tiny v2: challenger (top1 0.4000 does not beat the champion's 0.5000)"
    assert aliases(flow) == {"champion": 1, "challenger": 2}
    better = registered("w3", 0.6)
    assert better.summary == "slowfast-tiny v3: champion (top1 0.6000 beats the champion's 0.5000)"
    assert aliases(flow) == {"champion": 3, "challenger": 3}


def test_other_evaluation_data_is_said(flow: Flow, registered: RegisterIt) -> None:
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


def test_gain_of_the_recipe_is_asked_for(flow: Flow, registered: RegisterIt) -> None:
    registered("w1", 0.5)
    recipe = flow.recipe.model_copy(update={"register_": Register(model=NAME, min_gain=0.2)})
    result = flow.register(flow.train("w2"), flow.evaluate("w2", 0.6), recipe)
    assert "does not beat the champion's 0.5000 by more than 0.2" in result.summary


def test_lineage_holds_the_recipe_that_was_trained(flow: Flow) -> None:
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
def test_incomplete_lineage_is_refused_by_name(flow: Flow, changes: dict[str, Any], named: str) -> None:
    training, evaluation = flow.train("w1", **changes), flow.evaluate("w1", 0.5)
    with pytest.raises(InputError, match=f"lineage is incomplete: {named} "):
        flow.register(training, evaluation)
    assert connect(flow.at.tracking_uri).search_registered_models() == []


def test_evaluation_of_other_weights_is_refused(flow: Flow) -> None:
    with pytest.raises(InputError, match=r"the evaluation is of other weights \(w2\)"):
        flow.register(flow.train("w1"), flow.evaluate("w2", 0.5))


def test_killed_before_the_aliases_goes_on_with_the_same_version(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    training, evaluation = flow.train("w1"), flow.evaluate("w1", 0.5)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("slowfast_core.tracking.registry._decide", killed)
        with pytest.raises(KeyboardInterrupt):
            flow.register(training, evaluation)
    assert flow.register(training, evaluation).summary == "slowfast-tiny v1: champion (no champion before)"
