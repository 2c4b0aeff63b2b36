"""The catalogue of data versions: a small JSON record of each, in the workspace and in the remote."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slowfast_core.data.versions.remote import Address, Remote, open_remote
from slowfast_core.errors import InputError
from slowfast_core.field_errors import describe
from slowfast_core.files import whole_file
from slowfast_core.names import Name
from slowfast_core.once import RECORD, read_result
from slowfast_core.workspace import Workspace

FOLDER = ".versions"  # in the repository


class Version(BaseModel):
    """The record of a data version, with everything that another workspace needs to restore it."""

    model_config = ConfigDict(frozen=True)  # fields of later releases are ignored

    hash: str = Field(pattern=r"^[0-9a-f]{32}\.dir$")
    data: Name  # of the data set
    created: str  # UTC
    clips: int | None = None  # rows of the manifest
    videos: int | None = None
    files: int
    bytes: int
    stage: dict[str, Any] | None = None  # record of the extraction
    remotes: tuple[Address, ...] = ()  # remotes that this workspace pushed to; empty in the remote itself

    def file_name(self) -> str:
        return f"{self.hash}.json"


def described(version: str, store: Path, repository: Path) -> Version:
    """Create the record of the version in `store`, a folder below `repository`."""
    from slowfast_core.data.manifest import read_manifest

    sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    record, manifest = store.parent / RECORD, store / "manifest.parquet"
    rows = read_manifest(manifest).rows if manifest.is_file() else None
    return Version(
        hash=version,
        data=store.relative_to(repository).parts[0],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        clips=None if rows is None else len(rows),
        videos=None if rows is None else int(rows["video"].nunique()),
        files=len(sizes),
        bytes=sum(sizes),
        stage=json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None,
    )


def keep(version: Version, repository: Path, remote: Remote, address: Address) -> None:
    """Record the version in the remote, then in the repository. The oldest record of the same data takes precedence."""
    name = version.file_name()
    found = remote.read_record(name)
    there = _parsed({f"{remote.where}, {name}": found})[version.hash] if found else None
    here = in_repository(repository).get(version.hash)
    known = there or here or version
    folder = repository / FOLDER
    folder.mkdir(exist_ok=True)
    pushed = tuple(dict.fromkeys([*(here.remotes if here else ()), address.recorded]))
    with whole_file(folder / name) as temporary:
        if there is None:
            temporary.write_text(known.model_copy(update={"remotes": ()}).model_dump_json(indent=1), encoding="utf-8")
            remote.record(temporary, name)
        text = known.model_copy(update={"remotes": pushed}).model_dump_json(indent=1)
        temporary.write_text(text, encoding="utf-8")


def is_kept(version: str, repository: Path, address: Address) -> bool:
    known = in_repository(repository).get(version)
    return known is not None and address.recorded in known.remotes


def located(at: Workspace, asked: Address | None = None) -> list[tuple[Version, list[str]]]:
    """All versions in the workspace, its default remote and the remote at `asked`, newest first, with their locations.

    Locations are "store" (extracted in the workspace), "cache", and the remotes.
    """
    repository = at.below("data")
    known, remotes, cached = in_repository(repository), dict[str, list[str]](), set[str]()
    for address in dict.fromkeys([Address(), asked or Address()]):
        with open_remote(repository, at.dvc_remote, address) as remote:
            if address.url and not remote.exists():
                raise InputError("no such remote", remote.where, "correct data.remote of the recipe, or --remote")
            for name, version in in_remote(remote).items():
                known.setdefault(name, version)
                remotes.setdefault(name, []).append(remote.where)
            cached |= {name for name in known if _in_cache(name, remote)}
    newest = sorted(known.values(), key=lambda version: (version.created, version.hash), reverse=True)
    return [(version, _places(version, at, cached, remotes.get(version.hash, []))) for version in newest]


def _places(version: Version, at: Workspace, cached: set[str], remotes: list[str]) -> list[str]:
    """Locations of a version, including the recorded remotes, which are not checked."""
    pushed = [address.url for address in version.remotes if address.url]
    is_extracted = extracted_version(at.data(version.data, "extract")) == version.hash
    here = ["store"] * is_extracted + ["cache"] * (version.hash in cached)
    return [*here, *dict.fromkeys([*remotes, *pushed])]


def extracted_version(output: Path) -> str | None:
    """The version of the extracted data in `output`, if any."""
    try:
        return read_result(output).data_version
    except InputError:
        return None


def _in_cache(version: str, remote: Remote) -> bool:
    entries = remote.listing(version)
    return entries is not None and all(remote.path_in_cache(entry.md5).is_file() for entry in entries)


def in_repository(repository: Path) -> dict[str, Version]:
    """Versions that this workspace has extracted or checked out, by hash."""
    files = sorted((repository / FOLDER).glob("[!.]*.json"))
    return _parsed({str(file): file.read_bytes() for file in files})


def in_remote(remote: Remote) -> dict[str, Version]:
    return _parsed({f"{remote.where}, {name}": text for name, text in remote.records().items()})


def _parsed(records: dict[str, bytes]) -> dict[str, Version]:
    found = {}
    for where, text in records.items():
        try:
            version = Version.model_validate_json(text)
        except ValidationError as error:
            raise _damaged(describe(error), where) from None
        if not where.endswith(version.file_name()):
            raise _damaged(f"it belongs to {version.hash}", where)
        found[version.hash] = version
    return found


def _damaged(reason: str, where: str) -> InputError:
    return InputError(f"damaged record of a version: {reason}", where, "remove it, and extract again")
