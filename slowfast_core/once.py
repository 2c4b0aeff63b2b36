"""Runs a stage once for the same inputs and code version, and publishes its output folder atomically."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from slowfast_core.documents import read_json_object
from slowfast_core.errors import InputError
from slowfast_core.files import inside, locked, sync, write_whole
from slowfast_core.verbosity import is_verbose, report

RECORD = "stage.json"  # StageResult and key of a finished stage
BEGUN = "inputs.sha256"  # key of the inputs that a stage was started with
INPUTS = "inputs.json"  # the inputs themselves, to report what changed
RERUN = "run the stage again"
VERSIONS = Path(__file__).with_name("stage_versions.yaml")
VERSION = "stage_version"  # among the inputs of a stage: its name and the version of its code
LONGEST = 80  # characters of a value that a reason shows
NO_RESULT = "no result yet"


class StageResult(BaseModel):
    """The result of a stage, which `--json` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    status: Literal["done", "unchanged", "failed"] = "done"
    seconds: float = 0.0
    outputs: dict[str, str] = {}  # name -> path
    summary: str = ""  # one line for people
    reason: str = ""  # why it ran again, such as "code of extract 3 -> 4" or "train.epochs 3 -> 4"; "" at first
    digest: str = ""  # identity of what the next stage reads
    versions: dict[str, int] = {}  # of the code of this stage, and of those whose results it read
    weights_digest: str | None = None
    data_version: str | None = None
    metrics: dict[str, float] = {}


def run_once(
    stage: str,
    output: Path,
    inputs: Mapping[str, Any],
    work: Callable[[Path], Mapping[str, Any]],
    keep: str = "",
    salvages: bool = False,
) -> StageResult:
    """Run `work(partial)` once for these inputs and publish the folder it filled as `output`.

    `inputs` is everything the result depends on besides the version of the stage's code, as JSON values. `work` returns
    the fields of StageResult; paths in `outputs` are relative to the folder. After a kill, the next call with the same
    inputs passes the same partial folder to `work`, with everything finished so far.

    A partial folder with other inputs is cleared, with two exceptions. If `salvages` is set, `work` receives it and
    keeps the files that are still valid. Otherwise, if its subfolder `keep` has files, InputError is raised.
    """
    inputs = _versioned(stage, inputs)
    key = _key(inputs)
    partial = output.with_name(f".{output.name}.partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(output):
        if result := _unchanged(output, key):
            if is_verbose():
                report(f"{stage} is skipped: the result in {output} has the same inputs and code")
            return result
        if _key_of(partial) != key:
            _start_partial(partial, key, inputs, keep, salvages)
            if reason := _reason(output, key, inputs):
                report(f"{stage} runs again: {reason}")
            elif is_verbose():
                report(f"{stage} runs: {NO_RESULT}")
            _work(stage, partial, key, work, reason)
        _publish(partial, output)
        return _result(output)


def _work(stage: str, partial: Path, key: str, work: Callable[[Path], Mapping[str, Any]], reason: str) -> None:
    started = time.monotonic()
    fields = dict(work(partial))
    versions = {**fields.pop("versions", {}), stage: stage_version(stage)}
    seconds = round(time.monotonic() - started, 2)
    result = StageResult(stage=stage, seconds=seconds, reason=reason, versions=versions, **fields)
    write_whole(partial / RECORD, json.dumps({"key": key, **result.model_dump()}, indent=1))


def finished(stage: str, output: Path, inputs: Mapping[str, Any]) -> StageResult | None:
    """Return the complete result in `output` if it has these inputs and the stage's current code version."""
    return _unchanged(output, _key(_versioned(stage, inputs)))


def has_result(folder: Path) -> bool:
    """Whether a stage has finished in `folder`, with any inputs."""
    return _key_of(folder) is not None


def reason_to_run(stage: str, output: Path, inputs: Mapping[str, Any]) -> str:
    """Why `run_once` would run the stage, as `train.epochs 30 -> 12`; "" where its result is up to date."""
    inputs = _versioned(stage, inputs)
    key = _key(inputs)
    return "" if _unchanged(output, key) else _reason(output, key, inputs) or NO_RESULT


def stage_version(stage: str) -> int:
    """Return the version of the stage's code, which is raised when a code change changes results."""
    return int(yaml.safe_load(VERSIONS.read_text(encoding="utf-8"))[stage])


def outdated(stage: str, folder: Path) -> str:
    """Return how the code version differs from the one of the result in `folder`, as `extract 3 -> 4`; "" if equal."""
    old = read_result(folder).versions.get(stage, "none")
    return "" if old == stage_version(stage) else f"{stage} {old} -> {stage_version(stage)}"


def _versioned(stage: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {VERSION: {stage: stage_version(stage)}, **inputs}


def _unchanged(output: Path, key: str) -> StageResult | None:
    if _key_of(output) == key and _complete(result := read_result(output)):
        return result
    return None


def read_result(folder: Path) -> StageResult:
    """Return the result of the finished stage in `folder`. Raises InputError if there is none."""
    if _key_of(folder) is None:
        raise InputError(f"stage {folder.name!r} has not been run", folder, "run the stages before this one first")
    return _result(folder).model_copy(update={"status": "unchanged", "seconds": 0.0, "reason": ""})


def edition(folder: Path) -> str | None:
    """Return a string that changes whenever a result is published in `folder`; None without a complete result."""
    if _key_of(folder) is None or not _complete(_result(folder)):
        return None
    record = folder / RECORD
    return f"{hashlib.sha256(record.read_bytes()).hexdigest()} {record.stat().st_mtime_ns}"


def restore(output: Path, record: Mapping[str, Any], fill: Callable[[Path], None]) -> StageResult:
    """Publish a finished stage's folder again from its stage.json (`record`); `fill(partial)` writes the files."""
    partial = output.with_name(f".{output.name}.restored")
    output.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(output):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        fill(partial)
        write_whole(partial / RECORD, json.dumps(record, indent=1))
        _publish(partial, output)
        return _result(output)


def key_of_partial(partial: Path) -> str:
    """Return the key of the inputs that the stage in `partial` was started with."""
    return (partial / BEGUN).read_text()


def _key(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def _complete(result: StageResult) -> bool:
    return all(Path(path).exists() for path in result.outputs.values())


def _key_of(folder: Path) -> str | None:
    """Return the key of the finished stage in `folder`; None if there is none or its record is damaged."""
    try:
        return _read_record(folder)[0]
    except InputError:
        return None


def _result(folder: Path) -> StageResult:
    _, result = _read_record(folder)
    for path in result.outputs.values():
        inside(folder, path)  # the record may come from a remote and is not trusted
    return result.model_copy(update={"outputs": {name: str(folder / path) for name, path in result.outputs.items()}})


def _read_record(folder: Path) -> tuple[str, StageResult]:
    """Read the key and the result of the finished stage in `folder`, with relative paths. Raises InputError."""
    fields = read_json_object(folder / RECORD, "no record of a stage", RERUN)
    key = fields.pop("key", None)
    try:
        result = StageResult(**fields)
    except (ValidationError, TypeError):
        key = None
    if not isinstance(key, str):
        raise InputError("damaged record of a stage", folder / RECORD, RERUN)
    return key, result


def _start_partial(partial: Path, key: str, inputs: Mapping[str, Any], keep: str, salvages: bool) -> None:
    """Prepare the partial folder: keep it if it has the same inputs, otherwise clear it or hand it over (`salvages`).

    Raises InputError if it has other inputs and files in its subfolder `keep`.
    """
    begun = partial / BEGUN
    if partial.exists() and (not begun.is_file() or key_of_partial(partial) != key):
        if keep and any((partial / keep).glob("*")):
            stage = partial.name.split(".")[1]
            what = f"an unfinished {stage} with other inputs exists: {_difference(partial, inputs)}"
            raise InputError(what, partial, "finish it with its own inputs, or remove the folder")
        if salvages:
            (partial / RECORD).unlink(missing_ok=True)
            begun.unlink(missing_ok=True)
        else:
            shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    if not begun.exists():
        write_whole(partial / INPUTS, json.dumps(inputs, indent=1, default=str))
        write_whole(begun, key)


def _reason(output: Path, key: str, inputs: Mapping[str, Any]) -> str:
    """Return why the result in `output` cannot be reused; "" if there is no result."""
    before = _key_of(output)
    if before is None:
        return ""
    return "one of its outputs is missing" if before == key else _difference(output, inputs)


def _difference(folder: Path, inputs: Mapping[str, Any]) -> str:
    """List up to three inputs that differ from those of `folder`, such as `train.epochs 3 -> 4`."""
    if not (folder / INPUTS).is_file():
        return "its inputs are not recorded"
    old = _flat(json.loads((folder / INPUTS).read_text()))
    new = _flat(json.loads(json.dumps(inputs, default=str)))
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    shown = [_change(name, old.get(name, "none"), new.get(name, "none")) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _change(name: str, old: Any, new: Any) -> str:
    """`train.epochs 3 -> 4` or `code of extract 3 -> 4`; a value that is too long for a line is left out."""
    if name.startswith(f"{VERSION}."):
        name = f"code of {name.removeprefix(f'{VERSION}.')}"
    return f"{name} {old} -> {new}" if len(f"{old}{new}") <= LONGEST else f"{name} changed"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, item in value.items():
        leaves |= _flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {prefix + name: item}
    return leaves


def _publish(partial: Path, output: Path) -> None:
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    partial.rename(output)
    sync(output.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def in_use(folders: Iterable[Path]) -> Iterator[None]:
    """Keep other processes from replacing these results while a stage reads them.

    Raises InputError if one is being replaced. Folders of stages that were never run are left to their reader.
    """
    with ExitStack() as locks:
        for folder in folders:
            if folder.parent.is_dir():
                locks.enter_context(_lock(folder, "another process is writing what this stage reads", shared=True))
        yield


def check_result(folder: Path, digest: str) -> None:
    """Raise InputError unless the finished stage in `folder` has the result with this digest."""
    if (found := read_result(folder).digest) != digest:
        what = f"another run replaced the result {digest} by {found}"
        raise InputError(what, folder, "start this run again")


def exclusive_lock(output: Path) -> AbstractContextManager[None]:
    """Hold the stage's lock, so that no other process writes or reads it. Raises InputError if it is taken."""
    return _lock(output, "another process is working on this stage, or reads its result")


@contextmanager
def _lock(folder: Path, taken: str, shared: bool = False) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.with_name(f".{folder.name}.lock"), wait=False, shared=shared))
        except BlockingIOError:
            raise InputError(taken, folder, "wait for it, or stop it") from None
        yield
