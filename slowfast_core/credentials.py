"""Removes user names, passwords and tokens from addresses: they are used to connect, never written or printed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

VARIABLE = "SLOWFAST_CREDENTIALS"  # environment variable that passes the full addresses to stages on this machine
# Matches up to the last @ of the authority, because a password may contain characters that should have been
# percent-encoded. Repetitions that could cross another address are bounded, which bounds the run time.
NOT_SSH_USER = r"(?!(?<=ssh://)[^\s/:@]*@)"  # the user name is part of an ssh address and not a secret
USER_INFO = re.compile(rf"(?<=://){NOT_SSH_USER}(?:[^\s/?#<>]*|[^\s/@:]{{1,200}}:(?!\d+/)[^\s@]{{0,200}})@")
SECRET = "sig|token|secret|passw|pwd|credential|api_?key|access_?key|auth"
QUERY = re.compile(rf"([?&;][\w.%-]{{0,60}}(?:{SECRET})[\w.%-]{{0,60}}=)[^&\s'\")>]+", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Remove user info from the URIs in `text` and replace secret query values by ***.

    A user name without a password is kept in `ssh://name@host`.
    """
    return QUERY.sub(r"\1***", USER_INFO.sub("", text))


def stripped(value: Any) -> Any:
    """Apply `without_credentials` to every string in a tree of dicts, lists and tuples."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {name: stripped(item) for name, item in value.items()}
    return type(value)(map(stripped, value)) if type(value) in (list, tuple) else value


def for_stages(*trees: Any) -> str:
    """Return the value of VARIABLE for `trees`: a JSON object from each stripped address to the full address."""
    texts = (text for tree in trees for text in _strings(tree))
    return json.dumps({bare: text for text in texts if (bare := without_credentials(text)) != text})


def left_out(where: str, *trees: Any) -> list[str]:
    """Return one warning for each address that loses its credentials when it is passed to `where`."""
    bare = sorted(json.loads(for_stages(*trees)))
    return [f"the credentials in {address} are not passed to {where}; set them in its environment" for address in bare]


def restored(tree: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """Replace stripped addresses in `tree` by the full addresses in VARIABLE."""
    known = json.loads(environment.get(VARIABLE) or "{}")
    return _restored(tree, known) if known else tree


def _restored(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _restored(item, known) for name, item in value.items()}
    if isinstance(value, list):
        return [_restored(item, known) for item in value]
    return known.get(value, value) if isinstance(value, str) else value


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a tree of dicts, lists, tuples and objects with a `__dict__`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
    elif isinstance(fields := value if isinstance(value, dict) else getattr(value, "__dict__", None), dict):
        for item in fields.values():
            yield from _strings(item)
