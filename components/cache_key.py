"""The results in the workspace, as an input of stages that Kubeflow's cache may answer for."""

import hashlib
import uuid
from collections.abc import Iterable
from pathlib import Path

from slowfast_core.once import edition, stage_version


def cache_key(folders: Iterable[Path]) -> str:
    """Identity of the stages' results in `folders` and of the code that makes them; a new one at each call where a
    result is missing.

    A result that is replaced never comes back under its old edition, not even with the same content. So a run that
    began with these and left them found nothing to do, and only what it handed on may be handed on again. A stage's
    folder has the stage's name.
    """
    found = {folder: edition(folder) for folder in folders}
    if None in found.values():
        return uuid.uuid4().hex
    lines = [f"{there} {folder.name} {stage_version(folder.name)}" for folder, there in found.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
