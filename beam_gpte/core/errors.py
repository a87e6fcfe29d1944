"""Define the one error class for mistakes that a user can fix."""


class InputError(ValueError):
    """Report input that cannot be used; the message says how to fix it.

    Programs print the message as one line and exit with code 2.
    """
