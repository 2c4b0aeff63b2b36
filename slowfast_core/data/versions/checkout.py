"""Checks out the files of a data version from the cache or the remote, and verifies each by its MD5."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from slowfast_core.data.versions.catalogue import Version, extracted_version, in_remote, in_repository, is_kept, keep
from slowfast_core.data.versions.remote import Address, Entry, Remote, open_remote
from slowfast_core.data.versions.track import data_version
from slowfast_core.errors import InputError
from slowfast_core.files import inside, md5_of, sync, write_whole
from slowfast_core.once import StageResult, restore
from slowfast_core.progress import progress
from slowfast_core.workspace import Workspace

THREADS = 4
TRIES = 2  # per object: from the cache, then fetched again
WHOLE_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")
STORE = "store"


def checkout(which: str, at: Workspace, address: Address | None = None, to: Path | None = None) -> StageResult:
    """Restore the data version with the hash prefix `which` from the remote at `address`.

    It becomes the extracted data of its data set in the workspace, or with `to` a plain folder. Only objects that are
    missing or damaged in the cache are fetched. The folder appears atomically; after a kill, the next call resumes.
    Raises InputError.
    """
    repository = at.below("data")
    known = in_repository(repository)
    mine = None if address else _only(which, known)
    address = address or (mine.remotes[-1] if mine and mine.remotes else Address())
    with open_remote(repository, at.dvc_remote, address) as remote:
        version, record = (mine.hash, mine) if mine else _find(which, known, remote)
        if to is not None:
            return _to_folder(version, to.resolve(), remote)
        if record is None or record.stage is None:
            raise InputError(
                "the remote has no record of the data set of this version", version, "name a folder with --to"
            )
        return _to_workspace(record, at, remote, address)


def _only(which: str, known: Mapping[str, Version]) -> Version | None:
    """The only version of this workspace with the hash prefix `which`, which needs no look-up in the remote."""
    found = [version for name, version in known.items() if which and name.startswith(which)]
    return found[0] if len(found) == 1 else None


def _find(which: str, known: Mapping[str, Version], remote: Remote) -> tuple[str, Version | None]:
    """Find the only version with the hash prefix `which`; versions of plain DVC need the full hash."""
    if not remote.exists():
        raise InputError("no such remote, or nothing was ever pushed to it", remote.where, "name one with --remote")
    known = {**known, **in_remote(remote)}
    found = sorted(version for version in known if version.startswith(which))
    if len(found) == 1:
        return found[0], known[found[0]]
    if found:
        named = ", ".join(version[:12] for version in found)
        raise InputError(f"{which!r} matches {len(found)} data versions: {named}", remote.where, "use more digits")
    if WHOLE_HASH.fullmatch(which):
        return which.removesuffix(".dir") + ".dir", None
    fix = "`slowfast data versions` lists them; --remote names another remote"
    raise InputError(f"no data version {which!r}", remote.where, fix)


def _to_folder(version: str, folder: Path, remote: Remote) -> StageResult:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if folder.is_dir() and data_version(folder) == version:
            return _result(version, folder, "unchanged", "is already there")
        raise InputError("the folder is not empty", folder, "give --to a new one")
    partial = folder.with_name(f".{folder.name}.checkout")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    outcome = _fill(version, partial, remote)
    partial.replace(folder)
    sync(folder.parent)
    return _result(version, folder, "done", outcome)


def _to_workspace(record: Version, at: Workspace, remote: Remote, address: Address) -> StageResult:
    output = at.data(record.data, "extract")
    repository = at.below("data")
    if (present := extracted_version(output)) == record.hash and data_version(output / STORE) == record.hash:
        return _result(record.hash, output / STORE, "unchanged", "is already there")
    if output.exists() and present not in in_repository(repository):
        fix = "record it with `slowfast extract`, or name another folder with --to"
        raise InputError("the current data is not a recorded version and would be lost", output, fix)
    outcome = ""

    def fill(partial: Path) -> None:
        nonlocal outcome
        (partial / STORE).mkdir()
        outcome = _fill(record.hash, partial / STORE, remote)
        out = {"md5": record.hash, "size": record.bytes, "nfiles": record.files, "hash": "md5", "path": STORE}
        write_whole(partial / f"{STORE}.dvc", json.dumps({"outs": [out]}))  # JSON is YAML

    restore(output, record.stage or {}, fill)
    if not is_kept(record.hash, repository, address):
        keep(record, repository, remote, address)
    return _result(record.hash, output / STORE, "done", outcome)


def _result(version: str, folder: Path, status: Any, outcome: str) -> StageResult:
    summary = f"data version {version[:8]}… {outcome}"
    return StageResult(stage="checkout", status=status, outputs={"data": str(folder)}, summary=summary,
                       digest=version, data_version=version)  # fmt: skip


def _fill(version: str, folder: Path, remote: Remote) -> str:
    """Write the files of the version to the empty `folder`; return a summary."""
    entries = _listing(version, remote)
    todo, again = entries, 0
    with progress("checkout", len(entries)) as advance, ThreadPoolExecutor(THREADS) as pool:
        for _ in range(TRIES):
            remote.pull([entry.md5 for entry in todo])
            whole = list(pool.map(lambda entry: _copy(entry, folder, remote), todo))
            advance(sum(whole))
            todo = [entry for entry, is_whole in zip(todo, whole, strict=True) if not is_whole]
            if not todo:
                break
            again = again or len(todo)
    if todo:
        raise _damaged(todo[0].md5, remote)
    return f"is here, {len(entries)} files" + (f", {again} damaged in the cache and fetched again" if again else "")


def _listing(version: str, remote: Remote) -> list[Entry]:
    for _ in range(TRIES):
        remote.pull([version])
        if (entries := remote.listing(version)) is not None:
            return entries
        remote.path_in_cache(version).unlink()
    raise _damaged(version, remote)


def _copy(entry: Entry, folder: Path, remote: Remote) -> bool:
    """Copy the object from the cache; if its MD5 is wrong, remove it from the cache and return False."""
    source = remote.path_in_cache(entry.md5)
    target = inside(folder, entry.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if md5_of(target) == entry.md5:
        sync(target)
        return True
    source.unlink(missing_ok=True)
    return False


def _damaged(md5: str, remote: Remote) -> InputError:
    fix = "remove it there, and push the version again from the workspace that extracted it"
    return InputError(f"object {md5} is damaged in the remote", remote.where, fix)
