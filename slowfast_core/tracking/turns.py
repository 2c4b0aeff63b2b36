"""Turns: one process at a time decides about a registered model, wherever the others run.

MLflow has neither locks nor conditional writes. But each process can set a tag of its own, a claim, on the registered
model, and every read sees the tags that were set before it. Whoever sets its claim and then reads no other has the
turn: of two processes the second one to set its claim reads that of the first. So that they do not wait for each other,
all but the one with the smallest claim take theirs back (Lamport's one-bit algorithm, 1986). This holds for SQLite and
for a server alike, and for both at once; it does not where a server reads from a replica that lags behind.

A claim that nobody renews for `PATIENCE` seconds is that of a process that died, and is removed. Should its process
only have slept, two may decide at once: they have to look again after they acted.
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

CLAIM = "slowfast.deciding."  # and an id of the process
PATIENCE = 60.0
PAUSE = (0.05, 0.15)  # seconds between two looks, drawn so that processes do not look at the same time


@contextmanager
def turn(client: MlflowClient, name: str, owner: str) -> Iterator[None]:
    """Wait until no other process decides about the registered model `name`, and keep the others waiting.

    `owner` is another one for each process, and the same one for a process that goes on where a killed one was.
    """
    from mlflow.exceptions import MlflowException

    own = f"{CLAIM}{owner}"
    try:
        _wait(client, name, own)
        yield
    finally:
        with suppress(MlflowException):  # a claim that cannot be removed now is removed by those who wait
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
            client.set_registered_model_tag(name, own, str(beat))  # again and again: so the others see it is alive
            claimed = True
            if not others.read():
                return
        time.sleep(random.uniform(*PAUSE))


class Others:
    """The claims of the other processes."""

    def __init__(self, client: MlflowClient, name: str, own: str) -> None:
        self.client, self.name, self.own = client, name, own
        self.claims: dict[str, tuple[str, float]] = {}  # its value, and since when it has that

    def read(self) -> bool:
        """Whether there are any; those of dead processes are removed."""
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
