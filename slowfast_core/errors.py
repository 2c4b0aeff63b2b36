"""The one error that users see: what is wrong, where, and how to fix it."""

from __future__ import annotations

import errno
from typing import Self

from slowfast_core.credentials import without_credentials

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: there is no room on disk


class InputError(Exception):
    """The input or the recipe is wrong; the command line prints it as one line and exits with 2.

    Addresses in the line are without their credentials.
    """

    def __init__(self, what: str, where: object, mend: str) -> None:
        super().__init__(without_credentials(f"{what} ({where}); {mend}"))

    def __reduce__(self) -> tuple[object, ...]:
        return InputError.said, (str(self),)  # it crosses process borders

    @classmethod
    def said(cls, line: str) -> Self:
        """An error whose line another process has already written."""
        error = cls.__new__(cls)
        Exception.__init__(error, without_credentials(line))
        return error
