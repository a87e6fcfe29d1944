"""Texts that look the same become the same string."""

import unicodedata

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.text.normalize import normalize, scope_keys, value_texts

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


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (pa.timestamp("s"), pa.timestamp("ns"), "1970-01-01 00:00:10"),
        (pa.timestamp("us", "UTC"), pa.timestamp("ms", "Asia/Tokyo"), "1970-01-01 00:00:10Z"),
        (pa.time32("ms"), pa.time64("ns"), "00:00:10"),
        (pa.duration("s"), pa.duration("us"), "10000000000 ns"),
        (pa.decimal128(9, 2), pa.decimal256(50, 3), "10"),
        (pa.decimal128(9, -1), pa.decimal128(9, 0), "10"),
        (pa.float16(), pa.int64(), "10"),
    ],
)
def test_a_value_has_one_text_whatever_its_unit_or_scale(
    one: pa.DataType, other: pa.DataType, text: str
) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    for kind in (one, other):
        value = 10 * per_second.get(getattr(kind, "unit", "s"), 1)
        assert value_texts(pa.array([value, None], kind)).to_pylist() == [text, None]


def test_bytes_have_the_same_text_beside_bytes_that_are_not_utf8() -> None:
    alone = value_texts(pa.array([b"en"]))
    beside = value_texts(pa.array([b"en", b"\xff"], pa.large_binary()))
    assert alone.to_pylist() == beside.to_pylist()[:1] == ["en"]
    assert beside[1].as_py() == "\\xff"


def test_null_is_a_scope_that_no_text_has() -> None:
    keys = scope_keys(pa.array([None, "null", ""])).to_pylist()
    assert len(set(keys)) == 3
