"""A flow that is killed repeatedly ends with the same results as an undisturbed one, and leaves no leftovers."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from slowfast_core.tracking.runs import connect
from slowfast_core.workspace import Workspace

TINY = Path(__file__).parent / "tiny.yaml"
STAGES = ("ingest", "validate", "extract", "train", "evaluate", "register")
Target = Literal["group", "run", "stage"]  # the whole process group, `slowfast run` alone, the stage's process alone
Results = dict[tuple[str, str], dict[str, Any]]
DEADLINE = 1200.0
# Names of unfinished files and folders.
UNFINISHED = re.compile(r"\.(partial|old|restored|checkout)$|\.[0-9a-f]{8}(\.|$)")


@dataclass(frozen=True)
class Kill:
    stage: str
    share: float  # of the duration of the stage
    target: Target


@dataclass
class Flow:
    """`slowfast run` of the tiny recipe, started again after each kill, with a temporary directory of its own."""

    root: Path
    temporary: Path
    killed: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("slowfast")), "run", str(TINY), "--workspace", str(self.root)]
        command += ["--json", "--set", "finetune=null", "--set", "train.checkpoint_steps=1"]
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        before = set(self.events())
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        while not (new := set(self.events()) - before):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        self.log = new.pop()

    def events(self) -> list[Path]:
        return list(self.root.glob("logs/*/events.jsonl"))

    def kill(self, kill: Kill, seconds: float) -> None:
        """Kill at this share of the stage's duration, or at its end if that is earlier."""
        assert self.process is not None
        limit = time.monotonic() + DEADLINE
        while not self.has_seen("start", kill.stage):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.002)
        moment = time.monotonic() + kill.share * seconds
        while time.monotonic() < moment and not self.has_seen("end", kill.stage):
            time.sleep(0.002)
        assert self.process.poll() is None, self.process.communicate()
        if kill.target == "group":
            os.killpg(self.process.pid, signal.SIGKILL)
        elif kill.target == "run":
            self.process.kill()
        else:
            for pid in executors(self.root):
                os.kill(pid, signal.SIGKILL)
        self.killed.append(f"{kill.stage} at {kill.share:.2f} ({kill.target})")
        self.wait()

    def wait(self) -> None:
        """Wait only for the process itself, because its children may keep its pipes open."""
        assert self.process is not None
        self.process.wait(DEADLINE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def has_seen(self, event: str, stage: str) -> bool:
        lines = self.log.read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return any(one.get("event") == event and one["stage"] == stage for one in events)

    def finish(self) -> Results:
        assert self.process is not None
        output, errors = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0, errors
        return {(result["recipe"], result["stage"]): result for result in json.loads(output)}


def executors(root: Path) -> list[int]:
    """The processes of KFP that run a stage in this workspace."""
    found = {pid: command for pid, command in commands().items() if b"kfp.dsl.executor_main" in command}
    return [pid for pid, command in found.items() if mentions(command, root)]


def commands() -> dict[int, bytes]:
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(file.parent.name)] = file.read_bytes()
        except OSError:
            continue  # the process has ended
    return found


def mentions(text: bytes, folder: Path) -> bool:
    return str(folder).encode() in text


def processes_of(temporary: Path) -> dict[int, bytes]:
    """All processes that were started with this temporary directory, or with the one of a run below it."""
    found = {}
    for pid, command in commands().items():
        try:
            if mentions(Path(f"/proc/{pid}/environ").read_bytes(), temporary):
                found[pid] = command
        except OSError:
            continue
    return found


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Flow]:
    """A flow to kill. Its temporary directory has a short name, because sockets of Ray are below it."""
    temporary = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    flow = Flow(tmp_path / "workspace", temporary)
    yield flow
    for pid in processes_of(temporary):
        os.kill(pid, signal.SIGKILL)
    if flow.process:
        flow.process.wait()
    shutil.rmtree(temporary)


def files_of(folder: Path) -> set[str]:
    """Files except for checkpoints, whose number depends on where training resumed."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in paths if "checkpoints" not in path.parts}


def check_result(flow: Flow, results: Results, undisturbed: Results, workspace: Path) -> None:
    for stage in STAGES:
        ours, theirs = results["tiny", stage], undisturbed["tiny", stage]
        for name in ("digest", "weights_digest", "data_version"):
            assert ours[name] == theirs[name], stage
    check_tracking(Workspace(flow.root))
    for folder in ("data/tiny-motion", "sources/tiny-motion", "runs/tiny"):
        assert files_of(flow.root / folder) == files_of(workspace / folder)
    assert [path for path in flow.root.rglob(".*") if UNFINISHED.search(path.name)] == []
    assert processes_of(flow.temporary) == {}
    assert [path.name for path in flow.temporary.rglob("*") if not path.is_dir()] == [".lock"]


def check_tracking(at: Workspace) -> None:
    """Check that there is one model version, the champion, two finished runs, and no other artifacts."""
    client = connect(at.tracking_uri)
    (version,) = client.search_model_versions()
    assert client.get_model_version_by_alias("tiny", "champion").version == version.version
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments)
    ended = sorted((run.info.run_name, run.info.status) for run in runs)
    assert ended == [("tiny evaluate", "FINISHED"), ("tiny train", "FINISHED")]
    (model,) = client.search_logged_models(experiments)
    assert model.status == "READY"
    assert {path.name for path in at.artifacts.iterdir()} == {"models", *(run.info.run_id for run in runs)}
    assert [path.name for path in (at.artifacts / "models").iterdir()] == [model.model_id]


def run_with_kills(flow: Flow, kills: list[Kill], undisturbed: Results, workspace: Path) -> None:
    flow.start()
    for kill in kills:
        flow.kill(kill, float(undisturbed["tiny", kill.stage]["seconds"]))
        flow.start()
    check_result(flow, flow.finish(), undisturbed, workspace)
    print("killed in", "; ".join(flow.killed))


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)  # with the undisturbed flow
def test_a_flow_killed_in_training_evaluation_and_registration_has_the_same_results(
    killed: Flow, flow: Results, flow_workspace: Path
) -> None:
    kills = [Kill("train", 0.7, "run"), Kill("evaluate", 0.6, "group"), Kill("register", 0.5, "stage")]
    run_with_kills(killed, kills, flow, flow_workspace)


def series_of_kills() -> list[list[Kill]]:
    """Twenty kills in four series, at random moments of all stages, each in the order of the flow."""
    moments = random.Random(11)
    targets: tuple[Target, ...] = ("group", "run", "stage")
    kills = [Kill(STAGES[n % 6], round(moments.random(), 2), targets[(n + n // 6) % 3]) for n in range(20)]
    return [sorted(kills[series::4], key=lambda kill: (STAGES.index(kill.stage), kill.share)) for series in range(4)]


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("series", range(4))
def test_flows_killed_at_twenty_moments_have_the_same_results(
    killed: Flow, flow: Results, flow_workspace: Path, series: int
) -> None:
    run_with_kills(killed, series_of_kills()[series], flow, flow_workspace)
