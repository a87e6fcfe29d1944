"""Number the format of what is written, so that a later one is refused instead of misread.

Metadata of vectors, the ledger of a database, saved indexes and fitted postprocessing carry the
number. What carries none is of version 0.1.0, whose format is 1. `tests/formats/` keeps what each
version wrote; all of it has to be read.
"""

from beam_gpte.core.errors import InputError

FORMAT = 1


def check_format(found: object, what: str) -> None:
    """Refuse a later format.

    Args:
      found: the number; None where there is none.
      what: carries it, as in "the saved index".

    Raises:
      InputError: this version does not know it.
    """
    if found is not None and int(str(found)) > FORMAT:
        raise InputError(
            f"{what}: format {found} is of a later version of beam_gpte, and this one reads up to "
            f"{FORMAT}; install the later version"
        )
