"""FitVectorMap, ApplyVectorMap: search vectors of a previous model by queries of a new one."""

import tempfile

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import ApplyVectorMap, FitVectorMap, NearestNeighbors

random = np.random.default_rng(0)
PREVIOUS = random.normal(size=(200, 8)).astype(np.float32)
# the new model's vectors of the same texts: turned, and a little different
NEW = PREVIOUS @ np.linalg.qr(random.normal(size=(8, 8)))[0] + random.normal(0, 0.05, (200, 8))
CORPUS = [{"id": i, "embedding": vector} for i, vector in enumerate(PREVIOUS)]
SAMPLE = [{"id": i, "embedding": vector} for i, vector in enumerate(NEW[:150])]
QUERY = {"id": "?", "embedding": NEW[199]}  # of the new model, not in the sample

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        corpus, sample = p | "Corpus" >> beam.Create(CORPUS), p | "Sample" >> beam.Create(SAMPLE)
        fitted = {"source": corpus, "target": sample} | FitVectorMap(f"{folder}/map")
        usable = fitted | beam.Map(lambda one: one.report["usable"])
        assert_that(usable, equal_to([True]), "Usable")
    with beam.Pipeline("FnApiRunner") as p:
        corpus = p | beam.Create(CORPUS) | ApplyVectorMap(f"{folder}/map")
        query = p | "Query" >> beam.Create([QUERY])
        near = {"queries": query, "documents": corpus} | NearestNeighbors(k=1)
        found = near | "Ids" >> beam.Map(lambda row: row["document_id"])
        assert_that(found, equal_to([199]), "Found")
