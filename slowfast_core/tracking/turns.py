"""Mutual exclusion between processes, on any machine, that decide about a registered model.

MLflow has neither locks nor conditional writes. But each process can set its own tag, a claim, on the registered model,
and every read sees the tags set before it. A process that sets its claim and then reads no other claim has the turn: of
two processes, the second to set its claim reads the first one's claim. To avoid a deadlock, all but the process with
the smallest claim withdraw theirs (Lamport's one-bit algorithm, 1986). This works with SQLite, with a server, and with
both at once, but not with a server that reads from a replica that lags behind.

A claim that is not renewed for `PATIENCE` seconds belongs to a dead process and is removed. If that process was only
suspended, two processes may decide at once; they must therefore check again after they have acted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLAIM = "slowfast.deciding."  # prefix of a claim, followed by an id of the process
PATIENCE = 60.0  # seconds
PAUSE = (0.05, 0.15)  # seconds between two reads, random so that processes do not read at the same time


@contextmanager
def turn(client: MlflowClient, name: str, owner: str) -> Iterator[None]:
    """Hold the turn for the registered model `name` inside the block; wait for it first.

    `owner` is unique to a process, except that a process which resumes a killed one has the same owner.
    """
    from mlflow.exceptions import MlflowException

    own = f"{CLAIM}{owner}"
    try:
        _wait(client, name, own)
        yield
    finally:
        with suppress(MlflowException):  # waiting processes remove a claim that cannot be removed now
            client.delete_registered_model_tag(name, own)


def _wait(client: MlflowClient, name: str, own: str) -> None:
    others = Others(client, name, own)
    claimed = False
    for beat in count():
        if others.read() and min(others.claims) < own:
            if claimed:
                client.delete_registered_model_tag(name, own)
            claimed = False
        else:
            client.set_registered_model_tag(name, own, str(beat))  # renewed in each pass, as a sign of life
            claimed = True
            if not others.read():
                return
        time.sleep(random.uniform(*PAUSE))


class Others:
    """The claims of the other processes."""

    def __init__(self, client: MlflowClient, name: str, own: str) -> None:
        self.client, self.name, self.own = client, name, own
        self.claims: dict[str, tuple[str, float]] = {}  # claim -> (value, time since which it has this value)

    def read(self) -> bool:
        """Return whether there are other claims; removes claims of dead processes."""
        tags = self.client.get_registered_model(self.name).tags
        now, before = time.monotonic(), self.claims
        there = {key: value for key, value in tags.items() if key.startswith(CLAIM) and key != self.own}
        unchanged = {key for key, value in there.items() if key in before and before[key][0] == value}
        self.claims = {key: before[key] if key in unchanged else (value, now) for key, value in there.items()}
        for key, (_, since) in list(self.claims.items()):
            if now - since > PATIENCE:
                self.client.delete_registered_model_tag(self.name, key)
                del self.claims[key]
        return bool(self.claims)
