"""The one error that users see: what is wrong, where, and how to fix it."""

from __future__ import annotations

import errno
from typing import Self

from slowfast_core.credentials import without_credentials

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: there is no room on disk
LONGEST = 2000  # characters of each part of a message


class InputError(Exception):
    """The input or the recipe is wrong; the command line prints it as one line and exits with 2.

    What comes from a file may hold line ends, escape sequences of terminals or megabytes, and is shortened and escaped.
    Addresses in the line are without their credentials.
    """

    def __init__(self, what: str, where: object, mend: str) -> None:
        parts = (one_line(without_credentials(part)) for part in (what, str(where), mend))
        super().__init__("{} ({}); {}".format(*parts))

    def __reduce__(self) -> tuple[object, ...]:
        return InputError.said, (str(self),)  # it crosses process borders

    @classmethod
    def said(cls, line: str) -> Self:
        """An error whose line another process has already written."""
        error = cls.__new__(cls)
        Exception.__init__(error, without_credentials(line))
        return error


def one_line(text: str) -> str:
    """The text with escapes in place of what a terminal would not show as a character, and its middle left out."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 200]} ... {text[-100:]}"
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
