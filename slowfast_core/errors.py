"""The one error that users see: what is wrong, where, and how to mend it."""

from __future__ import annotations

import errno
from typing import Self

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: there is no room on disk


class InputError(Exception):
    """The input or the recipe is wrong; the command line prints it as one line and exits with 2."""

    def __init__(self, what: str, where: object, mend: str) -> None:
        super().__init__(f"{what} ({where}); {mend}")

    def __reduce__(self) -> tuple[object, ...]:
        return InputError.said, (str(self),)  # it crosses process borders

    @classmethod
    def said(cls, line: str) -> Self:
        """An error whose line another process has already written."""
        error = cls.__new__(cls)
        Exception.__init__(error, line)
        return error
