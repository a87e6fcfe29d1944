"""Find the sentences of a text: `split_sentences(text, "de")`.

By sentencex, the rules of Wikipedia's translation tools: a full stop ends a sentence unless it
follows an abbreviation of the language, a number or an initial, and a sentence in quotation marks
or brackets stays whole. When in doubt, nothing is split. Blank lines separate paragraphs; single
line breaks separate nothing.
"""

import array
import re
from collections.abc import Iterator

import numpy as np

from beam_gpte.core.errors import InputError

# languages with their own rules, then three that sentencex tests with rules shared by several
LANGUAGES = (
    *("am", "ar", "bg", "bn", "ca", "da", "de", "el", "en", "es", "fi"),
    *("fr", "gu", "hi", "hy", "it", "ja", "kk", "kn", "ml", "mr"),
    *("my", "nl", "pa", "pl", "pt", "ru", "sk", "ta", "te", "uk"),
    *("he", "ur", "zh"),
)

PIECE = 1 << 14  # characters to split at once, or up to the end of a paragraph
MAX_PARAGRAPH = 1 << 16  # characters that are split at once
AHEAD = 256  # characters after a sentence that may matter for where it ends

# replaced one for one: sentencex 1.0.32 panics at a full stop before white space of several bytes
# (U+00A0)
_BLANK = re.compile(r"[^\S\n]")


def check_language(language: str) -> None:
    """Refuse a language without rules.

    Raises:
      InputError: `language` is not one of `LANGUAGES`.
    """
    if language not in LANGUAGES:
        raise InputError(
            f"language is {language!r}; sentences are split by rules for {', '.join(LANGUAGES)}: "
            "use the one with the most similar punctuation and abbreviations"
        )


def split_sentences(text: str, language: str) -> np.ndarray:
    """Find the spans of a text's sentences, in order: int64 (n, 2).

    A span is from its first character to its last, exclusive, without surrounding white space.
    Every character that is not white space is in exactly one; a blank text has none. Takes time
    and memory linear in the length of the text: paragraphs are split `PIECE` characters at a time,
    so a quotation of a paragraph of more than `MAX_PARAGRAPH` may be split too.

    Args:
      text: the text.
      language: one of `LANGUAGES`, an ISO 639 code.

    Raises:
      InputError: `language` is not one of `LANGUAGES`.
    """
    check_language(language)
    found = array.array("q")
    for start, part in _parts(_BLANK.sub(" ", text), language):
        bare = part.lstrip()
        if bare:
            start += len(part) - len(bare)
            found.extend((start, start + len(bare.rstrip())))
    return np.array(found, np.int64).reshape(-1, 2)


def _parts(text: str, language: str) -> Iterator[tuple[int, str]]:
    """Yield the sentences and breaks between paragraphs that a text consists of, and their places.

    sentencex keeps a dict of each sentence of what it is given, and takes the square of the time
    for text without blanks.
    """
    import sentencex

    start, end, size = 0, 0, PIECE
    while start < len(text):
        end = end if start < end else _paragraph_end(text, start)
        is_whole = end - start <= MAX_PARAGRAPH or start + size >= end
        piece = text[start : end if is_whole else start + size]
        at = 0
        for part in sentencex.segment(language, piece):
            if not is_whole and at + len(part) > len(piece) - AHEAD:
                break  # what follows may change where it ends
            yield start + at, part
            at += len(part)
        start, size = start + at, PIECE if at else 2 * size


def _paragraph_end(text: str, start: int) -> int:
    """Find the end of the first paragraph that ends at least `PIECE` after `start`."""
    at = start + PIECE
    before = text[start:at]
    at += (len(before) - len(before.rstrip("\n"))) % 2  # a break is two line breaks
    end = text.find("\n\n", at)
    return len(text) if end < 0 else end + 2
