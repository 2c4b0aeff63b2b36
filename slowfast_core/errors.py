"""InputError: the error shown to users, with what is wrong, where, and how to fix it."""

from __future__ import annotations

import errno
from typing import Self

from slowfast_core.credentials import without_credentials

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errno values for a full disk or an exhausted quota
LONGEST = 2000  # characters of each part of a message


class InputError(Exception):
    """The input or the recipe is wrong; the command line prints the message as one line and exits with code 2.

    Text from files may contain line breaks, terminal escape sequences or megabytes: each part is shortened and escaped.
    Credentials in addresses are removed.
    """

    def __init__(self, what: str, where: object, fix: str) -> None:
        parts = (one_line(without_credentials(part)) for part in (what, str(where), fix))
        super().__init__("{} ({}); {}".format(*parts))

    def __reduce__(self) -> tuple[object, ...]:
        return InputError.from_line, (str(self),)  # lets the error be pickled between processes

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Create an error from the complete message of an InputError in another process."""
        error = cls.__new__(cls)
        Exception.__init__(error, without_credentials(line))
        return error


def one_line(text: str) -> str:
    """Escape non-printable characters in `text` and shorten it to LONGEST by leaving out its middle."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 200]} ... {text[-100:]}"
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
