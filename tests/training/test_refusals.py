"""Errors of `slowfast train`: one line with problem and fix, exit code 2, and no loss of work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from nodes import free_port
from trainings import Training

from pipelines.cli.main import main
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.once import read_result
from slowfast_core.recipe.load import load_recipe
from slowfast_core.stages.flow import run_extract
from slowfast_core.training.checkpoint import newest_checkpoint
from slowfast_core.workspace import Workspace

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def at(tiny_workspace: Callable[[Path], Workspace], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return tiny_workspace(tmp_path_factory.mktemp("refusals") / "w")


@pytest.fixture
def refused(
    at: Workspace, tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Run the command in this process and return its error; Ray must not start."""

    def run(*overrides: str, options: tuple[str, ...] = ()) -> str:
        command = ["slowfast", "train", str(tiny_recipe), "--workspace", str(at.root), *options]
        for override in overrides:
            command += ["--set", override]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        trainings = list(at.run("tiny", ".train.partial").glob("ray/*"))
        with pytest.raises(SystemExit) as ended:
            main()
        errors = capsys.readouterr().err
        assert ended.value.code == 2, errors
        assert errors.count("\n") == 1
        assert not at.run("tiny", "train").exists()
        assert list(at.run("tiny", ".train.partial").glob("ray/*")) == trainings
        return errors

    return run


def checkpoint(folder: Path, recipe: Path, *overrides: str) -> Path:
    """A folder with new weights, as training or conversion writes it."""
    resolved = load_recipe(str(recipe), overrides)
    weights = build_model(resolved.model, resolved.clip).state_dict()
    folder.mkdir()
    save_weights(folder / "model.safetensors", weights)
    record = {**json.loads(resolved.to_json()), "weights_digest": weights_digest(weights)}
    (folder / "checkpoint.json").write_text(json.dumps(record))
    return folder


def test_no_cluster_answers(refused: Refused) -> None:
    address = f"127.0.0.1:{free_port()}"
    errors = refused(f"compute.address={address}")
    assert errors.startswith("slowfast: no Ray cluster: ")
    assert address in errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.batch=9",), "train.batch 9 is not divisible by compute.workers 2"),
        (("train.accumulate=3",), "a batch of 8 is not divisible by 2 workers x 3 parts"),
        (("train.batch=64",), "32 training samples are fewer than train.batch = 64"),
        (
            ("train.multigrid={}", "train.schedule=steps", "train.steps=[[5, 0.1]]"),
            "32 training samples are fewer than the largest batch of train.multigrid, 128",
        ),
        (("train.batch_norm=sync",), "synchronised batch norm needs GPUs (train.batch_norm); use 'groups' on CPUs"),
        (("compute.gpus_per_worker=2",), "a worker trains on one GPU, not 2: raise workers"),
        (
            ("compute.workers=32", "train.batch=32", "compute.gpus_per_worker=1"),
            "32 GPUs are required (32 x 1), but this machine has",
        ),
        (("compute.workers=1024", "train.batch=1024"), "1024 workers are too many for"),
        (("train.init_from=models:/nothing@champion",), "no model registry"),
        (("train.init_from=models:/nothing",), "is not a model version"),
    ],
)
def test_settings_that_do_not_fit(refused: Refused, overrides: tuple[str, ...], message: str) -> None:
    assert message in refused(*overrides)


def test_start_weights_of_another_kind_of_network(refused: Refused, tiny_recipe: Path, tmp_path: Path) -> None:
    deeper = checkpoint(tmp_path / "r50", tiny_recipe, "model.depth=50")
    message = refused(options=("--init-from", str(deeper)))
    assert "the start weights belong to another kind of network: 204 of 662 tensors match, " in message
    weights = deeper / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "cannot read weights" in refused(f"train.init_from={deeper}", "model.depth=50")
    (deeper / "checkpoint.json").write_text("{}")
    assert "the digest of the weights is missing" in refused(f"train.init_from={deeper}", "model.depth=50")


@pytest.fixture
def start(tiny_recipe: Path) -> Iterator[Callable[..., Training]]:
    started: list[Training] = []

    def begin(at: Workspace, *overrides: str) -> Training:
        started.append(Training(tiny_recipe, at, overrides))
        return started[-1]

    yield begin
    for training in started:
        training.kill()


def test_a_diverging_training_and_trainings_with_other_inputs(
    start: Callable[..., Training], refused: Refused, at: Workspace, tiny_recipe: Path
) -> None:
    """The batch and the checkpoints are kept; a training with other inputs does not resume from them."""
    wild = ("train.learning_rate=1e9", "train.warmup_epochs=0", "train.checkpoint_steps=1")
    training = start(at, *wild)
    message = training.refusal()
    saved = training.partial / "diverged"
    assert "the loss is " in message
    assert "lower train.learning_rate" in message
    assert str(saved) in message
    batch = json.loads(next(saved.glob("batch-*.json")).read_text())
    frames = torch.load(next(saved.glob("frames-*.pt")), weights_only=True)
    assert len(batch["samples"]) == len(frames) == 4  # the share of one worker
    newest, skipped = newest_checkpoint(training.partial / "checkpoints")
    assert newest
    assert not skipped

    message = refused(*wild[1:], "train.learning_rate=0.02")
    assert "an unfinished train with other inputs exists: train.learning_rate 1000000000.0 -> 0.02" in message
    version = read_result(at.data("motion", "extract")).data_version
    run_extract(load_recipe(str(tiny_recipe), ["data.store.crf=30"]), at)
    changed = read_result(at.data("motion", "extract")).data_version
    assert changed != version
    assert f"data_version {version} -> {changed}" in refused(*wild)
    assert newest_checkpoint(training.partial / "checkpoints") == (newest, [])


FILL = """
import resource, signal, sys, torch
from pathlib import Path
from slowfast_core.errors import InputError
from slowfast_core.training.checkpoint import Saver

saver = Saver(Path(sys.argv[1]), keep=3)
saver.save({"step": 1, "model": {"w": torch.zeros(300_000)}})
saver.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
saver.save({"step": 2, "model": {"w": torch.zeros(300_000)}})
try:
    saver.wait()
except InputError as error:
    print(error)
"""


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    fix = "free disk space and run again; training resumes from the previous checkpoint"
    assert ended.stdout == f"cannot save a checkpoint: File too large ({tmp_path}); {fix}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert newest_checkpoint(tmp_path) == (tmp_path / "step-000000001", [])


@pytest.mark.exhaustive
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_in_a_training(
    start: Callable[..., Training],
    tiny_workspace: Callable[[Path], Workspace],
    small_disk: Path,
    workers: int,
) -> None:
    at = tiny_workspace(small_disk / "w")
    training = start(at, "train.checkpoint_steps=1", f"compute.workers={workers}")
    message = training.refusal()
    assert "No space left on device" in message
    assert "free disk space and run again" in message
    newest, skipped = newest_checkpoint(training.partial / "checkpoints")
    assert newest
    assert not skipped
