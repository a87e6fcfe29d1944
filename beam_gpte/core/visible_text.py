"""Decide whether a value is a text with something to read: one rule for every door.

A text of white space, control and format characters only, such as U+200B or a soft hyphen, counts
as empty: tokenizers drop these characters, and all such texts would get one vector.
"""

import re

from beam_gpte.core.errors import InputError

# Code points that show nothing: white space, control and format characters (categories Z*, Cc and
# Cf without the signs of Arabic, Syriac and Kaithi numbers, which are seen), and the others that
# Unicode calls Default_Ignorable (fillers, variation selectors, joiners) or draws blank (Braille).
_INVISIBLE = (
    (0x0, 0x20),
    (0x7F, 0xA0),
    (0xAD, 0xAD),
    (0x34F, 0x34F),
    (0x61C, 0x61C),
    (0x115F, 0x1160),
    (0x1680, 0x1680),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2000, 0x200F),
    (0x2028, 0x202F),
    (0x205F, 0x206F),
    (0x2800, 0x2800),
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)

# A regular expression of one visible character, the same to Python and to Arrow (RE2).
VISIBLE = "[^" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _INVISIBLE) + "]"

EMPTY = "text is empty: it has no visible character"

_find_visible = re.compile(VISIBLE).search


def is_visible(text: str) -> bool:
    """Check whether a text has a visible character."""
    return _find_visible(text) is not None


def check_texts(texts: list[str], call: str) -> None:
    """Refuse what is not a list of strings.

    Args:
      texts: the argument of `call`.
      call: names it in the message, such as ``encode``.

    Raises:
      InputError: it is one string, or holds something else than strings, or a string that is not
        valid Unicode; the message names its position.
    """
    if isinstance(texts, str | bytes):
        raise InputError(f"{texts[:40]!r} is one text, not a list of texts; call {call}([text])")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            kind = "None" if text is None else f"of type {type(text).__qualname__}"
            raise InputError(f"text {position} is {kind}; give strings, or leave it out")
        if not text.isascii():  # ASCII, which Python knows without a look, holds no surrogates
            check_unicode(text, f"text {position}")


def check_unicode(text: str, name: str) -> None:
    """Refuse a text with a lone surrogate.

    Raises:
      InputError: it has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} is not valid Unicode: {text[error.start]!a} at {error.start} is half a "
            "character; decode it again from the source"
        ) from error
