"""Mark the differences of two texts as HTML: `<del>` only in the first, `<ins>` only in the second.

Every function returns markup that is safe to put into a page.
"""

import difflib
import re
from collections.abc import Iterator
from html import escape

# a letter of a script without blanks between words, a word, white space, or a sign
_NO_BLANKS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f"
_TOKEN = re.compile(rf"[{_NO_BLANKS}]|[^\W{_NO_BLANKS}]+|\s+|[^\w\s]")
_BREAK = "<i>↵</i>\n"  # a line break that only one text has would not be seen
# what a translation leaves unchanged: addresses, placeholders, numbers
_INVARIANT = re.compile(r"https?://\S+|%\(\w+\)[a-z]|%[a-z]\b|\{\w*\}|\d+(?:[.,:]\d+)*")


def mark_differences(first: str, second: str, max_characters: int) -> tuple[str, str]:
    """Compare the first `max_characters` of both, word by word, and mark both.

    White space counts, since it may be the only difference; line breaks are kept, and those that
    only one text has are shown as ↵ besides. Truncation is not a difference: where a text
    continues, its end is not marked.
    """
    parts = list(_differences(first, second, max_characters))
    return "".join(one for one, _ in parts), "".join(other for _, other in parts)


def merge_differences(first: str, second: str, max_characters: int) -> str:
    """Merge both into one text that has the words of both, marked."""
    parts = _differences(first, second, max_characters)
    return "".join(
        other if one == other or not one.startswith("<del>") else one + other
        for one, other in parts
    )


def _differences(first: str, second: str, max_characters: int) -> Iterator[tuple[str, str]]:
    ends = "…" * (len(first) >= max_characters), "…" * (len(second) >= max_characters)
    a, b = _TOKEN.findall(first[:max_characters]), _TOKEN.findall(second[:max_characters])
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        one, other = escape("".join(a[i1:i2])), escape("".join(b[j1:j2]))
        if kind == "equal" or (any(ends) and i2 == len(a) and j2 == len(b)):
            yield one, other
        else:
            yield _marked(one, "del"), _marked(other, "ins")
    yield ends


def _marked(text: str, tag: str) -> str:
    return text and f"<{tag}>{text.replace(chr(10), _BREAK)}</{tag}>"


def mark_untranslated(source: str, target: str) -> tuple[str, str]:
    """Mark the numbers, placeholders and addresses of a pair of translations that only one has."""
    source_found, target_found = (_INVARIANT.findall(text) for text in (source, target))
    return _mark(source, target_found, "del"), _mark(target, source_found, "ins")


def _mark(text: str, counterparts: list[str], tag: str) -> str:
    parts, end, unmatched = [], 0, list(counterparts)
    for found in _INVARIANT.finditer(text):
        parts.append(escape(text[end : found.start()]))
        if found.group() in unmatched:
            unmatched.remove(found.group())
            parts.append(escape(found.group()))
        else:
            parts.append(f"<{tag}>{escape(found.group())}</{tag}>")
        end = found.end()
    return "".join([*parts, escape(text[end:])])
