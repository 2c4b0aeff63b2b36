"""A training that is stopped at any point, in any way, reaches the same weights as an uninterrupted one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trainings import Training, lines_of

from slowfast_core.data.objects.store import open_store
from slowfast_core.workspace import Workspace

MakeWorkspace = Callable[[Path], Workspace]
EPOCHS = 10  # of 4 iterations
SETTINGS = ("train.checkpoint_steps=3", "train.precise_norm_batches=1", "train.validate_every=2", "model.dropout=0.5")
KINDS = ("worker", "driver", "group", "sigterm")


@pytest.fixture(scope="module")
def start(tiny_recipe: Path, tiny_workspace: MakeWorkspace) -> Iterator[Callable[..., Training]]:
    """Start trainings in folders; they are killed at the end."""
    started: list[Training] = []

    def begin(folder: Path, *overrides: str) -> Training:
        started.append(Training(tiny_recipe, tiny_workspace(folder), (*SETTINGS, *overrides)))
        started[-1].start()
        return started[-1]

    yield begin
    for training in started:
        training.kill()


@pytest.fixture(scope="module")
def plain(start: Callable[..., Training], tmp_path_factory: pytest.TempPathFactory) -> Training:
    return start(tmp_path_factory.mktemp("exact") / "plain")


@pytest.fixture(scope="module")
def digest(plain: Training) -> str:
    return str(plain.finish()["weights_digest"])


def stop(training: Training, how: str, epoch: float) -> None:
    """Stop the training after `epoch` and start it again, except after the loss of a worker."""
    training.wait_for_epoch(epoch)
    if how == "worker":
        training.kill_worker()
    elif how == "sigterm":
        assert "stopped and saved" in training.terminate()
    else:
        (training.kill if how == "group" else training.kill_driver)()
    if how != "worker":
        training.start()


def points() -> list[tuple[str, float]]:
    """Ten random moments for each way of stopping."""
    moments = random.Random(20)
    return [(how, round(moments.uniform(0.2, EPOCHS - 1), 2)) for _ in range(10) for how in KINDS]


@pytest.mark.exhaustive  # tests/stages/test_train.py has a killed training in the plain suite
@pytest.mark.parametrize(("how", "epoch"), [("worker", 3.7), ("sigterm", 5.2)])
def test_stopped_once(
    start: Callable[..., Training],
    plain: Training,
    tmp_path: Path,
    how: str,
    epoch: float,
    request: pytest.FixtureRequest,
) -> None:
    training = start(tmp_path / how)
    stop(training, how, epoch)
    result = training.finish()
    assert "resumed from checkpoint" in result["summary"]
    assert result["weights_digest"] == request.getfixturevalue("digest")
    assert any("val_accuracy" in line for line in lines_of(training.folder / "log.jsonl"))


@pytest.mark.exhaustive
def test_resume_on_another_machine(
    start: Callable[..., Training], digest: str, tmp_path: Path, new_bucket: Callable[[], str], s3: str
) -> None:
    """Another machine resumes from the checkpoints in the bucket, the newest of which is incomplete."""
    root = f"s3://{new_bucket()}/runs"
    settings = (f"train.checkpoint_store={root}", f"train.checkpoint_endpoint_url={s3}")
    lost = start(tmp_path / "lost", *settings)
    lost.kill_in_epoch(5.5)
    store = open_store(root, s3)
    newest = max(item.key for item in store.objects() if item.key.endswith("sha256.json"))
    store.remove(newest)
    result = start(tmp_path / "found", *settings).finish()
    assert f"{Path(newest).parent.name} in {root}/{Path(newest).parts[0]} is incomplete" in result["summary"]
    assert "was downloaded from s3://" in result["summary"]
    assert "resumed from checkpoint" in result["summary"]
    assert result["weights_digest"] == digest


@pytest.mark.exhaustive
@pytest.mark.parametrize(("how", "epoch"), points())
def test_stopped_anywhere(start: Callable[..., Training], digest: str, tmp_path: Path, how: str, epoch: float) -> None:
    training = start(tmp_path / how)
    stop(training, how, epoch)
    assert training.finish()["weights_digest"] == digest


@pytest.mark.exhaustive
@pytest.mark.parametrize("epoch", [2.5, 6.0])
def test_a_truncated_newest_checkpoint(
    start: Callable[..., Training], digest: str, tmp_path: Path, epoch: float
) -> None:
    training = start(tmp_path / "truncated")
    training.kill_in_epoch(epoch)
    newest = max((training.partial / "checkpoints").glob("step-*"))
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:1000])
    training.start()
    result = training.finish()
    assert f"checkpoint {newest.name} is incomplete and was skipped" in result["summary"]
    assert result["weights_digest"] == digest
