"""Cut what is repeated: by a plain count of normalized spans, and with every place known."""

import collections
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block, Columns, CutRepeatedSpans, InputError
from tests.examples import keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]
Place = tuple[Any, int, int]


def folded(span: str) -> str:
    return " ".join(unicodedata.normalize("NFC", span).lower().split())


def lines_of(text: str) -> list[tuple[int, int]]:
    found, offset = [], 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            start = offset + line.index(line.strip())
            found.append((start, start + len(line.strip())))
        offset += len(line)
    return found


def brute_force(texts: dict[Any, str], max_documents: int, first_stays: bool) -> dict[Place, Any]:
    """The places to cut, with the smallest id that has the span."""
    places: dict[str, list[Place]] = collections.defaultdict(list)
    for id_, text in texts.items():
        for start, end in lines_of(text):
            places[folded(text[start:end])].append((id_, start, end))
    cuts = {}
    for found in places.values():
        if len({id_ for id_, *_ in found}) > max_documents:
            found = sorted(found)
            cuts |= dict.fromkeys(found[first_stays:], found[0][0])
    return cuts


LINES = st.lists(st.sampled_from(["Menu", " menu ", "", "a b", "A  b", "é", "e\u0301"]), max_size=5)


@settings(deadline=None, max_examples=30)
@given(st.lists(LINES, max_size=6), st.integers(1, 3), st.sampled_from(["first", "none"]))
def test_cuts_are_those_of_a_plain_count(
    documents: list[list[str]], max_documents: int, keep: str
) -> None:
    texts = {id_: "\n".join(lines) for id_, lines in enumerate(documents)}
    rows = pl.DataFrame({"id": list(texts), "text": pl.Series([*texts.values()], dtype=pl.String)})
    found = rows.cast({"id": pl.Int64}) | CutRepeatedSpans("lines", max_documents, keep)
    expected = brute_force(texts, max_documents, keep == "first")
    cut = {(row["id"], row["cut_start"], row["cut_end"]): row for row in found.cut.to_dicts()}
    assert len(cut) == len(found.cut)
    assert {place: row["first_id"] for place, row in cut.items()} == expected
    assert all(texts[i][a:b] == row["cut_text"] for (i, a, b), row in cut.items())
    left = {
        id_: [folded(text[a:b]) for a, b in lines_of(text) if (id_, a, b) not in expected]
        for id_, text in texts.items()
    }
    good = {row["id"]: row["text"] for row in found.good.to_dicts()}
    emptied = {row["id"]: row["text"] for row in found.emptied.to_dicts()}
    assert {id_: [folded(t[a:b]) for a, b in lines_of(t)] for id_, t in good.items()} == {
        id_: lines for id_, lines in left.items() if lines or not texts[id_].strip()
    }
    assert emptied == {id_: texts[id_] for id_ in texts if id_ not in good}
    for id_, text in good.items():
        if not any(id_ == other for other, *_ in expected):
            assert text == texts[id_]


PAGES = {
    "b": "Home | About\n\nThe battery lasts. It does!\n\n(c) us",
    "a": "HOME |  About\n\nDelivery was late. It does.\n\n(c) us",
    "c": "Home | about\n\n(C) us",
}


@pytest.mark.parametrize("kind", ["string", "uint64", "dictionary"])
def test_paragraphs_of_any_ids_in_any_blocks_and_workers(
    new_pipeline: NewPipeline, tmp_path: Path, kind: str
) -> None:
    """By hand: the first places are those of a, and nothing of c is left."""
    names = {"a": 2**63 + 1, "b": 2**63 + 2, "c": 2**64 - 1} if kind == "uint64" else {}
    name = {id_: names.get(id_, id_) for id_ in PAGES}
    strings = pa.dictionary(pa.int32(), pa.string())
    types = {"string": pa.string(), "uint64": pa.uint64(), "dictionary": strings}
    whole = Block.from_pydict(
        {
            "doc": pa.array([name[id_] for id_ in PAGES], types[kind]),
            "body": list(PAGES.values()),
            "n": [1, 2, 3],
        }
    )
    transform = CutRepeatedSpans("paragraphs", columns=Columns("doc", "body"))
    results = []
    for mode in ("in memory", "two processes"):
        folder = tmp_path / mode
        folder.mkdir()
        size = 3 if mode == "in memory" else 1
        with new_pipeline(mode) as pipeline:
            blocks = [whole.slice(i, size) for i in range(0, 3, size)]
            found = pipeline | beam.Create(blocks) | transform
            for output in ("good", "emptied", "cut"):
                getattr(found, output) | output >> beam.Map(keep, str(folder), output)
        results.append({n: kept(str(folder), n) for n in ("good", "emptied", "cut")})
    one, other = ({n: rows_in(blocks) for n, blocks in result.items()} for result in results)
    assert {n: sorted(map(repr, rows)) for n, rows in one.items()} == {
        n: sorted(map(repr, rows)) for n, rows in other.items()
    }
    a, b, c = name["a"], name["b"], name["c"]
    assert {(row["doc"], row["body"], row["n"]) for row in one["good"]} == {
        (a, PAGES["a"], 2),
        (b, "The battery lasts. It does!", 1),
    }
    assert [(row["doc"], row["body"], row["n"]) for row in one["emptied"]] == [(c, PAGES["c"], 3)]
    places = {(row["doc"], row["cut_start"], row["cut_end"], row["first_id"]) for row in one["cut"]}
    assert places == {(b, 0, 12, a), (b, 43, 49, a), (c, 0, 12, a), (c, 14, 20, a)}
    plain = pa.string() if kind == "dictionary" else types[kind]
    for block in results[0]["cut"]:
        assert block.schema.field("first_id").type == plain


def test_sentences_within_a_scope_and_from_a_length_on() -> None:
    """By hand: "Thanks." is short, and the sites are not compared."""
    texts = ["See our terms. Thanks. One.", "See our terms. Thanks. Two.", "See our terms. Three."]
    rows = pl.DataFrame({"id": [1, 2, 3], "text": texts, "site": ["x", "x", "y"]})
    cut = CutRepeatedSpans("sentences", min_characters=8, scope="site")
    assert sorted((rows | cut).good.select("id", "text").rows()) == [
        (1, texts[0]),
        (2, "Thanks. Two."),
        (3, texts[2]),
    ]
    without = CutRepeatedSpans("sentences", min_characters=8)
    assert sorted((rows | without).good["text"]) == [texts[0], "Thanks. Two.", "Three."]


def test_boilerplate_goes_everywhere_and_what_two_texts_share_stays() -> None:
    texts = [f"Menu\nshared {i // 2}\nown {i}" for i in range(6)]
    rows = pl.DataFrame({"id": range(6), "text": texts})
    found = rows | CutRepeatedSpans("lines", max_documents=2, keep="none")
    assert sorted(found.good["text"]) == [f"shared {i // 2}\nown {i}" for i in range(6)]
    assert set(found.cut["first_id"]) == {0}


def test_rows_of_any_kind_keep_their_times_and_bad_ones_are_apart(
    new_pipeline: NewPipeline,
) -> None:
    rows = [
        {"id": 1, "text": "x\ny", "n": 1},
        {"id": 2, "text": "X\nz", "n": None},
        {"id": 3, "text": None, "n": 3},
        {"id": None, "text": "x", "n": 4},
        {"id": 2, "text": "X\nz", "n": None},
        {"id": 5, "text": "x", "n": 5},
    ]
    with new_pipeline() as pipeline:
        timed = [TimestampedValue(row, 10 * i) for i, row in enumerate(rows)]
        found = pipeline | beam.Create(timed) | beam.Map(lambda row: row)
        found = found | CutRepeatedSpans().with_exception_handling()

        def with_time(row: dict, time: Any = beam.DoFn.TimestampParam) -> tuple:
            return row, int(time) % 30  # of two rows with one id either is kept

        assert_that(
            found.good | "Good" >> beam.Map(with_time),
            equal_to([(rows[0], 0), ({**rows[1], "text": "z"}, 10)]),
            "Left",
        )
        assert_that(found.emptied, equal_to([rows[5]]), "Emptied")
        reasons = found.rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        expected = [(3, "text is null"), (None, "id is null"), (2, "duplicate id")]
        assert_that(reasons, equal_to(expected), "Rejects")
        cut = [
            {"id": 2, "cut_start": 0, "cut_end": 1, "cut_text": "X", "first_id": 1},
            {"id": 5, "cut_start": 0, "cut_end": 1, "cut_text": "x", "first_id": 1},
        ]
        assert_that(found.cut, equal_to(cut), "Cut")


def test_a_bad_row_fails_the_job_by_name(new_pipeline: NewPipeline) -> None:
    with (
        pytest.raises(
            Exception, match="CutRepeatedSpans: row with id 7: text is null; fix the row"
        ),
        new_pipeline() as pipeline,
    ):
        _ = pipeline | beam.Create([{"id": 7, "text": None}]) | CutRepeatedSpans()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "words"}, "unit is 'words'; use lines, paragraphs, sentences"),
        ({"keep": "last"}, "keep is 'last'; use first, none"),
        ({"max_documents": 0}, "max_documents is 0; use 1 or more"),
        ({"min_characters": 0}, "min_characters is 0; use 1 or more"),
        ({"language": "xx-yy"}, "xx-yy"),
        ({"columns": Columns("cut_start")}, "the id column is 'cut_start'"),
    ],
)
def test_settings_that_there_are_not_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CutRepeatedSpans(**settings)


def test_windows_are_refused_while_the_graph_is_built() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    rows = pipeline | beam.Create([{"id": 1, "text": "a"}]) | beam.WindowInto(FixedWindows(1))
    with pytest.raises(InputError, match="CutRepeatedSpans: spans are counted in a corpus as a"):
        _ = rows | CutRepeatedSpans()


def test_items_of_beams_rag_package_are_refused() -> None:
    from apache_beam.ml.rag.types import Chunk, Content

    pipeline = beam.Pipeline(runner="FnApiRunner")
    items = pipeline | beam.Create([Chunk(content=Content("a"), id="1")])
    with pytest.raises(InputError, match="items of Beam's RAG package keep their text"):
        _ = items | CutRepeatedSpans()
