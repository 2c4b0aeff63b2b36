"""What the workspace holds, as an input of stages that Kubeflow's cache may answer for."""

import hashlib
import uuid
from collections.abc import Iterable
from pathlib import Path

from slowfast_core.stage import edition


def held(folders: Iterable[Path]) -> str:
    """Identity of the stages' results there are; another one at each call where one is missing.

    A result that is replaced never comes back under its old edition, not even with the same content. So a run that
    began with these and left them found nothing to do, and only what it handed on may be handed on again.
    """
    editions = [edition(folder) for folder in folders]
    if None in editions:
        return uuid.uuid4().hex
    return hashlib.sha256("\n".join(map(str, editions)).encode()).hexdigest()[:32]
