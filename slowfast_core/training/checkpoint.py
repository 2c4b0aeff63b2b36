"""Checkpoints of a training in progress: written whole, checksummed, the last k kept, a torn one passed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from slowfast_core.files import sha256_of, sync, write_whole

STATE, SUMS = "state.pt", "sha256.json"


def save_checkpoint(folder: Path, state: Mapping[str, Any], keep: int) -> Path:
    """Write `folder/step-N` whole, N being `state["step"]`; the last `keep` stay.

    Random states are functions of (seed, step, rank) and need no saving.
    """
    step = int(state["step"])
    final = folder / f"step-{step:09d}"
    temporary = folder / f".{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    torch.save(dict(state), temporary / STATE)
    sync(temporary / STATE)
    write_whole(temporary / SUMS, json.dumps({STATE: sha256_of(temporary / STATE)}))
    if final.exists():  # a torn one of the same step
        shutil.rmtree(final)
    temporary.rename(final)
    sync(folder)
    saved = sorted(folder.glob("step-*"))
    torn = [path for path in saved if step_of(path) > step]  # training went on from before them
    unfinished = folder.glob(".step-*")  # by a process that was killed
    for path in [*torn, *unfinished, *saved[: -keep - len(torn)]]:
        shutil.rmtree(path)
    return final


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint, and the torn ones that were passed over."""
    torn: list[Path] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        if _whole(path):
            return path, torn
        torn.append(path)
    return None, torn


def load_checkpoint(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path / STATE, weights_only=True, map_location="cpu")
    return state


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _whole(path: Path) -> bool:
    try:
        sums = json.loads((path / SUMS).read_text())
        return bool(sums[STATE] == sha256_of(path / STATE))
    except (OSError, ValueError, KeyError, TypeError):
        return False
