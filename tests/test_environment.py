"""Operating-system failures give one line that names the place and the fix, exit code 2, and no traceback."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import fill

from pipelines.cli.main import main
from slowfast_core.data.objects.folder import Folder
from slowfast_core.data.versions.remote import Address
from slowfast_core.data.versions.track import track
from slowfast_core.environment import explained, fullest
from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.recipe.load import Tracking
from slowfast_core.tracking.runs import connect, open_run
from slowfast_core.workspace import Workspace

SLOWFAST = str(Path(sys.executable).with_name("slowfast"))
# Without these capabilities, root is subject to file permissions.
LIKE_A_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


Command = Callable[..., str]


def refusal_in_a_process(*arguments: object, before: list[str] | None = None) -> str:
    """Run a command in a new process and return its one-line refusal."""
    command = [*(before or []), SLOWFAST, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process and return what its refusal writes to stderr."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["slowfast", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr().err
        assert ended.value.code == 2, written
        return written

    return run


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Created once, because this takes seconds; tests copy it."""
    at = Workspace(tmp_path_factory.mktemp("database"))
    connect(at.tracking_uri).search_experiments()
    return at.root / "mlflow.db"


@pytest.fixture
def tracked(empty_database: Path, tmp_path: Path) -> Workspace:
    """A workspace with an empty tracking database."""
    (tmp_path / "workspace").mkdir()
    shutil.copy(empty_database, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


@pytest.mark.parametrize("leave_kb", [0, 8])
def test_a_full_disk_is_named_even_if_the_error_has_no_path(small_disk: Path, leave_kb: int) -> None:
    """The errors of a write and of SQLite do not name the file."""
    fill(small_disk, leave_kb)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(small_disk / "x", "x" * 20_000)
    assert caught.value.filename is None
    assert str(explained(caught.value, small_disk)) == (
        f"no space left on the disk ({small_disk}); free disk space and run again; finished work is kept"
    )
    with pytest.raises(sqlite3.OperationalError) as quoted:
        sqlite3.connect(small_disk / "x.db").executescript("create table t(x); insert into t values(zeroblob(30000));")
    assert str(explained(quoted.value, small_disk)).startswith(f"no space left on the disk ({small_disk})")
    wrapped = RuntimeError("stage failed")
    wrapped.__cause__ = quoted.value
    assert str(explained(wrapped, small_disk)).startswith(f"no space left on the disk ({small_disk})")


def test_a_disk_that_is_not_full_is_not_blamed(tmp_path: Path) -> None:
    """A tracking server may report that its own disk is full."""
    assert explained(RuntimeError("500: No space left on device"), tmp_path) is None
    assert explained(ValueError("x"), tmp_path) is None
    assert explained(FileNotFoundError(2, "No such file or directory", "x"), tmp_path) is None


def test_the_fullest_of_several_places_is_named(small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk)
    assert fullest(tmp_path, small_disk / "deep" / "below") == small_disk


def test_a_full_disk_is_reported_when_tracking_begins(small_disk: Path) -> None:
    fill(small_disk, leave_kb=64)
    with pytest.raises(InputError) as caught:
        open_run(Tracking(), Workspace(small_disk), "train", "key")
    line = str(caught.value)
    assert line.startswith(f"no space left on the disk ({small_disk}"), line
    assert "\n" not in line


@pytest.mark.parametrize("full", ["cache", "remote"])
def test_a_full_disk_is_not_reported_as_a_network_failure(small_disk: Path, tmp_path: Path, full: str) -> None:
    roomy = tmp_path / "roomy"
    repository, remote = (small_disk, roomy) if full == "cache" else (roomy, small_disk / "remote")
    store = repository / "motion" / "extract" / "store"
    store.mkdir(parents=True)
    for number in range(4):
        (store / f"{number}.mp4").write_bytes(os.urandom(700_000))
    fill(small_disk, leave_kb=1000)
    with pytest.raises(InputError) as caught:
        track(store, repository, tmp_path / "default", Address(str(remote)))
    line = str(caught.value)
    assert line.startswith("no space left on the disk ("), line
    assert str(small_disk) in line
    assert "network" not in line


def test_a_copy_without_disk_space_names_the_target(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.mp4").write_bytes(bytes(2_000_000))
    fill(small_disk, leave_kb=100)
    source = Folder(str(tmp_path / "source"))
    with pytest.raises(InputError, match="no space left on the disk") as caught:
        source.fetch(source.objects()[0], small_disk / "a.mp4")
    assert f"({small_disk / 'a.mp4'})" in str(caught.value)


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "unwritable"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("stage", ["ingest", "run"])
def test_a_read_only_workspace_is_refused(unwritable: Path, tiny_recipe: Path, stage: str) -> None:
    line = refusal_in_a_process(stage, tiny_recipe, "--workspace", unwritable / "w", before=LIKE_A_USER)
    assert line.startswith(f"slowfast: permission denied ({unwritable}/w")
    assert "choose another --workspace" in line


def test_a_workspace_that_is_a_file_is_refused(tmp_path: Path, tiny_recipe: Path, command: Command) -> None:
    (tmp_path / "file").write_text("")
    line = command("ingest", tiny_recipe, "--workspace", tmp_path / "file")
    assert line.startswith(f"slowfast: not a directory ({tmp_path}/file")
    assert line.count("\n") == 1


def test_an_outdated_tracking_database_is_refused_with_the_fix(tracked: Workspace) -> None:
    database = sqlite3.connect(tracked.root / "mlflow.db")
    database.execute("update alembic_version set version_num = '27a6a02d2cf1'")
    database.commit()
    database.close()
    remedy = f"run 'mlflow db upgrade {tracked.tracking_uri}'"
    with pytest.raises(InputError) as caught:
        open_run(Tracking(), tracked, "train", "key")
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
    line = refusal_in_a_process("ui", "--workspace", tracked.root, "--port", free_port())
    assert line.startswith("slowfast: the tracking database has another MLflow version")
    assert remedy in line


def test_a_damaged_tracking_database_is_refused(tracked: Workspace, tmp_path: Path, command: Command) -> None:
    (tracked.root / "mlflow.db").write_bytes(b"not a database " * 1000)
    (tmp_path / "v.mp4").write_bytes(b"")
    line = command("predict", tmp_path / "v.mp4", "--model", "models:/x@champion", "--workspace", tracked.root)
    assert "file is not a database" in line
    assert str(tracked.root / "mlflow.db") in line
    assert line.count("\n") == 1


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_port_in_use_is_refused_at_once(tracked: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        began = time.monotonic()
        line = refusal_in_a_process("ui", "--workspace", tracked.root, "--port", port)
        assert time.monotonic() - began < 30  # MLflow's server tries for a minute
    assert line == f"slowfast: the port is in use (127.0.0.1:{port}); choose another with --port or --host"


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 5000), ("127.0.0.1", 99999)])
def test_an_address_that_cannot_be_bound_is_refused(tracked: Workspace, host: str, port: int) -> None:
    line = refusal_in_a_process("ui", "--workspace", tracked.root, "--host", host, "--port", port)
    assert line.startswith("slowfast: cannot listen there: ")
    assert f"({host}:{port})" in line


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_debug_anywhere_on_the_line_shows_the_traceback(place: int, command: Command) -> None:
    arguments = ["show", "no-such-recipe", "--set", "seed=1"]
    written = command(*arguments[:place], "--debug", *arguments[place:])
    assert "Traceback (most recent call last)" in written
    assert written.splitlines()[-1].startswith("slowfast: no recipe 'no-such-recipe'")
    assert command(*arguments).count("\n") == 1


BROKEN = """
from pipelines.cli import main as cli

@cli.app.command()
def broken() -> None:
    raise RuntimeError("first line\\n[SQL: INSERT]\\n" + 2000 * "x")

cli.main()
"""


def test_an_unexpected_error_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN, "broken"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("slowfast: RuntimeError: first line [SQL: INSERT] xxx")
    assert line.endswith("... (--debug shows more)")
    assert len(line) < 600


@pytest.mark.exhaustive
@pytest.mark.parametrize("stage", ["ingest", "train", "run"])
def test_a_command_on_a_full_disk_is_refused_until_there_is_space(
    small_disk: Path, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], stage: str
) -> None:
    """However much space is free at the start, the command fails with the same line and resumes with more space."""
    at = tiny_workspace(small_disk / "w") if stage == "train" else Workspace(small_disk / "w")
    for leave_kb in (0, 16, 400, 1500):
        filler = fill(small_disk, leave_kb)
        line = refusal_in_a_process(stage, tiny_recipe, "--workspace", at.root)
        assert "o space left on" in line, line
        assert str(small_disk) in line, line
        assert "make room" in line or "free disk space" in line
        filler.unlink()
