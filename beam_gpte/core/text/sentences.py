"""Where the sentences of a text are: `split_sentences(text, "de")`.

By sentencex, the rules that Wikipedia's translation tools use: a full stop ends a sentence unless it follows an abbreviation
of the language, a number or an initial, and a sentence in quotation marks or brackets stays whole. When in doubt, nothing is
split. Blank lines part paragraphs, single line breaks part nothing.
"""

import re

from beam_gpte.core.errors import InputError

# with rules of their own, then three that its authors test with rules that several languages share
LANGUAGES = (
    *(
        "am",
        "ar",
        "bg",
        "bn",
        "ca",
        "da",
        "de",
        "el",
        "en",
        "es",
        "fi",
        "fr",
        "gu",
        "hi",
        "hy",
        "it",
        "ja",
        "kk",
        "kn",
    ),
    *("ml", "mr", "my", "nl", "pa", "pl", "pt", "ru", "sk", "ta", "te", "uk"),
    *("he", "ur", "zh"),
)

# one for one: sentencex 1.0.32 panics at a full stop before blanks of several bytes (U+00A0)
_BLANK = re.compile(r"[^\S\n]")


def check_language(language: str) -> None:
    """Refuse a language without rules.

    Raises:
      InputError: `language` is none of `LANGUAGES`.
    """
    if language not in LANGUAGES:
        raise InputError(
            f"language is {language!r}; sentences are split by rules for {', '.join(LANGUAGES)}: use the one whose "
            "punctuation and abbreviations are nearest"
        )


def split_sentences(text: str, language: str) -> list[tuple[int, int]]:
    """The spans of a text's sentences, in order: characters from start to end, exclusive, without the blanks around.

    Every character that is no white space is in exactly one of them; a blank text has none. Takes time in proportion to the
    text.

    Args:
      language: one of `LANGUAGES`, ISO 639.

    Raises:
      InputError: `language` is another.
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
