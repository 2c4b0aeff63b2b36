"""User names, passwords and tokens in addresses: used to connect, never written or printed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

VARIABLE = "SLOWFAST_CREDENTIALS"  # in which the stages of a run on this machine get the addresses as they were given
# Up to the last @ of the authority; a password may hold what should have been percent-encoded. All repeats that could
# cross another address are bounded, so that no text takes long.
NOT_NAME_OF_SSH = r"(?!(?<=ssh://)[^\s/:@]*@)"  # it is part of the address there, and no secret
USER_INFO = re.compile(rf"(?<=://){NOT_NAME_OF_SSH}(?:[^\s/?#<>]*|[^\s/@:]{{1,200}}:(?!\d+/)[^\s@]{{0,200}})@")
SECRET = "sig|token|secret|passw|pwd|credential|api_?key|access_?key|auth"
QUERY = re.compile(rf"([?&;][\w.%-]{{0,60}}(?:{SECRET})[\w.%-]{{0,60}}=)[^&\s'\")>]+", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """`text` without the user info of the URIs in it and without the secret values of their queries.

    The name alone stays in `ssh://name@host`.
    """
    return QUERY.sub(r"\1***", USER_INFO.sub("", text))


def stripped(value: Any) -> Any:
    """`value`, a tree of dicts, lists and tuples, with `without_credentials` applied to each of its strings."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {name: stripped(item) for name, item in value.items()}
    return type(value)(map(stripped, value)) if type(value) in (list, tuple) else value


def for_stages(*trees: Any) -> str:
    """The value of VARIABLE for the stages of recipes: each address with credentials, by the one without."""
    found = (text for tree in trees for text in _strings(tree))
    return json.dumps({bare: text for text in found if (bare := without_credentials(text)) != text})


def left_out(where: str, *trees: Any) -> list[str]:
    """A line for each address whose credentials do not go to `where`."""
    bare = sorted(json.loads(for_stages(*trees)))
    return [
        f"the credentials in {address} are left out of {where}, whose environment has to have them" for address in bare
    ]


def restored(tree: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """`tree` with the credentials that VARIABLE holds for its addresses."""
    known = json.loads(environment.get(VARIABLE) or "{}")
    return _restored(tree, known) if known else tree


def _restored(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _restored(item, known) for name, item in value.items()}
    if isinstance(value, list):
        return [_restored(item, known) for item in value]
    return known.get(value, value) if isinstance(value, str) else value


def _strings(value: Any) -> Iterator[str]:
    """All strings in a tree whose branches are dicts, lists, tuples and objects with fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
    elif isinstance(fields := value if isinstance(value, dict) else getattr(value, "__dict__", None), dict):
        for item in fields.values():
            yield from _strings(item)
