"""The tokens of a text are those of its words, or the whole text is tokenized."""

from collections.abc import Callable

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from beam_gpte.core.static import word_ids
from beam_gpte.core.static.word_ids import WordIds
from beam_gpte.core.static.words import BLANKS, word_splitter
from tests.core.static.models import TEXTS, bert, corpus, llama, unigram


def changed(make: Callable[[], tokenizers.Tokenizer], **parts: object) -> tokenizers.Tokenizer:
    made = make()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def added(make: Callable[[], tokenizers.Tokenizer], *contents: str) -> tokenizers.Tokenizer:
    made = make()
    made.add_tokens([tokenizers.AddedToken(content, normalized=False) for content in contents])
    return made


Whitespace = pre_tokenizers.WhitespaceSplit
Metaspace = pre_tokenizers.Metaspace
BY_WORDS = {
    "BERT": bert,
    "BERT with NFKC": lambda: changed(
        bert, normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    ),
    "words alone": lambda: changed(bert, pre_tokenizer=pre_tokenizers.Whitespace()),
    "Llama": llama,
    "XLM-R": lambda: changed(
        unigram, pre_tokenizer=pre_tokenizers.Sequence([Whitespace(), Metaspace()])
    ),
    "marks": unigram,
    "marks before the first": lambda: changed(
        unigram, pre_tokenizer=Metaspace(prepend_scheme="first")
    ),
    "marks after BERT": lambda: unigram(normalizers.BertNormalizer()),
    "marks of Llama": lambda: changed(
        llama, normalizer=normalizers.NFC(), pre_tokenizer=Metaspace(split=False)
    ),
}
WHOLE = {
    "an added token with a blank": lambda: added(bert, "the cat"),
    "a mark where a text begins": lambda: changed(
        unigram,
        pre_tokenizer=pre_tokenizers.Sequence([Whitespace(), Metaspace(prepend_scheme="first")]),
    ),
    "no mark before a text": lambda: changed(
        unigram, pre_tokenizer=Metaspace(prepend_scheme="never")
    ),
    "bytes": lambda: changed(bert, pre_tokenizer=pre_tokenizers.ByteLevel()),
    "a part that joins": lambda: changed(bert, normalizer=normalizers.Replace(" ", "")),
    "no cuts": lambda: changed(bert, pre_tokenizer=pre_tokenizers.Punctuation()),
    "tokens across words": lambda: across(),
}


def across() -> tokenizers.Tokenizer:
    """A tokenizer as Llama's with a token of two words."""
    made = llama()
    made.add_tokens(["x"])
    trained = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    trained.normalizer = made.normalizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<unk>"]
    )
    trained.train_from_iterator(corpus(), trainer)
    return trained


def settings_of(tokenizer: tokenizers.Tokenizer) -> dict:
    import json

    return json.loads(tokenizer.to_str())


made: dict[str, tokenizers.Tokenizer] = {}


def tokenizer(name: str) -> tokenizers.Tokenizer:
    if name not in made:
        made[name] = BY_WORDS[name]()
        made[name].no_padding()
        made[name].no_truncation()
    return made[name]


PIECES = st.sampled_from(
    [
        *BLANKS,
        "cat",
        "the",
        "größe",
        "naive",
        "e\u0301",
        "\u0301",
        "▁",
        "¨",
        "東",
        "<s>",
        "[MASK]",
        "2024",
        ".",
    ]
) | st.characters(codec="utf-8")


@pytest.mark.parametrize("name", BY_WORDS)
@given(pieces=st.lists(PIECES, max_size=12))
@example(pieces=["cat", "\x0b", "the"])
@example(pieces=["cat", "\x1c", "the", " ", " ", "cat"])
@example(pieces=["cat", " ", "\u0301", "the"])
@example(pieces=["cat", " ", "¨", "the"])
@example(pieces=["cat▁", " ", "▁the"])
@example(pieces=["cat", " ", "<s>", " ", "the"])
@example(pieces=["cat", " ", "東", " ", "the"])
def test_the_tokens_of_words_are_those_of_the_text(name: str, pieces: list[str]) -> None:
    backend, text = tokenizer(name), "".join(pieces)
    words = word_splitter(backend, settings_of(backend))
    assert words is not None
    ids, counts = WordIds(backend, words).encode([text, "the cat", text])
    whole = backend.encode(text, add_special_tokens=False).ids
    assert ids[: counts[0]].tolist() == whole
    assert ids[len(ids) - counts[2] :].tolist() == whole


@pytest.mark.parametrize("name", BY_WORDS)
def test_natural_texts_are_cut(name: str) -> None:
    backend = tokenizer(name)
    words = word_splitter(backend, settings_of(backend))
    assert words is not None
    assert words("the cat sat") == ["the", "cat", "sat"]


@pytest.mark.parametrize("name", WHOLE)
def test_a_tokenizer_that_looks_across_blanks_gets_whole_texts(name: str) -> None:
    backend = WHOLE[name]()
    words = word_splitter(backend, settings_of(backend))
    assert words is None or words("the cat") == ["the cat"]


def test_words_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_ids, "MAX_WORDS", 5)
    backend = tokenizer("BERT")
    words = word_splitter(backend, settings_of(backend))
    assert words is not None
    memory = WordIds(backend, words)
    for start in (0, 40, 0):
        texts = [f"{text} {i}" for i in range(start, start + 40) for text in TEXTS]
        ids, counts = memory.encode(texts)
        parts = [part.tolist() for part in np.split(ids, np.cumsum(counts)[:-1])]
        assert parts == [backend.encode(text, add_special_tokens=False).ids for text in texts]
        assert len(memory._memory._numbers) < 100
