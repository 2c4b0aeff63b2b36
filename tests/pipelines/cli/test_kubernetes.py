"""`slowfast pipeline submit|schedule|status|cancel` against a server that validates by the published API."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from kfp_api import KubeflowPipelines, serve

from pipelines.cli.main import main

HERE = Path(__file__).parent.parent
TINY, CLUSTER = HERE / "tiny.yaml", HERE / "kubernetes" / "cluster.yaml"
ONE = (TINY, "--set", "finetune=null")  # a fine-tuning branch would only take time to compile
TOKEN = "a-token"


@pytest.fixture
def api() -> Iterator[KubeflowPipelines]:
    with serve(KubeflowPipelines(token=TOKEN)) as api:
        yield api


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def slowfast(*arguments: object) -> Done:
    """Run the command in this process, because starting Python a hundred times would take long."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["slowfast", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def pipeline(api: KubeflowPipelines, *arguments: object, token: str = TOKEN, cluster: Path = CLUSTER) -> Done:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOWFAST_KFP_TOKEN", token)
        return slowfast("pipeline", *arguments, "--cluster", cluster, "--host", api.url)


def printed(done: Done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_submit_sends_the_pipeline_with_changed_parameters(api: KubeflowPipelines) -> None:
    sent = printed(pipeline(api, "submit", *ONE, "--epochs", 3, "--workers", 2, "--name", "by hand", "--json"))
    (run,) = api.runs.values()
    assert sent["id"] == run["run_id"]
    assert sent["url"] == f"https://kubeflow.example.org/#/runs/details/{run['run_id']}"
    assert run["runtime_config"] == {"parameters": {"epochs": 3, "workers": 2}}
    assert (run["display_name"], run["service_account"]) == ("by hand", "slowfast-pipeline")
    recipe = run["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert json.loads(recipe)["name"] == "tiny"
    (experiment,) = api.experiments.values()
    assert (experiment["display_name"], experiment["namespace"]) == ("slowfast", "videos")


def test_a_second_run_uses_the_existing_experiment(api: KubeflowPipelines) -> None:
    for _ in range(2):
        printed(pipeline(api, "submit", *ONE, "--json"))
    assert len(api.experiments) == 1
    assert len(api.runs) == 2


def test_a_single_user_server_gets_no_namespace(api: KubeflowPipelines) -> None:
    api.multi_user = False
    printed(pipeline(api, "submit", *ONE, "--json"))
    (experiment,) = api.experiments.values()
    assert "namespace" not in experiment


def test_status_and_cancel_report_the_state(api: KubeflowPipelines) -> None:
    run_id = printed(pipeline(api, "submit", *ONE, "--json"))["id"]
    tasks = [{"display_name": "ingest", "state": "SUCCEEDED"}, {"display_name": "train", "state": "RUNNING"}]
    api.runs[run_id] |= {"state": "RUNNING", "run_details": {"task_details": tasks}}
    status = printed(pipeline(api, "status", run_id, "--json"))
    assert (status["state"], status["tasks"]) == ("RUNNING", {"ingest": "SUCCEEDED", "train": "RUNNING"})
    assert printed(pipeline(api, "cancel", run_id, "--json"))["state"] == "CANCELING"
    api.runs[run_id]["state"] = "CANCELED"
    before = len(api.requests)
    assert printed(pipeline(api, "cancel", run_id, "--json"))["state"] == "CANCELED"
    assert [method for method, _ in api.requests[before:]] == ["GET"]  # the run has already ended


def test_schedule_runs_one_at_a_time_without_catching_up(api: KubeflowPipelines) -> None:
    sent = printed(pipeline(api, "schedule", *ONE, "--cron", "30 2 * * MON-FRI", "--json"))
    (recurring,) = api.recurring.values()
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 30 2 * * MON-FRI"}}
    assert (recurring["max_concurrency"], recurring["no_catchup"], recurring["mode"]) == ("1", True, "ENABLE")
    assert sent["url"] == f"https://kubeflow.example.org/#/recurringrun/details/{recurring['recurring_run_id']}"
    assert sent["cron"] == "0 30 2 * * MON-FRI"


def test_a_recipe_is_not_scheduled_twice_without_replace(api: KubeflowPipelines) -> None:
    printed(pipeline(api, "schedule", *ONE, "--cron", "0 1 * * *", "--name", "another", "--json"))
    first = printed(pipeline(api, "schedule", *ONE, "--cron", "0 2 * * *", "--json"))["id"]
    again = pipeline(api, "schedule", *ONE, "--cron", "0 3 * * *")
    assert again.returncode == 2
    assert first in again.stderr
    assert "--replace" in again.stderr
    second = printed(pipeline(api, "schedule", *ONE, "--cron", "0 3 * * *", "--replace", "--json"))["id"]
    names = {key: one["display_name"] for key, one in api.recurring.items()}
    assert names[second] == "tiny"
    assert sorted(names.values()) == ["another", "tiny"]
    assert first not in names


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 0 2 * * *", "five fields, not 6"),
        ("60 2 * * *", "minute"),
        ("0 2 * * FUN", "day of the week"),
        ("*/0 * * * *", "'*/0'"),
    ],
)
def test_an_invalid_cron_is_refused_before_the_server_is_asked(api: KubeflowPipelines, cron: str, message: str) -> None:
    done = pipeline(api, "schedule", *ONE, "--cron", cron)
    assert done.returncode == 2
    assert message in done.stderr
    assert api.requests == []


def one_line(done: Done) -> str:
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, 2, "denies"),
        (404, 2, "not found"),
        (409, 2, "already"),
        (400, 2, "rejects"),
        (500, 1, "answers 500"),
    ],
)
def test_each_error_of_the_server_is_reported_in_one_line(
    api: KubeflowPipelines, status: int, code: int, message: str
) -> None:
    api.failure = lambda method, path: status if method == "POST" else None
    done = pipeline(api, "submit", *ONE)
    assert done.returncode == code
    assert message in one_line(done)
    assert [method for method, _ in api.requests].count("POST") == 1  # a submission is never retried
    assert api.runs == {}


def test_a_wrong_token_is_reported_in_one_line(api: KubeflowPipelines) -> None:
    done = pipeline(api, "submit", *ONE, token="an-old-one")
    assert done.returncode == 2
    assert "token" in one_line(done)
    assert "an-old-one" not in done.stderr


def test_the_token_may_be_in_a_file(api: KubeflowPipelines, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "cluster.yaml").write_text(CLUSTER.read_text() + f"token_file: {tmp_path / 'token'}\n")
    printed(pipeline(api, "submit", *ONE, "--json", token="", cluster=tmp_path / "cluster.yaml"))


def test_an_unknown_run_is_reported_in_one_line(api: KubeflowPipelines) -> None:
    for command in ("status", "cancel"):
        done = pipeline(api, command, "no-such-run")
        assert done.returncode == 2
        assert "run no-such-run not found" in one_line(done)


def test_queries_are_retried_a_limited_number_of_times(api: KubeflowPipelines) -> None:
    run_id = printed(pipeline(api, "submit", *ONE, "--json"))["id"]
    errors = iter([503, 503])
    api.failure = lambda method, path: next(errors, None)
    assert printed(pipeline(api, "status", run_id, "--json"))["id"] == run_id
    api.failure = lambda method, path: 503
    before = len(api.requests)
    done = pipeline(api, "status", run_id)
    assert done.returncode == 1
    assert "answers 503" in one_line(done)
    assert len(api.requests) - before == 4


def test_a_server_that_does_not_answer_is_reported_in_one_line(api: KubeflowPipelines, tmp_path: Path) -> None:
    api.hang_seconds = 5
    quick = tmp_path / "cluster.yaml"
    quick.write_text(CLUSTER.read_text().replace("timeout_seconds: 10", "timeout_seconds: 1"))
    done = pipeline(api, "cancel", "a-run", cluster=quick)
    assert done.returncode == 1
    assert "did not answer within 1 s" in one_line(done)


def test_a_missing_server_is_reported_in_one_line() -> None:
    with serve(KubeflowPipelines()) as gone:
        pass
    done = pipeline(gone, "status", "a-run")
    assert done.returncode == 1
    assert "cannot be reached" in one_line(done)


@pytest.mark.parametrize(
    ("gpus", "gpu_image", "message"),
    [
        ("1", False, "the cluster settings have no gpu_image: GPU stages run in"),
        ("1", True, ""),
        ("0", False, ""),
        ("auto", True, "compute.gpus_per_worker is auto: 1, because the cluster settings have a gpu_image"),
        ("auto", False, "compute.gpus_per_worker is auto: 0, because the cluster settings have no gpu_image"),
    ],
)
def test_the_choice_of_gpus_by_the_settings_is_printed(
    gpus: str, gpu_image: bool, message: str, tmp_path: Path
) -> None:
    kept = [line for line in CLUSTER.read_text().splitlines() if gpu_image or not line.startswith("gpu_image")]
    (tmp_path / "cluster.yaml").write_text("\n".join(kept))
    where = ("--cluster", tmp_path / "cluster.yaml", "--output", tmp_path / "p", "--json")
    done = slowfast("pipeline", "compile", *ONE, "--set", f"compute.gpus_per_worker={gpus}", *where)
    assert printed(done)["tasks"]
    assert len(done.stderr.splitlines()) == bool(message)
    assert message in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("namespace: videos", "name_space: videos", "name_space"),
        ("@sha256:0000000000000000000000000000000000000000000000000000000000000001", ":latest", "may change"),
        ("AWS_ENDPOINT_URL: ", "AWS_SECRET_ACCESS_KEY: ", "is a secret"),
        ("host: http", "host: ftp", "host"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER.read_text().replace(old, new, 1))
    output = tmp_path / "p"
    done = slowfast("pipeline", "compile", TINY, "--cluster", tmp_path / "cluster.yaml", "--output", output)
    assert done.returncode == 2
    assert message in one_line(done)
    assert not output.exists()
