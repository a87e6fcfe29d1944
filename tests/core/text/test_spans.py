"""Find lines, paragraphs and sentences, and cut some of them: nothing else changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.text.spans import SpanUnit, cut_spans, find_spans

ODD = st.text(alphabet="ab. \n\r\t\x0b\u2028\xa0é", max_size=30)
UNITS = ("lines", "paragraphs", "sentences")


def pieces(text: str, unit: SpanUnit) -> list[str]:
    return [text[start:end] for start, end in find_spans(text, unit).tolist()]


def test_units_by_hand() -> None:
    text = "  One. Two!\r\nthree\n \t\n\nFour.  Five?\n"
    assert pieces(text, "lines") == ["One. Two!", "three", "Four.  Five?"]
    assert pieces(text, "paragraphs") == ["One. Two!\r\nthree", "Four.  Five?"]
    assert pieces(text, "sentences")[0] == "One."
    assert find_spans(text, "lines").tolist() == [[2, 11], [13, 18], [23, 35]]
    assert find_spans(" \n ", "paragraphs").shape == (0, 2)


@pytest.mark.parametrize("unit", UNITS)
@given(text=ODD)
def test_spans_are_in_order_and_hold_all_but_white_space(unit: SpanUnit, text: str) -> None:
    spans = find_spans(text, unit).tolist()
    end = 0
    for start, stop in spans:
        assert end <= start < stop
        assert text[end:start].strip() == ""
        assert text[start:stop].strip() == text[start:stop]
        end = stop
    assert text[end:].strip() == ""


@pytest.mark.parametrize("unit", UNITS)
@given(text=ODD, seed=st.integers(0, 1000))
def test_what_is_left_are_the_other_spans_with_the_white_space_before_and_after_the_text(
    unit: SpanUnit, text: str, seed: int
) -> None:
    spans = find_spans(text, unit)
    cut = np.random.default_rng(seed).random(len(spans)) < 0.5
    if not len(spans) or cut.all():
        return
    left = cut_spans(text, spans, cut)
    # sentences may follow each other without a blank
    kept = "".join(text[start:end] for start, end in spans[~cut].tolist())
    assert "".join(left.split()) == "".join(kept.split())
    assert left[: spans[0, 0]] == text[: spans[0, 0]]
    if not cut.any():
        assert left == text
    assert left.endswith(text[spans[-1, 1] :])


def test_cuts_by_hand() -> None:
    text = " a\nb\n\nc\nd "
    spans = find_spans(text, "lines")
    left = {
        cut: cut_spans(text, spans, np.array([name in cut for name in "abcd"]))
        for cut in ("", "a", "b", "d", "cd", "bd", "abc")
    }
    assert left == {
        "": text,
        "a": " b\n\nc\nd ",
        "b": " a\nc\nd ",
        "d": " a\nb\n\nc ",
        "cd": " a\nb ",
        "bd": " a\nc ",
        "abc": " d ",
    }
