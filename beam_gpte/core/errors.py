"""The one error class for mistakes that a user can repair."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says how to repair it.

    Programs print the message as one line and exit with 2.
    """
