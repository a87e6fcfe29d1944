"""Number the format of what is written, so that a later one is refused instead of misread.

Metadata of vectors, the ledger of a database, saved indexes and fitted postprocessing carry the
number. What carries none is of version 0.1.0, whose format is 1. `tests/formats/` keeps what each
version wrote; all of it has to be read.
"""

import dataclasses
import json
from typing import Any, ClassVar, Self

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


class JsonMetadata:
    """Give a dataclass with a field `format` its JSON, which later versions read and may extend."""

    _what: ClassVar[str]  # carries it, as in "the vectors"

    def to_json(self) -> str:
        """Return all fields as JSON with sorted keys."""
        fields: Any = self  # a dataclass
        return json.dumps(dataclasses.asdict(fields), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; fields of later versions are ignored.

        Raises:
          InputError: it has a later format.
        """
        known: Any = cls
        fields, found = {field.name for field in dataclasses.fields(known)}, json.loads(text)
        check_format(found.get("format"), cls._what)
        return cls(**{name: value for name, value in found.items() if name in fields})
