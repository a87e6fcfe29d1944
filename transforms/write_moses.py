"""WriteMoses: write pairs of texts as two files of one line per pair, and a third of their ids."""

import json
import tempfile
from pathlib import Path

import apache_beam as beam

from beam_gpte import WriteMoses

PAIRS = [
    {"source_id": 2, "target_id": 8, "source_text": "Salz\nund Öl", "target_text": "Salt and oil"},
    {"source_id": 1, "target_id": 9, "source_text": "Die Suppe.", "target_text": "The soup."},
]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create(PAIRS) | WriteMoses(f"{folder}/pairs", "de", "en")
    german, english, ids = (
        Path(folder, f"pairs.{end}").read_text("utf-8").splitlines()
        for end in ("de", "en", "ids.jsonl")
    )
    assert list(zip(german, english, strict=True)) == [
        ("Die Suppe.", "The soup."),
        ("Salz und Öl", "Salt and oil"),
    ]
    assert json.loads(ids[1]) == {"source_id": 2, "target_id": 8}
