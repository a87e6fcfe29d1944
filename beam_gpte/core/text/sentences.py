"""Find the sentences of a text: `split_sentences(text, "de")`.

By sentencex, the rules of Wikipedia's translation tools: a full stop ends a sentence unless it
follows an abbreviation of the language, a number or an initial, and a sentence in quotation marks
or brackets stays whole. When in doubt, nothing is split. Blank lines separate paragraphs; single
line breaks separate nothing.
"""

import re

from beam_gpte.core.errors import InputError

# languages with their own rules, then three that sentencex tests with rules shared by several
LANGUAGES = (
    *("am", "ar", "bg", "bn", "ca", "da", "de", "el", "en", "es", "fi"),
    *("fr", "gu", "hi", "hy", "it", "ja", "kk", "kn", "ml", "mr"),
    *("my", "nl", "pa", "pl", "pt", "ru", "sk", "ta", "te", "uk"),
    *("he", "ur", "zh"),
)

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


def split_sentences(text: str, language: str) -> list[tuple[int, int]]:
    """Find the spans of a text's sentences, in order.

    A span is from its first character to its last, exclusive, without surrounding white space.
    Every character that is not white space is in exactly one; a blank text has none. Takes time
    linear in the length of the text.

    Args:
      text: the text.
      language: one of `LANGUAGES`, an ISO 639 code.

    Raises:
      InputError: `language` is not one of `LANGUAGES`.
    """
    import sentencex

    check_language(language)
    found = sentencex.get_sentence_boundaries(language, _BLANK.sub(" ", text))
    spans = []
    for boundary in found:
        start, end = boundary["start_index"], boundary["end_index"]
        part = text[start:end]
        end -= len(part) - len(part.rstrip())
        start += len(part) - len(part.lstrip())
        if start < end:
            spans.append((start, end))
    return spans
