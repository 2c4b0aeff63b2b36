"""The one error that users see: what is wrong, where, and how to mend it."""


class InputError(Exception):
    """The input or the recipe is wrong; the command line prints it as one line and exits with 2."""

    def __init__(self, what: str, where: object, mend: str) -> None:
        super().__init__(f"{what} ({where}); {mend}")
