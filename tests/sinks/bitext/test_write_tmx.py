"""Translation memories are valid XML, whole or as before, and the same for every order of rows."""

import random
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_gpte import Block, InputError, MineBitext, WriteMoses, WriteTmx
from beam_gpte.sinks.bitext import commit_units as committing
from beam_gpte.sinks.bitext import units
from beam_gpte.sinks.bitext.units import Unit
from beam_gpte.sinks.bitext.write_tmx import unit_element, write_tmx
from tests.sinks.test_write_parquet import parts, run

NewPipeline = Callable[..., beam.Pipeline]
LANG = "{http://www.w3.org/XML/1998/namespace}lang"


def pair(number: int, **others: object) -> dict:
    texts = {"source_text": f"Satz {number}.", "target_text": f"Sentence {number}."}
    return {"source_id": number, "target_id": f"e{number}", **texts, "margin": 0.5, **others}


def units_of(path: Path) -> list[ET.Element]:
    return ET.parse(path).findall("body/tu")


def texts_of(path: Path) -> list[list[str | None]]:
    return [[seg.text for seg in unit.iter("seg")] for unit in units_of(path)]


def write(rows: list, *sinks: beam.PTransform) -> None:
    with beam.Pipeline("FnApiRunner") as p:
        pairs = p | beam.Create(rows)
        for sink in sinks:
            pairs | sink


def test_a_memory_has_languages_texts_ids_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tmx"
    rows = [pair(2), pair(10, margin=0.25, source_text="Öl & <Salz>"), pair(1)]
    write(rows, WriteTmx(str(path), "de", "pt-BR"))
    root = ET.parse(path).getroot()
    assert (root.tag, root.get("version")) == ("tmx", "1.4")
    header = root.find("header")
    assert header is not None
    required = {"creationtool", "creationtoolversion", "segtype", "o-tmf", "adminlang"}
    assert required | {"srclang", "datatype"} == set(header.keys())  # of TMX 1.4b
    assert header.get("srclang") == "de"
    assert [unit.findtext("prop[@type='x-source_id']") for unit in units_of(path)] == [
        *("1", "2", "10")  # as numbers
    ]
    last = units_of(path)[2]
    assert [(tuv.get(LANG), tuv.findtext("seg")) for tuv in last.findall("tuv")] == [
        ("de", "Öl & <Salz>"),
        ("pt-BR", "Sentence 10."),
    ]
    assert {prop.get("type"): prop.text for prop in last.findall("prop")} == {
        "x-source_id": "10",
        "x-target_id": "e10",
        "x-margin": "0.25",
    }
    assert parts(tmp_path) == ["pairs.tmx"]


def test_beads_are_in_the_order_of_their_documents_and_skipped_sentences_are_left_out(
    tmp_path: Path,
) -> None:
    def bead(document: str, place: int, source: list[str], target: list[str]) -> dict:
        return {
            "doc": document,
            "source_ids": source,
            "target_ids": target,
            "source_text": " ".join(source),
            "target_text": " ".join(target),
            "source_start": place,
            "cost": np.float32(0.1).item(),
        }

    beads = [
        *(bead("b", i, [f"s{i}"], [f"t{i}", f"u{i}"]) for i in (10, 9, 2)),
        bead("a", 5, ["s5", "s6"], ["t5"]),
        bead("a", 7, ["s7"], []),
    ]
    path = tmp_path / "beads.tmx"
    write(beads, WriteTmx(str(path), "de", "en", order=("doc", "source_start")))
    assert [texts[0] for texts in texts_of(path)] == ["s5 s6", "s2", "s9", "s10"]
    ids = [prop.text for prop in units_of(path)[0].findall("prop[@type='x-source_id']")]
    assert ids == ["s5", "s6"]


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_the_file_does_not_depend_on_order_or_blocks(
    new_pipeline: NewPipeline, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [pair(number % 40, target_id=f"e{number}") for number in range(120)]
    written = []
    for seed in range(2):
        random.Random(seed).shuffle(rows)
        cuts = sorted(random.Random(seed).sample(range(1, 120), 5 + seed))
        blocks = [
            Block.from_table(pa.Table.from_pylist(rows[a:b]))
            for a, b in zip([0, *cuts], [*cuts, 120], strict=True)
        ]
        monkeypatch.setattr(units, "FILES_AT_ONCE", (2, 100)[seed])
        path = tmp_path / f"{seed}.tmx"
        with new_pipeline(mode) as p:
            p | beam.Create(blocks) | WriteTmx(str(path), "de", "en")
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"<tu>") == 120


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=200, deadline=None)
@example("\x00\x08\x0b\ufffe\uffff\U0001fffe]]>&amp;\"'", "\r\n\t\r x")
@given(ANY_TEXT, ANY_TEXT)
def test_any_text_is_read_back_but_for_characters_that_xml_lacks(first: str, second: str) -> None:
    unit = Unit((first, second), {"source_id": second, "other": [1.5, None, first]})
    tu = ET.fromstring(unit_element(unit, ("de", "en")))
    legal = [
        "".join(
            c if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff") else "\ufffd" for c in text
        )
        for text in (first, second)
    ]
    assert [seg.text for seg in tu.iter("seg")] == legal
    assert [prop.text for prop in tu.iter("prop")] == [legal[1], "1.5", legal[0]]


def test_text_that_is_not_utf_8_is_written_as_far_as_it_is(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff")
    )
    block = Block.from_pydict({"source_text": broken, "target_text": ["b"]})
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create([block]) | WriteTmx(f"{tmp_path}/x.tmx", "de", "en")
    assert texts_of(tmp_path / "x.tmx") == [["a\ufffd", "b"]]


def test_a_later_run_replaces_the_whole_file_even_by_none(tmp_path: Path) -> None:
    path = tmp_path / "x.tmx"
    for rows in ([pair(1), pair(2)], [pair(3)], []):
        with beam.Pipeline("FnApiRunner") as p:
            p | beam.Create(rows) | WriteTmx(str(path), "de", "en")
        assert len(units_of(path)) == len(rows)
    assert parts(tmp_path) == ["x.tmx"]


def test_a_failed_job_leaves_the_previous_file(tmp_path: Path, new_pipeline: NewPipeline) -> None:
    path = tmp_path / "x.tmx"
    write([pair(1)], WriteTmx(str(path), "de", "en"))
    before = path.read_bytes()
    p = new_pipeline("two threads")
    barrier = p | beam.Impulse() | beam.Map(lambda _: 1 // 0)
    p | beam.Create([pair(2)]) | WriteTmx(str(path), "de", "en", commit_after=barrier)
    with pytest.raises(Exception, match="division"):
        run(p)
    assert path.read_bytes() == before


def test_a_commit_that_fails_while_it_writes_is_repeated_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "x.tmx", committing._write
    write([pair(0)], WriteTmx(str(path), "de", "en"))
    before, seen = path.read_bytes(), []

    def fail_once(staged: list[str], paths: list[str], write: Callable) -> int:
        def write_some(some: Iterator[Unit], files: list[BinaryIO]) -> int:
            write_tmx(("de", "en"), iter([next(some)]), files)
            raise OSError("full")

        seen.append(path.read_bytes())
        return whole(staged, paths, write_some if len(seen) == 1 else write)

    monkeypatch.setattr(committing, "_write", fail_once)
    with pytest.raises(Exception, match="full"):
        write([pair(1), pair(2)], WriteTmx(str(path), "de", "en"))
    assert path.read_bytes() == before
    write([pair(1), pair(2)], WriteTmx(str(path), "de", "en"))
    assert texts_of(path) == [["Satz 1.", "Sentence 1."], ["Satz 2.", "Sentence 2."]]
    assert parts(tmp_path) == ["x.tmx"]  # what the failed run left is gone


def test_mined_pairs_go_into_both_formats(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 16))
    sides = {
        "source": [
            {"id": f"d{i}", "text": f"Satz {i}", "embedding": v} for i, v in enumerate(vectors)
        ],
        "target": [
            {"id": f"e{i}", "text": f"Sentence {i}", "embedding": v + 0.01}
            for i, v in enumerate(vectors)
        ],
    }
    with beam.Pipeline("FnApiRunner") as p:
        found = {name: p | name >> beam.Create(rows) for name, rows in sides.items()} | MineBitext()
        found.pairs | WriteTmx(f"{tmp_path}/x.tmx", "de", "en")
        found.pairs | WriteMoses(f"{tmp_path}/x", "de", "en")
    assert len(units_of(tmp_path / "x.tmx")) == 40
    props = {prop.get("type") for prop in units_of(tmp_path / "x.tmx")[0].findall("prop")}
    assert {"x-source_id", "x-target_id", "x-margin", "x-cosine"} <= props
    lines = [Path(tmp_path, f"x.{end}").read_text().splitlines() for end in ("de", "en")]
    assert [list(texts) for texts in zip(*lines, strict=True)] == texts_of(tmp_path / "x.tmx")


@pytest.mark.parametrize("sink", [WriteTmx, WriteMoses])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("", "de", "en"), "path is ''; name the"),
        (("x", "german!", "en"), "source_language is 'german!'; use a code such as de"),
        (("x", "de", "DE"), "source_language and target_language are both 'de'; name two"),
        (("x", "de", "en", "doc"), r"order is 'doc'; use a tuple of columns, as \('doc',\)"),
        (("x", "de", "en", (), "id"), r"values is 'id'; use a tuple of columns"),
    ],
)
def test_settings_that_make_no_sense_are_refused(sink: type, settings: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sink(*settings)


@pytest.mark.parametrize("sink", [WriteTmx, WriteMoses])
def test_rows_without_the_columns_and_streams_are_refused(sink: type, tmp_path: Path) -> None:
    step = sink.__name__
    with pytest.raises(Exception, match=f"{step}: no column 'target_text' among source_text; name"):
        write([{"source_text": "a"}], sink(f"{tmp_path}/x", "de", "en"))
    rows = [{"source_text": 1, "target_text": "a"}]
    with pytest.raises(Exception, match=f"{step}: column 'source_text' is int64; texts are"):
        write(rows, sink(f"{tmp_path}/x", "de", "en"))
    windows = beam.WindowInto(beam.window.FixedWindows(60))
    with pytest.raises(InputError, match=f"{step}: a stream or windowed collection has no end"):
        _ = beam.Pipeline() | beam.Create([pair(1)]) | windows | sink(f"{tmp_path}/x", "de", "en")
