"""The command `slowfast` as users run it: its output and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"
RECIPE = """
name: own
data: {{name: own, source: {source}, annotations: own.csv}}
model: {{classes: 2}}
"""


def slowfast(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("slowfast")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A recipe with the user's own data; the test writes its csv."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"not decoded by ingest")
    (tmp_path / "own.yaml").write_text(RECIPE.format(source=source))
    return tmp_path


def ingest(own: Path, csv: str | None, *options: str) -> subprocess.CompletedProcess[str]:
    if csv is not None:
        (own / "source" / "own.csv").write_text(csv)
    return slowfast("ingest", own / "own.yaml", "--workspace", own / "workspace", *options)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [("train.lerning_rate=1", "learning_rate"), ("trian.epochs=1", "train"), ("finetune.data.sorce=x", "source")],
)
def test_unknown_recipe_key_names_the_nearest(override: str, nearest: str) -> None:
    assert nearest in refused(slowfast("show", "demo", "--set", override))


def test_unknown_recipe_names_the_nearest() -> None:
    assert "'demo'" in refused(slowfast("show", "dmo"))


def test_missing_csv_is_refused(own: Path) -> None:
    assert "own.csv" in refused(ingest(own, None))


def test_unknown_label_is_refused_with_its_line(own: Path) -> None:
    (own / "source" / "labels.txt").write_text("run\njump\n")
    csv = KINETICS_HEADER + "run,a,0,1,train\nswim,a,1,2,val\n"
    line = refused(ingest(own, csv, "--set", "data.labels=labels.txt"))
    assert "swim" in line
    assert "own.csv:3" in line


def test_path_that_leaves_the_root_is_refused(own: Path) -> None:
    assert "../../secret" in refused(ingest(own, KINETICS_HEADER + "run,../../secret,0,1,train\njump,a,0,1,val\n"))


def test_empty_split_is_refused(own: Path) -> None:
    assert "val" in refused(ingest(own, KINETICS_HEADER + "run,a,0,1,train\njump,a,1,2,train\n"))


def test_show_prints_a_recipe_that_loads_again(tmp_path: Path) -> None:
    shown = slowfast("show", "demo")
    (tmp_path / "again.yaml").write_text(shown.stdout)
    assert slowfast("show", tmp_path / "again.yaml").stdout == shown.stdout


def test_params_yaml_is_the_demo_recipe() -> None:
    params = Path(__file__).resolve().parents[3] / "params.yaml"
    assert params.read_text() == slowfast("show", "demo").stdout, "run `make params`"


def test_cost_of_the_paper_model(tmp_path: Path) -> None:
    (tmp_path / "r50.yaml").write_text("name: r50\ndata: {name: k400}\n")
    counted = json.loads(slowfast("cost", tmp_path / "r50.yaml", "--json").stdout)
    assert counted["parameters"] == 34_480_216
    assert counted["gflops"] == pytest.approx(36.1, rel=0.01)
    assert sum(counted["by_stage"].values()) == pytest.approx(counted["gflops"])
    assert sum(counted["by_pathway"].values()) == pytest.approx(counted["gflops"])
    assert list(counted["by_pathway"]) == ["slow", "fast", "laterals", "head"]
    assert counted["fast_share"] == pytest.approx(counted["by_pathway"]["fast"] / counted["gflops"])
    assert "the Fast pathway takes 19.1 % of a view" in slowfast("cost", tmp_path / "r50.yaml").stdout


def test_names_of_recipes_are_never_truncated() -> None:
    assert "kinetics400/slowfast_8x8_r50_mmaction2_precise_bn_step" in slowfast("recipes").stdout


def test_doctor_reports_versions_and_devices() -> None:
    found = json.loads(slowfast("doctor", "--json").stdout)
    assert found["torch"].startswith("2.13")
    assert "decord" in found["decoders"]
    assert {"cores", "GPU", "missing for cluster"} <= found.keys()


def test_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(b"")
    assert "model.safetensors" in refused(slowfast("predict", video, "--model", tmp_path))


def test_stage_without_the_previous_one_is_refused(tmp_path: Path) -> None:
    assert "extract" in refused(slowfast("train", "demo", "--workspace", tmp_path))
