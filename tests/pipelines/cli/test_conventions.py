"""Conventions of the command line: version, help, completion, verbosity, usage errors and widths."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOWFAST = Path(sys.executable).with_name("slowfast")
TINY = Path(__file__).parents[1] / "tiny.yaml"
COMMANDS = (
    "run",
    "ingest",
    "train",
    "predict",
    "report",
    "convert",
    "ui",
    "doctor",
    "data versions",
    "pipeline submit",
)


def slowfast(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | variables
    command = [str(SLOWFAST), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def usage_error(*arguments: object) -> str:
    done = slowfast(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


def test_version_is_printed_as_text_and_json() -> None:
    done = slowfast("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"slowfast \d+\.\d+\.\d+\n", done.stdout)
    assert slowfast("version").stdout.startswith(done.stdout.strip())
    assert json.loads(slowfast("version", "--json").stdout)["slowfast"] in done.stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_short_and_long_help_are_equal_and_fit_80_columns(command: str) -> None:
    short = slowfast(*command.split(), "-h")
    assert short.returncode == 0, short.stderr
    assert f"Usage: slowfast {command}" in short.stdout
    assert max(map(len, short.stdout.splitlines())) <= 80
    assert slowfast(*command.split(), "--help").stdout == short.stdout


def test_help_groups_the_commands_into_panels() -> None:
    panels = re.findall(r"^╭─ (.+?) ─", slowfast("--help").stdout, flags=re.M)
    assert panels == ["Options", "Run the pipeline", "Data", "Models", "Kubernetes", "Setup"]


def test_completion_completes_commands_and_prints_its_script() -> None:
    shown = subprocess.run(
        ["bash", "-c", f"{SLOWFAST} --show-completion; true"], capture_output=True, text=True, check=True
    )
    assert "_SLOWFAST_COMPLETE=complete_bash" in shown.stdout
    request = {"_SLOWFAST_COMPLETE": "complete_bash", "COMP_WORDS": "slowfast ev", "COMP_CWORD": "1"}
    assert slowfast(**request).stdout.strip() == "evaluate"
    assert "--install-completion" in slowfast("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "problem", "help_of"),
    [
        (("nope",), "No such command 'nope'", "slowfast"),
        (("run",), "Missing argument 'RECIPE'", "slowfast run"),
        (("show", "demo", "--bogus"), "No such option: --bogus", "slowfast show"),
        (("ui", "--port", "high"), "'--port'", "slowfast ui"),
        (("pipeline", "nope"), "No such command 'nope'", "slowfast pipeline"),
    ],
)
def test_usage_errors_are_one_line_that_names_the_help(arguments: tuple[str, ...], problem: str, help_of: str) -> None:
    line = usage_error(*arguments)
    assert line.startswith("slowfast: ")
    assert problem in line
    assert line.endswith(f"see `{help_of} --help`")


def test_quiet_and_verbose_exclude_each_other() -> None:
    assert "--quiet and --verbose" in usage_error("-q", "version", "--verbose")


def test_recipes_and_doctor_fit_80_columns() -> None:
    for command in ("recipes", "doctor"):
        done = slowfast(command)
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_doctor_reports_machine_workspace_and_docker(tmp_path: Path) -> None:
    workspace = tmp_path / "new"
    done = slowfast("doctor", "--workspace", workspace, "--json", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["workspace"] == f"{workspace} (writable, not created yet)"
    assert re.fullmatch(rf"\d+\.\d GiB at {tmp_path}", found["free disk"])
    assert found["Docker"].startswith("not reachable: ")
    assert "compute.gpus_per_worker: auto" in found["training"]
    assert {"slowfast", "torch", "GPU"} <= found.keys()
    assert not workspace.exists()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A recipe whose source has one file and two annotated segments."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"not decoded by ingest")
    (source / "own.csv").write_text("label,youtube_id,time_start,time_end,split\nrun,a,0,1,train\njump,a,0,1,val\n")
    recipe = f"name: own\ndata: {{name: own, source: {source}, annotations: own.csv}}\nmodel: {{classes: 2}}\n"
    (tmp_path / "own.yaml").write_text(recipe)
    return tmp_path


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_verbose_and_quiet_are_accepted_anywhere_on_the_line(own: Path, place: int) -> None:
    arguments = ["ingest", str(own / "own.yaml"), "--workspace", str(own / "w")]
    verbose = slowfast(*arguments[:place], "-v", *arguments[place:])
    assert "ingest runs: no result yet" in verbose.stderr
    verbose = slowfast(*arguments[:place], "--verbose", *arguments[place:])
    assert "ingest is skipped: " in verbose.stderr
    assert verbose.stdout.startswith("ingest: up to date: ")
    with (own / "source" / "own.csv").open("a") as file:
        file.write("run,a,1,2,train\n")
    quiet = slowfast(*arguments[:place], "-q", *arguments[place:])
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("ingest: 1 of 1 videos")
    assert slowfast(*arguments).stderr == ""


WARNS = """
import warnings
from pipelines.cli import main as cli

@cli.app.command()
def warns() -> None:
    warnings.warn("from a library")

cli.main()
"""


@pytest.mark.parametrize("options", [(), ("-v",), ("-q",)])
def test_only_a_verbose_command_shows_warnings_of_libraries(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", WARNS, "warns", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("from a library" in done.stderr) == (options == ("-v",))


def plan(*arguments: object) -> list[tuple[str, str, str]]:
    done = slowfast("run", *arguments, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    return [(row["stage"], row["status"], row["reason"]) for row in json.loads(done.stdout)]


def test_dry_run_in_a_new_workspace_lists_every_stage_and_creates_nothing(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    done = slowfast("run", TINY, "--workspace", workspace, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["recipe", "stage", "status", "why"]
    assert [tuple(row.split()[:2]) for row in rows[:2]] == [("tiny", "ingest"), ("tiny", "validate")]
    assert len(rows) == 12
    assert all("would run  no result yet" in row for row in rows)
    assert not workspace.exists()


def test_dry_run_names_the_changed_setting(own: Path) -> None:
    arguments = (own / "own.yaml", "--workspace", own / "w")
    slowfast("ingest", *arguments)
    before = sorted(own.rglob("*"))
    assert plan(*arguments)[:2] == [("ingest", "up to date", ""), ("validate", "would run", "no result yet")]
    (stage, status, reason), *_ = plan(*arguments, "--set", "data.holdout=0.5")
    assert (stage, status, reason) == ("ingest", "would run", "data.holdout 0.0 -> 0.5")
    assert sorted(own.rglob("*")) == before


def test_dry_run_of_an_unknown_recipe_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "no recipe 'dmo'" in usage_error("run", "dmo", "--dry-run", "--workspace", tmp_path)


def test_ui_prints_the_address_of_the_training_view(tmp_path: Path) -> None:
    create = (
        "from mlflow import MlflowClient; import sys; print(MlflowClient(sys.argv[1]).create_experiment('slowfast'))"
    )
    made = subprocess.run(
        [sys.executable, "-c", create, f"sqlite:///{tmp_path}/mlflow.db"], capture_output=True, text=True, check=True
    )
    command = [str(SLOWFAST), "ui", "--workspace", str(tmp_path), "--port", "0"]
    assert "no such port" in usage_error(*command[1:])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*command[:-1], str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        page = f"http://127.0.0.1:{port}/#/experiments/{made.stdout.strip()}/runs?workflowType=machine_learning"
        assert server.stdout.readline() == f"slowfast: {page}\n"
        assert server.stdout.readline() == f"models: http://127.0.0.1:{port}/#/models\n"
        command_line = Path(f"/proc/{server.pid}/cmdline")
        limit = time.monotonic() + 60
        while b"--backend-store-uri" not in command_line.read_bytes():  # the server has not replaced the command yet
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert b"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in Path(f"/proc/{server.pid}/environ").read_bytes()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
