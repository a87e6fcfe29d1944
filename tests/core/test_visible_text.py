"""One rule decides which texts hold something to read, in Python and in Arrow."""

import sys
import unicodedata

import pyarrow as pa
import pytest

from beam_gpte import InputError
from beam_gpte.core.visible_text import check_texts, is_visible
from beam_gpte.elements.checks import text_defects

INVISIBLE = [
    "",
    " \t\r\n",
    "\x00",
    "\u00a0\u2003\u3000",
    "\u200b",
    "\ufeff",
    "\u00ad\u00ad",
    "\u200e\u202a\u202c\u2066\u2069",
    "\u2060\u2063",
    "\ufe0f\U000e0101",
    "\u034f\u115f\u3164\uffa0\u2800",
    "\U000e0041\U000e007f",
    "\x1b\x7f\x85",
    "\u200b \ufeff\n",
]
VISIBLE = ["a", "\u200ba", ".", "日", "🙂", "\u0301", "é\u200d", "0", "\u06dd", "\ufffd", "  x  "]
# Signs of numbers and verses that Unicode counts as format characters, and draws.
DRAWN = (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)


def test_texts_with_nothing_to_see_are_empty() -> None:
    assert not any(map(is_visible, INVISIBLE))
    assert all(map(is_visible, VISIBLE))


def test_arrow_decides_as_python_does() -> None:
    texts = [*INVISIBLE, *VISIBLE]
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary()):
        values = [text.encode() for text in texts] if kind == pa.binary() else texts
        found = text_defects(pa.array(values, kind)).to_pylist()
        assert [reason is None for reason in found] == [is_visible(text) for text in texts]
    assert text_defects(pa.array(["", " ", "\u200b", None, "a"])).to_pylist() == [
        "text is empty",
        "text is blank",
        "text is empty: it has no visible character",
        "text is null",
        None,
    ]


def test_the_ranges_are_those_of_unicode() -> None:
    """Every control, format and space character, and few others; those of newer versions too."""
    names = {chr(c): unicodedata.category(chr(c)) for c in range(sys.maxunicode + 1)}
    names = {char: kind for char, kind in names.items() if kind not in ("Cs", "Co", "Cn")}
    silent = {c for c, kind in names.items() if kind in ("Cc", "Cf", "Zs", "Zl", "Zp")}
    missed = {hex(ord(c)) for c in silent - {chr(c) for c in DRAWN} if is_visible(c)}
    assert missed == set()
    others = {c for c in names.keys() - silent if not is_visible(c)}
    allowed = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    selectors = {chr(c) for c in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))}
    controls = {chr(0x13440)} & others
    assert others - controls <= {*allowed, *selectors}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a cat", r"'a cat' is one text, not a list of texts; call encode\(\[text\]\)"),
        (b"a cat", "is one text, not a list"),
        (["a", None], "text 1 is None; give strings"),
        (["a", 5], "text 1 is of type int"),
        ([("a", "b")], "text 0 is of type tuple"),
        (["a", "\ud83d"], r"text 1 is not valid Unicode: '\\ud83d' at 0"),
        (["é\udc80x"], r"text 0 is not valid Unicode: '\\udc80' at 1"),
    ],
)
def test_what_is_not_a_list_of_texts_is_refused(texts: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_texts(texts, "encode")
    check_texts(["a", "", "🙂"], "encode")
