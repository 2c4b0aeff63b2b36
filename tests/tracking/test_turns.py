"""One process decides at a time: dead or suspended processes do not block others, live claims are respected."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from slowfast_core.tracking import turns
from slowfast_core.tracking.runs import connect
from slowfast_core.tracking.turns import CLAIM, turn

if TYPE_CHECKING:
    from flows import Flow

NAME = "model"


@pytest.fixture
def client(flow: Flow) -> Any:
    client = connect(flow.at.tracking_uri)
    client.create_registered_model(NAME)
    return client


def claims(client: Any) -> dict[str, str]:
    return dict(client.get_registered_model(NAME).tags)


def test_a_turn_leaves_no_claim_even_after_an_error(client: Any) -> None:
    with turn(client, NAME, "one"):
        assert claims(client) == {f"{CLAIM}one": "0"}
    assert claims(client) == {}
    with pytest.raises(ZeroDivisionError), turn(client, NAME, "one"):
        raise ZeroDivisionError
    assert claims(client) == {}


@pytest.mark.parametrize("owner", ["aaa", "zzz"])  # sorted before and after the dead process
def test_the_claim_of_a_killed_process_is_ignored_after_a_wait(
    client: Any, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    client.set_registered_model_tag(NAME, f"{CLAIM}dead", "3")
    monkeypatch.setattr(turns, "PATIENCE", 1.0)
    began = time.monotonic()
    with turn(client, NAME, owner):
        assert time.monotonic() - began >= 1.0
        assert list(claims(client)) == [f"{CLAIM}{owner}"]


def test_a_restarted_process_takes_over_its_own_claim(client: Any) -> None:
    """Otherwise it would wait for itself."""
    client.set_registered_model_tag(NAME, f"{CLAIM}dead", "3")
    with turn(client, NAME, "dead"):
        pass
    assert claims(client) == {}


@pytest.mark.parametrize("owner", ["aaa", "zzz"])
def test_a_renewed_claim_is_waited_for(client: Any, monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.5)
    entered, done = threading.Event(), threading.Event()

    def enter() -> None:
        with turn(client, NAME, owner):
            entered.set()
            done.wait(60)

    client.set_registered_model_tag(NAME, f"{CLAIM}other", "0")
    waiting = threading.Thread(target=enter)
    waiting.start()
    for beat in range(1, 15):
        time.sleep(0.1)
        client.set_registered_model_tag(NAME, f"{CLAIM}other", str(beat))
        assert not entered.is_set()
    client.delete_registered_model_tag(NAME, f"{CLAIM}other")
    assert entered.wait(60)
    done.set()
    waiting.join()
