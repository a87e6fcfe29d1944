"""ScoreBitext: score a list of pairs; the wrong one has the smallest margin."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import ScoreBitext

# in place of the vectors of an encoder
MEANINGS = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)
PAIRS = [
    {
        "id": i,
        "source_text": f"Satz {i}",
        "target_text": f"phrase {i}",
        "source_embedding": MEANINGS[i],
        "target_embedding": MEANINGS[i if i != 7 else 3] + np.float32(0.1),
    }
    for i in range(20)
]

with beam.Pipeline("FnApiRunner") as p:
    scored = (p | beam.Create(PAIRS) | ScoreBitext()).pairs
    wrong = scored | beam.Filter(lambda pair: pair["margin"] < 0.2)
    assert_that(
        wrong | beam.Map(lambda pair: (pair["source_id"], pair["target_text"])),
        equal_to([(7, "phrase 7")]),
    )
