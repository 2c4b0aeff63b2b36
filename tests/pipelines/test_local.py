"""The whole DAG in KFP's local runner, started by the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from videos import moving_frames, write_video

from slowfast_core.data.video.decoding import probe

TINY = Path(__file__).parent / "tiny.yaml"
DATA = ("ingest", "validate", "extract")
REST = ("train", "evaluate", "register")


def slowfast(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("slowfast")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


Results = dict[tuple[str, str], dict[str, object]]


def by_stage(printed: str) -> Results:
    return {(result["recipe"], result["stage"]): result for result in json.loads(printed)}


@pytest.fixture(scope="module")
def workspace(flow_workspace: Path) -> Path:
    return flow_workspace


@pytest.fixture(scope="module")
def first(flow: Results) -> Results:
    return flow


def test_every_stage_of_both_branches_is_done(first: Results) -> None:
    assert set(first) == {(name, stage) for name in ("tiny", "tiny_ava") for stage in DATA + REST}
    assert {result["status"] for result in first.values()} == {"done"}


def test_the_branch_starts_from_the_trained_model(first: Results, workspace: Path) -> None:
    record = json.loads((workspace / "runs/tiny_ava/train/checkpoint.json").read_text())
    assert record["parent_checkpoint"] == first["tiny", "train"]["weights_digest"]
    assert "start weights" in str(first["tiny_ava", "train"]["summary"])


def test_the_registered_model_has_the_data_version_of_the_clip_store(
    first: Results,
) -> None:
    for name in ("tiny", "tiny_ava"):
        versions = {first[name, stage]["data_version"] for stage in ("extract", *REST)}
        assert len(versions) == 1
        assert str(versions.pop()).endswith(".dir")


def test_all_stages_of_a_second_run_are_up_to_date(first: Results, workspace: Path) -> None:
    again = slowfast("run", TINY, "--workspace", workspace)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("up to date") == len(first)


def planned(workspace: Path, *options: str) -> dict[tuple[str, str], str]:
    done = slowfast("run", TINY, "--workspace", workspace, "--dry-run", "--json", *options)
    assert done.returncode == 0, done.stderr
    return {(row["recipe"], row["stage"]): row["reason"] or row["status"] for row in json.loads(done.stdout)}


def test_dry_run_does_not_change_a_finished_workspace(first: Results, workspace: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    assert planned(workspace) == dict.fromkeys(first, "up to date")
    changed = planned(workspace, "--set", "train.epochs=3")
    assert changed["tiny", "extract"] == "up to date"
    assert changed["tiny", "train"] == "train.epochs 2 -> 3"
    assert changed["tiny", "evaluate"] == changed["tiny_ava", "train"] == "train runs"
    assert changed["tiny_ava", "register"] == "tiny_ava train runs"
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before


def test_stages_on_the_command_line_reuse_the_results_of_kfp(first: Results, workspace: Path) -> None:
    """All stages of the recipe, and the stages of its branch that the command line treats differently."""
    for flags, name, stages in ((), "tiny", DATA + REST), (("--finetune",), "tiny_ava", ("train", "evaluate")):
        for stage in stages:
            done = slowfast(stage, TINY, "--workspace", workspace, "--json", *flags)
            assert done.returncode == 0, done.stderr
            result = json.loads(done.stdout)
            assert result["status"] == "unchanged"
            assert result["weights_digest"] == first[name, stage]["weights_digest"]
            assert result["data_version"] == first[name, stage]["data_version"]


def test_the_champion_predicts(first: Results, workspace: Path) -> None:
    video = next((workspace / "data/tiny-motion/extract/store/clips").glob("*.mp4"))
    done = slowfast("predict", video, "--model", "models:/tiny@champion", "--workspace", workspace, "--json")
    assert done.returncode == 0, done.stderr
    (scored,) = json.loads(done.stdout)
    assert len(scored["top"]) == 5
    assert scored["top"][0]["score"] >= scored["top"][1]["score"]


def test_a_detection_model_is_refused_in_one_line(first: Results, workspace: Path) -> None:
    video = next((workspace / "data/tiny-actors/extract/store/clips").glob("*.mp4"))
    done = slowfast("predict", video, "--model", "models:/tiny-ava@champion", "--workspace", workspace)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "this model needs boxes of people" in line


def test_a_stage_that_refuses_its_input_ends_the_run_with_one_line(tmp_path: Path) -> None:
    done = slowfast("run", TINY, "--workspace", tmp_path, "--set", "data.source=/nowhere")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("slowfast: ")
    assert "/nowhere" in last


BRANCH_FROM_A_FOLDER = ("--set", "finetune.data.labels=labels.pbtxt", "--set")


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)  # runs the flow up to three times
def test_a_changed_video_runs_only_the_dependent_stages(first: Results, workspace: Path) -> None:
    """A video in the source folder of the branch changes: no stage of the first recipe runs again."""
    folder = workspace / "sources/tiny-actors"
    command = ("run", TINY, "--workspace", workspace, *BRANCH_FROM_A_FOLDER, f"finetune.data.source={folder}")
    same = slowfast(*command)
    assert same.stderr.count("up to date") == len(first) - 1  # only register runs: its lineage contains the source
    videos = sorted(folder.rglob("*.mp4"))
    info = probe(videos[0])
    write_video(videos[0], moving_frames(info.frames, info.height, info.width, seed=9), fps=round(info.fps))
    done = slowfast(*command, "--json")
    assert done.returncode == 0, done.stderr
    results = by_stage(done.stdout)
    assert {results["tiny", stage]["status"] for stage in DATA + REST} == {"unchanged"}
    assert {results["tiny_ava", stage]["status"] for stage in DATA + REST} == {"done"}
    assert f"1 copied, {len(videos) - 1} kept" in str(results["tiny_ava", "ingest"]["summary"])


@pytest.mark.exhaustive
def test_a_changed_annotation_gives_another_data_version_and_copies_no_video(first: Results, workspace: Path) -> None:
    folder = workspace / "sources/tiny-actors"
    flags = ("--workspace", workspace, "--finetune", *BRANCH_FROM_A_FOLDER, f"finetune.data.source={folder}", "--json")
    before = [json.loads(slowfast(stage, TINY, *flags).stdout) for stage in DATA]
    lines = (folder / "train.csv").read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join(lines[:-1]))
    ingested, validated, extracted = (json.loads(slowfast(stage, TINY, *flags).stdout) for stage in DATA)
    assert {result["status"] for result in (ingested, validated, extracted)} == {"done"}
    assert "0 copied, 8 kept" in ingested["summary"]
    assert extracted["data_version"] != before[-1]["data_version"]
