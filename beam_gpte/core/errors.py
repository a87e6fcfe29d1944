"""Define the errors of mistakes that a user can fix."""


class InputError(ValueError):
    """Report input that cannot be used; the message says how to fix it.

    Programs print the message as one line and exit with code 2.
    """


class NoRowsError(InputError):
    """Report a run that read no row, or rejected all: its previous output stays as it is.

    Programs print the message as one line and exit with code 3.
    """
