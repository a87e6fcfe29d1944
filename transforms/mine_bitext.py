"""MineBitext: pair German and English rows, in any order, that translate one another."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import MineBitext

# in place of the vectors of an encoder
MEANINGS = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)
GERMAN = [{"id": f"de{i}", "text": f"Satz {i}", "embedding": MEANINGS[i]} for i in range(15)]
ENGLISH = [
    {"id": f"en{i}", "text": f"phrase {i}", "embedding": MEANINGS[i] + 0.1}
    for i in range(19, 4, -1)
]

with beam.Pipeline("FnApiRunner") as p:
    sides = {
        "source": p | "German" >> beam.Create(GERMAN),
        "target": p | "English" >> beam.Create(ENGLISH),
    }
    result = sides | MineBitext(threshold=0.2)
    pairs = result.pairs | beam.Map(lambda pair: (pair["source_id"], pair["target_id"]))
    assert_that(pairs, equal_to([(f"de{i}", f"en{i}") for i in range(5, 15)]))
