"""Syncs of a corpus that is edited at random: always as a fresh run, at the cost of the edits."""

from pathlib import Path

import pytest

from beam_gpte import EncoderConfig
from tests.embedding.edits import Corpus, difference, rows_of, sync


@pytest.mark.sampled(1)
@pytest.mark.parametrize("long_text", ["chunks", "late_chunks", "truncate"])
def test_a_corpus_that_is_edited_is_synced_as_if_it_were_new(
    tmp_path: Path, minilm: str, long_text: str
) -> None:
    tokens = None if long_text == "truncate" else 16
    config = EncoderConfig(minilm, long_text=long_text, chunk_tokens=tokens)
    corpus, output = Corpus(60, seed=7), tmp_path / "out"
    sync(corpus, config, output)
    for number in range(3):
        new = corpus.edit(20)
        done = sync(corpus, config, output)
        assert done.embedded == new
        wanted = tmp_path / f"fresh-{number}"
        sync(corpus, config, wanted)
        for place in (output, f"{output}.duckdb"):
            assert difference(rows_of(place), rows_of(wanted)) == ""
    corpus.texts = {}
    done = sync(corpus, config, output)
    assert (done.embedded, len(rows_of(output))) == (0, 0)
