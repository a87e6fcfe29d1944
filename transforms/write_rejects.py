"""WriteRejects: collect rejected rows as JSON Lines that people and ReadCorpus can read."""

import json
import tempfile
from pathlib import Path

import apache_beam as beam

from beam_gpte import RejectDuplicateIds, WriteRejects

ROWS = [{"id": 2, "text": "two"}, {"id": 2, "text": "two"}]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        _, rejects = p | beam.Create(ROWS) | RejectDuplicateIds().with_exception_handling()
        rejects | WriteRejects(folder)
    lines = [json.loads(line) for path in Path(folder).glob("*.jsonl") for line in path.open()]
    reason = {"reject_step": "RejectDuplicateIds", "reject_reason": "duplicate id"}
    assert lines == [{"id": 2, "text": "two", **reason}]
