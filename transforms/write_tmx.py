"""WriteTmx: write pairs of texts as a translation memory."""

import tempfile
import xml.etree.ElementTree as ET

import apache_beam as beam

from beam_gpte import WriteTmx

PAIRS = [
    {"source_id": 2, "target_id": 8, "source_text": "Salz & Öl", "target_text": "Salt & oil"},
    {"source_id": 1, "target_id": 9, "source_text": "Die Suppe.", "target_text": "The soup."},
]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create(PAIRS) | WriteTmx(f"{folder}/pairs.tmx", "de", "en")
    units = ET.parse(f"{folder}/pairs.tmx").findall("body/tu")
    assert [unit.findtext("tuv/seg") for unit in units] == ["Die Suppe.", "Salz & Öl"]
    assert units[0].findtext("prop[@type='x-target_id']") == "9"
