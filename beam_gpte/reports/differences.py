"""Two texts with their differences marked, as HTML: `<del>` is what the first has alone, `<ins>` the second.

Every function gives markup that is safe to put into a page.
"""

import difflib
import re
from collections.abc import Iterator
from html import escape

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
# what a translation leaves as it is: addresses, placeholders, numbers
_FIXED = re.compile(r"https?://\S+|%\(\w+\)[a-z]|%[a-z]\b|\{\w*\}|\d+(?:[.,:]\d+)*")


def mark_differences(first: str, second: str, shown: int) -> tuple[str, str]:
    """The first `shown` characters of both, word by word; white space counts as it is, since it may be all that differs.

    What is cut off makes no difference: where a text goes on, its end is not marked.
    """
    parts = list(_differences(first, second, shown))
    return "".join(one for one, _ in parts), "".join(other for _, other in parts)


def merge_differences(first: str, second: str, shown: int) -> str:
    """One text that has the words of both."""
    parts = _differences(first, second, shown)
    return "".join(
        other if one == other or not one.startswith("<del>") else one + other
        for one, other in parts
    )


def _differences(first: str, second: str, shown: int) -> Iterator[tuple[str, str]]:
    ends = "…" * (len(first) >= shown), "…" * (len(second) >= shown)
    a, b = _TOKEN.findall(first[:shown]), _TOKEN.findall(second[:shown])
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        one, other = escape("".join(a[i1:i2])), escape("".join(b[j1:j2]))
        if kind == "equal" or (any(ends) and i2 == len(a) and j2 == len(b)):
            yield one, other
        else:
            yield one and f"<del>{one}</del>", other and f"<ins>{other}</ins>"
    yield ends


def mark_untranslated(source: str, target: str) -> tuple[str, str]:
    """Both texts, of two languages: marked are numbers, placeholders and addresses that the other one does not have."""
    fixed = [_FIXED.findall(text) for text in (source, target)]
    return _mark(source, fixed[1], "del"), _mark(target, fixed[0], "ins")


def _mark(text: str, there: list[str], tag: str) -> str:
    parts, end, left = [], 0, list(there)
    for found in _FIXED.finditer(text):
        parts.append(escape(text[end : found.start()]))
        if found.group() in left:
            left.remove(found.group())
            parts.append(escape(found.group()))
        else:
            parts.append(f"<{tag}>{escape(found.group())}</{tag}>")
        end = found.end()
    return "".join([*parts, escape(text[end:])])
