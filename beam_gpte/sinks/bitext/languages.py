"""Check the codes of languages that files name."""

import re

from beam_gpte.core.errors import InputError

# BCP 47, as TMX asks for: a language, and scripts, regions and variants after hyphens
_CODE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


def check_languages(source: str, target: str) -> None:
    """Refuse what is not the codes of two languages.

    Raises:
      InputError: one is not a code, or both are the same.
    """
    for name, code in (("source_language", source), ("target_language", target)):
        if not _CODE.fullmatch(code):
            raise InputError(f"{name} is {code!r}; use a code such as de, pt-BR or zh-Hant")
    if source.lower() == target.lower():
        raise InputError(f"source_language and target_language are both {source!r}; name two")
