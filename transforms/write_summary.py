"""WriteSummary: write row counts, rejects by reason, and reports to one JSON file."""

import json
import tempfile
from pathlib import Path

import apache_beam as beam

from beam_gpte import DeduplicateExact, WriteSummary

ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": "One"}, {"id": 3, "text": None}]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        rows = p | beam.Create(ROWS)
        done = rows | DeduplicateExact().with_exception_handling()
        found = {"rows": rows, "kept": done.kept, "rejected": done.rejects, "steps": done.report}
        found | WriteSummary(f"{folder}/summary.json", reports=("steps",))
    summary = json.loads(Path(folder, "summary.json").read_text())
    assert (summary["rows"], summary["kept"], summary["rejected"]) == (3, 1, 1)
    assert summary["reasons"] == {"text is null": 1}
    assert [step["removed"] for step in summary["steps"]] == [1]
