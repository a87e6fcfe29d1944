"""Decide whether a tokenizer's tokens of a text are those of its words, each tokenized alone.

It is so in two families. Tokenizers as BERT's drop blanks and cut there first, whatever stands on
the other side. Those as Llama's and XLM-R's write a blank as the first character of the next word,
also before the first one: texts whose words are divided by one space each can be cut there, if no
token goes on after a word has ended. Settings show which family it is, and each kind of blank is
tried. A text that cannot be cut is a word of its own, and any other tokenizer gets whole texts.
"""

import re
from collections.abc import Callable
from typing import Any

Words = Callable[[str], list[str]]

SPACE = "\u2581"  # how tokens write a space

# What Python's `str.split` cuts at.
BLANKS = [chr(code) for code in range(0x3001) if chr(code).isspace()]

# Steps that change each character, or each with its accents, alone.
_NORMALIZERS = ("BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD")
# Of these and others, those that neither make a space nor drop a word.
_VISIBLE = ("Lowercase", "NFC", "NFD", "Prepend", "Replace")
# Steps that cut at blanks and drop them.
_CUTTERS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
# Steps that look at a piece of a text, and not at where it was.
_OF_PIECES = (*_CUTTERS, "Digits", "Punctuation", "Split", "UnicodeScripts")


def word_splitter(backend: Any, settings: dict[str, Any]) -> Words | None:
    """Return what cuts a text into words for a tokenizer; None if it needs whole texts.

    Args:
      backend: the tokenizer.
      settings: of its tokenizer.json.
    """
    if (settings.get("model") or {}).get("dropout"):
        return None
    normalizers = _steps(settings.get("normalizer"), "normalizers")
    cutters = _steps(settings.get("pre_tokenizer"), "pretokenizers")
    added = [str(token.get("content")) for token in settings.get("added_tokens") or []]
    if _drops_blanks(normalizers, cutters, added):
        return _between_blanks(backend)
    if _marks_spaces(normalizers, cutters, settings):
        kinds = {step.get("type") for step in normalizers}
        return _between_spaces(added, bool(kinds.difference(_VISIBLE)))
    return None


def _steps(step: Any, name: str) -> list[dict[str, Any]]:
    """List the steps of a sequence."""
    if step is None:
        return []
    if step.get("type") == "Sequence":
        return [one for inner in step.get(name) or [] for one in _steps(inner, name)]
    return [step]


def _drops_blanks(
    normalizers: list[dict[str, Any]], cutters: list[dict[str, Any]], added: list[str]
) -> bool:
    return (
        all(step.get("type") in _NORMALIZERS for step in normalizers)
        and bool(cutters)
        and cutters[0].get("type") in _CUTTERS
        and all(step.get("type") in _OF_PIECES or _is_metaspace(step) for step in cutters[1:])
        and not any(re.search(r"\s", token) for token in added)
    )


def _is_metaspace(step: dict[str, Any], schemes: tuple[str, ...] = ("always",)) -> bool:
    mark = step.get("type") == "Metaspace" and step.get("replacement") == SPACE
    return mark and step.get("prepend_scheme") in schemes


def _marks_spaces(
    normalizers: list[dict[str, Any]], cutters: list[dict[str, Any]], settings: dict[str, Any]
) -> bool:
    """Check for a mark before each word, and that no token goes across it."""
    if not cutters:
        kinds = [step.get("type") for step in normalizers]
        return (
            kinds == ["Prepend", "Replace"]
            and normalizers[0].get("prepend") == SPACE
            and normalizers[1].get("pattern") == {"String": " "}
            and normalizers[1].get("content") == SPACE
            and _ends_with_words(settings.get("model") or {})
        )
    if not all(map(_harmless, normalizers)):
        return False
    first, *others = [step for step in cutters if step.get("type") != "WhitespaceSplit"] or [{}]
    if not _is_metaspace(first, ("always", "first")) or others:
        return False
    is_first = first.get("prepend_scheme") == "first" and len(cutters) > 1
    is_cut = first.get("split", True) or len(cutters) > 1
    return not is_first and (is_cut or _ends_with_words(settings.get("model") or {}))


def _harmless(step: dict[str, Any]) -> bool:
    """Check for a step that changes printable ASCII of single spaces by the character."""
    runs = step.get("type") == "Replace" and step.get("pattern") == {"Regex": " {2,}"}
    return step.get("type") in (*_NORMALIZERS, "Precompiled") or runs


def _ends_with_words(model: dict[str, Any]) -> bool:
    """Check that all merges of pairs of bytes are within words."""
    affixes = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    across = re.compile(f"[^{SPACE}]{SPACE}").search
    return (
        model.get("type") == "BPE"
        and not any(affixes)
        and not any(map(across, model.get("vocab") or {}))
    )


def _between_blanks(backend: Any) -> Words:
    """Cut at the blanks at which the tokenizer cuts, too."""
    cutting = "".join(blank for blank in BLANKS if _cuts(backend, blank))
    others = re.escape("".join(blank for blank in BLANKS if blank not in cutting))
    if not others:
        return str.split
    is_whole = re.compile(f"[{others}]").search
    return lambda text: [text] if is_whole(text) else text.split()


def _cuts(backend: Any, blank: str) -> bool:
    """Try whether the tokenizer drops a blank and cuts there."""

    def pieces(text: str) -> list[str]:
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]

    alone = pieces("ab") + pieces("a")
    texts = f"ab{blank}a", f"{blank}ab{blank}{blank}a{blank}"
    return all(pieces(text) == alone for text in texts)


def _between_spaces(added: list[str], ascii_only: bool) -> Words:
    """Cut texts of single spaces without marks and added tokens, which end a word, too."""
    is_whole = re.compile("|".join(map(re.escape, [SPACE, *filter(None, added)]))).search

    def words(text: str) -> list[str]:
        found = text.split()
        if " ".join(found) != text or is_whole(text):
            return [text]
        if ascii_only and not (text.isascii() and text.isprintable()):
            return [text]
        return found

    return words
