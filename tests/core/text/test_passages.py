"""Passages of a document: windows of its sentences."""

from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.text.passages import MAX_SENTENCE, passages_of

TEXT = "One is here. Two is there. Three is red. Four is blue. Five is odd."


def test_passages_are_windows_of_sentences_that_overlap_by_half() -> None:
    passages = [TEXT[a:b] for a, b in passages_of(TEXT, (3,), "en")]
    assert passages == [
        "One is here. Two is there. Three is red.",
        "Three is red. Four is blue. Five is odd.",
    ]
    assert [TEXT[a:b] for a, b in passages_of(TEXT, (4,), "en")] == [
        "One is here. Two is there. Three is red. Four is blue.",
        "Two is there. Three is red. Four is blue. Five is odd.",
    ]
    assert len(passages_of(TEXT, (1, 3), "en")) == 5 + 2


def test_a_text_of_fewer_sentences_is_one_passage() -> None:
    assert passages_of("Only this.", (1, 3), "en").tolist() == [[0, 10]]
    assert passages_of(" \n", (1, 3), "en").tolist() == []


def test_a_text_without_sentences_is_cut() -> None:
    spans = passages_of("word " * 1000, (1,), "en")
    assert len(spans) == 13
    assert (spans[:, 1] - spans[:, 0]).max() <= MAX_SENTENCE


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aB. \n?。", max_size=900), st.lists(st.integers(1, 4), min_size=1))
def test_every_visible_character_is_in_a_passage_of_each_size(text: str, sizes: list[int]) -> None:
    for size in sizes:
        spans = passages_of(text, [size], "en")
        covered = {at for a, b in spans.tolist() for at in range(a, b)}
        assert covered >= {at for at, character in enumerate(text) if not character.isspace()}
        assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans.tolist())
