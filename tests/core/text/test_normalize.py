"""Texts that look the same become the same string."""

import unicodedata

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.text.normalize import normalize

WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def normalized(*texts: str | None) -> list[str | None]:
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    return frame.select(normalize(pl.col("text")))["text"].to_list()


def test_width_case_ligatures_and_white_space_do_not_matter() -> None:
    assert normalized("  The\u00a0\n ﬁrst １  ", "the first 1") == ["the first 1"] * 2
    assert normalized("Straße", "STRASSE", "É", "E\u0301") == ["straße", "strasse", "é", "é"]


def test_null_stays_null_and_blanks_become_nothing() -> None:
    assert normalized(None, " \t\u3000", "") == [None, "", ""]


def test_letters_that_compose_only_in_lower_case_are_composed() -> None:
    assert normalized("J\u030c", "\u01f0") == ["\u01f0"] * 2


@given(st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from(WHITE)), max_size=20))
def test_normalizing_twice_changes_nothing(texts: list[str]) -> None:
    once = normalized(*texts)
    assert normalized(*once) == once
    for text in once:
        assert text is not None
        assert unicodedata.normalize("NFKC", text).strip(WHITE) == text
        assert "  " not in text
        assert not set(text) & (set(WHITE) - {" "})
