"""Sentences end where a reader would end them, and every character keeps its position."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.errors import InputError
from beam_gpte.core.text.sentences import LANGUAGES, split_sentences


def sentences(text: str, language: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text, language)]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ["Mr. Smith paid 3.5 dollars in Washington, D.C. yesterday.", "Really?", "Yes!"]),
        ("de", ["Am 3. März kam Dr. Müller z.B. nach Berlin.", "Er blieb zwei Tage."]),
        ("fr", ["Qui l'a vu ?", "Personne, p. ex. moi."]),
        ("hi", ["यह वाक्य है।", "दूसरा वाक्य।"]),
        ("ar", ["هل هذا سؤال؟", "نعم."]),
        ("el", ["Τι είναι αυτό;", "Τίποτα."]),
    ],
)
def test_abbreviations_and_numbers_do_not_end_sentences(language: str, expected: list[str]) -> None:
    assert sentences(" ".join(expected), language) == expected


def test_sentences_need_no_white_space_between_them() -> None:
    assert sentences("我喜欢狗。你呢？结束", "zh") == ["我喜欢狗。", "你呢？", "结束"]
    assert sentences("犬は走る。「はい。そうです。」と言った。", "ja") == [
        "犬は走る。",
        "「はい。そうです。」",
        "と言った。",
    ]


def test_a_blank_line_ends_a_sentence_and_a_line_break_does_not() -> None:
    assert sentences("A title\n\nThe text goes\non here. \n\n\n The end", "en") == [
        "A title",
        "The text goes\non here.",
        "The end",
    ]


def test_white_space_of_several_bytes_and_characters_beyond_16_bits_keep_their_positions() -> None:
    text = "\u3000😀 says a.\u00a0Is\u2009it e\u0301?  Yes."
    assert sentences(text, "en")[-1] == "Yes."
    assert "".join(sentences(text, "en")).replace(" ", "").startswith("😀saysa.")


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("ab AB.?!。।\n\r\t\u00a0\u2028()\"'“”「」1é\u0301😀")),
    st.sampled_from(LANGUAGES),
)
def test_every_character_but_white_space_is_in_one_sentence(text: str, language: str) -> None:
    spans = split_sentences(text, language)
    flat = [place for span in spans for place in span]
    assert flat == sorted(flat)
    assert all(text[start:end].strip() == text[start:end] != "" for start, end in spans)
    assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(
        text.split()
    )


def test_a_text_of_a_hundred_thousand_characters_is_split() -> None:
    assert len(split_sentences("The cat, e.g. Tom, sat. " * 4200, "en")) == 4200
    assert split_sentences("x" * 100_000, "en").tolist() == [[0, 100_000]]
    assert not len(split_sentences(" \n" * 50_000, "en"))


def test_a_language_without_rules_is_refused() -> None:
    with pytest.raises(
        InputError,
        match="language is 'xx'; sentences are split by rules for am, ar, .*zh: use the one",
    ):
        split_sentences("a", "xx")
