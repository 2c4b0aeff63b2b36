"""Checkpoints are written atomically, damaged ones are skipped, and the last k are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slowfast_core.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint, step_of


def save(folder: Path, step: int, keep: int = 3) -> Path:
    state = {"step": step, "model": {"w": torch.full((4, 4), float(step))}, "optimizer": {"state": {0: step}}}
    return save_checkpoint(folder, state, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 12)
    assert newest_checkpoint(tmp_path) == (path, [])
    assert step_of(path) == 12
    state = load_checkpoint(path)
    assert (state["step"], state["optimizer"]) == (12, {"state": {0: 12}})
    assert torch.equal(state["model"]["w"], torch.full((4, 4), 12.0))


def test_a_missing_or_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") == (None, [])
    assert newest_checkpoint(tmp_path) == (None, [])


def test_the_last_k_steps_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11, 100, 1000):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-000000100", "step-000001000"]
    assert newest_checkpoint(tmp_path)[0] == tmp_path / "step-000001000"


def truncate(path: Path) -> None:
    state = path / "state.pt"
    state.write_bytes(state.read_bytes()[:-7])


def change_a_byte(path: Path) -> None:
    data = bytearray((path / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "state.pt").write_bytes(data)


def empty_the_checksum(path: Path) -> None:
    (path / "sha256.json").write_text("")


def replace_the_checksum(path: Path) -> None:
    (path / "sha256.json").write_text(json.dumps(["state.pt"]))


def remove_the_state(path: Path) -> None:
    (path / "state.pt").unlink()


def remove_the_checksum(path: Path) -> None:
    (path / "sha256.json").unlink()


@pytest.mark.parametrize(
    "damage", [truncate, change_a_byte, empty_the_checksum, replace_the_checksum, remove_the_state, remove_the_checksum]
)
def test_an_incomplete_newest_checkpoint_is_skipped(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    older, newest = save(tmp_path, 1), save(tmp_path, 2)
    damage(newest)
    assert newest_checkpoint(tmp_path) == (older, [newest])
    damage(older)
    assert newest_checkpoint(tmp_path) == (None, [newest, older])


def test_an_incomplete_checkpoint_is_written_again(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    truncate(path)
    save(tmp_path, 2)
    assert newest_checkpoint(tmp_path) == (path, [])


@pytest.mark.parametrize("keep", [1, 2])
def test_incomplete_checkpoints_do_not_count_as_kept(tmp_path: Path, keep: int) -> None:
    for step in (1, 2, 9):
        incomplete = save(tmp_path, step)
    truncate(incomplete)
    newest = save(tmp_path, 3, keep)
    assert newest_checkpoint(tmp_path) == (newest, [])
    assert names(tmp_path) == ["step-000000002", "step-000000003"][-keep:]


def test_leftovers_of_a_killed_process_are_ignored_and_deleted(tmp_path: Path) -> None:
    (tmp_path / ".step-000000007").mkdir()
    (tmp_path / ".step-000000007" / "state.pt").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) == (None, [])
    save(tmp_path, 5)
    assert names(tmp_path) == ["step-000000005"]


def test_a_failed_save_leaves_no_checkpoint(tmp_path: Path) -> None:
    older = save(tmp_path, 1)
    with pytest.raises(AttributeError, match="pickle"):
        save_checkpoint(tmp_path, {"step": 2, "model": {"w": lambda: None}}, 3)
    assert newest_checkpoint(tmp_path) == (older, [])
