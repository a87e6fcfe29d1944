"""Read files of every kind as one corpus; bad rows are named and cost no other row."""

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from beam_gpte import Block, InputError, ReadCorpus, VectorMetadata
from beam_gpte.sources.corpus_files import (
    common_folder,
    file_format,
    read_schema,
)
from beam_gpte.sources.formats.rows import ColumnSelection
from beam_gpte.sources.match_files import match_files, pattern_list
from beam_gpte.sources.read_files import read_file
from tests.conftest import MODES
from tests.examples import keep, kept

NAME_IT = "name the encoding of the file, such as latin-1"
Write = Callable[[str, str | bytes], str]
Read = Callable[..., dict[str, int]]


def rows(block: Block) -> list[dict[str, Any]]:
    return block.batch.to_pylist()


def texts(
    path: str, columns: tuple[str, ...] | None = None, id_column: str | None = None
) -> list[str]:
    """Read the texts of one file without a pipeline."""
    parts = read_file(path, ColumnSelection(columns, id_column, "text"), None, 1024)
    return [row["text"] for part in parts for row in part.batch.to_pylist()]


def has_no_time(block: Block, time: Any = beam.DoFn.TimestampParam) -> bool:
    return bool(time == MIN_TIMESTAMP)


def reason(reject: dict[str, Any]) -> tuple[int | str, str]:
    """Return a reject's row, or its id if it could be parsed, and why."""
    return reject.get("row", reject.get("id")), reject["reject_reason"]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write bytes or text to a file under a temporary folder and return its path."""

    def file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return file


@pytest.fixture
def read(new_pipeline: Callable[..., beam.Pipeline]) -> Read:
    """Check the rows of ReadCorpus (and rejects, as (row or id, reason)); return the counters."""

    def run(
        read_corpus: ReadCorpus,
        expected: list[dict[str, Any]],
        rejects: list[tuple[Any, str]] | None = None,
        mode: str = "in memory",
    ) -> dict[str, int]:
        pipeline = new_pipeline(mode)
        if rejects is None:
            corpus = pipeline | read_corpus
        else:
            corpus, bad = pipeline | read_corpus.with_exception_handling()
            reasons = bad | "Bad" >> beam.FlatMap(rows) | beam.Map(reason)
            assert_that(reasons, equal_to(rejects), "Rejects")
        # strings sort: dicts would compare each with each
        good = corpus | "Good" >> beam.FlatMap(rows) | beam.Map(repr)
        assert_that(good, equal_to([repr(row) for row in expected]), "Rows")
        result = pipeline.run()
        result.wait_until_finish()
        counters = result.metrics().query(MetricsFilter().with_namespace("beam_gpte"))["counters"]
        return {counter.key.metric.name: counter.committed for counter in counters}

    return run


def test_a_text_file_has_one_text_per_line_and_blank_lines_are_counted(
    write: Write, read: Read
) -> None:
    path = write("a.txt", "\ufeffeins\r\n\r\nzwei  drei\n \u3000\nfünf")
    expected = [
        {"id": "a.txt:1", "text": "eins"},
        {"id": "a.txt:3", "text": "zwei  drei"},
        {"id": "a.txt:5", "text": "fünf"},
    ]
    assert read(ReadCorpus(path), expected) == {"rows_read": 3, "blank_lines": 2, "files_read": 1}


def test_a_line_of_text_that_is_not_utf8_costs_that_line(write: Write, read: Read) -> None:
    path = write("a.txt", b"one\ncaf\xe9\nthree\n")
    expected = [{"id": "a.txt:1", "text": "one"}, {"id": "a.txt:3", "text": "three"}]
    read(ReadCorpus(path), expected, [(2, f"invalid UTF-8: {NAME_IT}")])


def test_csv_is_strings_empty_is_null_and_quoted_empty_is_a_text(write: Write, read: Read) -> None:
    path = write(
        "a.csv", '\ufeff"key",text,n\r\n007,"say ""hi""\r\nüber",\r\n\r\n008,"",5\r\n,x,1e3'
    )
    expected = [
        {"id": "a.csv:1", "key": "007", "text": 'say "hi"\r\nüber', "n": None},
        {"id": "a.csv:2", "key": "008", "text": "", "n": "5"},
        {"id": "a.csv:3", "key": None, "text": "x", "n": "1e3"},
    ]
    read(ReadCorpus(path), expected)


def test_tsv_has_tabs_and_no_quotes(write: Write, read: Read) -> None:
    cells = ['"I see', 'he said "bye"', '"Hello," he said.', '""', '"a, b"', "c\rd", " x ", ""]
    path = write("a.tsv", '"id"\ttext\n' + "".join(f"0{i}\t{c}\n" for i, c in enumerate(cells)))
    expected = [{'"id"': f"0{i}", "text": cell or None} for i, cell in enumerate(cells)]
    read(ReadCorpus(path, id_column='"id"'), expected)


def test_a_tsv_row_with_a_tab_or_newline_too_many_is_rejected(write: Write, read: Read) -> None:
    path = write("a.tsv", 'text\tn\r\n"c\td"\t1\r\n\r\nb\t2\r\n"x\r\n')
    rejects = [
        (1, "wrong number of fields: 3 instead of 2"),
        (3, "wrong number of fields: 1 instead of 2"),
    ]
    read(ReadCorpus(path), [{"id": "a.tsv:2", "text": "b", "n": "2"}], rejects)


def test_a_lone_quote_does_not_join_rows_of_csv(write: Write, read: Read) -> None:
    path = write("a.csv", 'text,n\n5" disk,1\n"I see,2\nok,3\n"Hello,"" he,4\nlast,5\n')
    content = '"I see,2\nok,3\n"Hello,"" he,4\n'
    parts = list(read_file(path, ColumnSelection(None, None, "text"), None, 9))
    assert [(e.row, e.content) for part in parts for e in part.errors] == [(2, content)]
    read(
        ReadCorpus(path),
        [
            {"id": "a.csv:1", "text": '5" disk', "n": "1"},
            {"id": "a.csv:3", "text": "last", "n": "5"},
        ],
        [(2, "text after a closing quote: double the quotes within a field")],
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_is_read_as_pythons_csv_reads_it(write: Write, end: str) -> None:
    random = np.random.default_rng(len(end))
    cells = ["", "x", '"', '""', ",", end, 'a"b', f'"{end}"', "é", " ", "NA", "null", "true", "007"]
    table = [["text", "b", "c"], *random.choice(cells, (300, 3)).tolist()]
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(table)
    path = write("a.csv", file.getvalue())
    parts = list(read_file(path, ColumnSelection(None, None, "text"), None, 64))
    assert not any(part.errors for part in parts)
    found = [list(row.values()) for part in parts for row in part.batch.to_pylist()]
    assert found == table[1:]


def test_a_csv_row_with_the_wrong_fields_or_bytes_is_rejected_alone(
    write: Write, read: Read
) -> None:
    path = write("a.csv", b'text,n\na,1\n"b\nb"\nc,3,3\nd\xe9,4\n\xff\nf,6\n')
    rejects = [
        (2, "wrong number of fields: 1 instead of 2"),
        (3, "wrong number of fields: 3 instead of 2"),
        (4, f"invalid UTF-8: {NAME_IT}"),
        (5, "wrong number of fields: 1 instead of 2"),
    ]
    counters = read(
        ReadCorpus(path),
        [{"id": "a.csv:1", "text": "a", "n": "1"}, {"id": "a.csv:6", "text": "f", "n": "6"}],
        rejects,
    )
    assert counters["rows_read"] == 6
    assert counters["rejects"] == 4
    assert counters["rejects: wrong number of fields"] == 3


@pytest.mark.parametrize("tail", ["1,b\n2,c\n3,d\n", "1,b\n2,c", "1\n2\n3"])
def test_a_quote_that_is_never_closed_does_not_swallow_the_file(write: Write, tail: str) -> None:
    with pytest.raises(InputError, match=r"a\.csv: the quote opened in row 2 is never closed"):
        texts(write("a.csv", 'n,text\n0,a\n1,"b\n' + tail))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_last_text_of_two_lines_is_not_an_open_quote(write: Write, end: str) -> None:
    assert texts(write("a.csv", 'text\n"a\nb\n"' + end)) == ["a\nb\n"]


def test_broken_json_lines_cost_themselves_only(write: Write, read: Read) -> None:
    deep = b"[" * 100_000
    path = write(
        "a.jsonl",
        b'\xef\xbb\xbf{"text": "one", "n": 1}\r\n\r\n{"text": 5, "n": 2}\nbroken\n'
        b'{"text": "\\ud83d"}\n["x"]\n{"text": "caf\xe9"}\n'
        + deep
        + b'\n{"text": "\\ud83d\\ude00 \xc3\xbc", "tags": ["a"]}',
    )
    expected = [
        {"id": "a.jsonl:1", "text": "one", "n": 1, "tags": None},
        {"id": "a.jsonl:9", "text": "😀 ü", "n": None, "tags": ["a"]},
    ]
    rejects = [
        ("a.jsonl:3", "text is not a string: 5"),
        (4, "broken JSON: Expecting value: line 1 column 1 (char 0)"),
        (5, "lone surrogate: half of a \\u pair"),
        (6, 'not a JSON object: ["x"]'),
        (7, f"invalid UTF-8: byte 14 of the line; {NAME_IT}"),
        (
            8,
            "broken JSON: maximum recursion depth exceeded while decoding a JSON array "
            "from a unicode string",
        ),
    ]
    counters = read(ReadCorpus(path), expected, rejects)
    assert counters["blank_lines"] == 1
    assert counters["rows_read"] == 8


def test_a_json_key_that_repeats_costs_its_row(write: Write, read: Read) -> None:
    path = write(
        "a.jsonl",
        '{"text": "one", "n": {"a": 1, "b": 1}}\n'
        '{"text": "first", "n": null, "text": "last"}\n'
        '{"text": "x", "t\\u0065xt": "x"}\n'
        '{"text": "y", "n": {"a": 1, "a": 1}}\n'
        '{"text": "Text", "Text": "another column", "n": [{"a": 1}, {"a": 2}]}\n',
    )
    rejects = [
        (2, 'repeated key: "text"'),
        (3, 'repeated key: "text"'),
        (4, 'repeated key: "a"'),
        (
            "a.jsonl:5",
            'value of another type than its column: n is [{"a": 1}, {"a": 2}], '
            "the column struct<a: int64, b: int64>",
        ),
    ]
    read(
        ReadCorpus(path),
        [{"id": "a.jsonl:1", "text": "one", "n": {"a": 1, "b": 1}, "Text": None}],
        rejects,
    )


def test_rejects_keep_the_original_content(
    write: Write, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    path = write(
        "a.jsonl",
        b'{"text": [1, "\xc3\xbc"], "n": 1}\n{"text": "\xff'
        + b"x" * 2000
        + b'"}\n{"text": "a", "n": "many"}\n',
    )
    step = {"reject_step": "ReadCorpus"}
    unlike = 'value of another type than its column: n is "many", the column int64'
    with new_pipeline() as p:
        _, bad = p | ReadCorpus(path).with_exception_handling()
        expected = [
            {
                "id": "a.jsonl:1",
                "text": '[1, "ü"]',
                "n": "1",
                **step,
                "reject_reason": 'text is not a string: [1, "ü"]',
            },
            {"id": "a.jsonl:3", "text": "a", "n": "many", **step, "reject_reason": unlike},
            {
                "file": path,
                "row": 2,
                "content": '{"text": "\\xff' + "x" * 986,  # 1,000 characters
                **step,
                "reject_reason": f"invalid UTF-8: byte 11 of the line; {NAME_IT}",
            },
        ]
        assert_that(bad | beam.FlatMap(rows), equal_to(expected))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "{",
            r"ReadCorpus: .*a\.jsonl row 2: broken JSON: .*; "
            r"fix the row, or collect .*with_exception_handling",
        ),
        ('{"text": 1}', r"a\.jsonl row 2: text is not a string: 1; fix"),
    ],
)
def test_without_exception_handling_a_bad_row_fails_the_job_by_name(
    write: Write, read: Read, line: str, message: str
) -> None:
    with pytest.raises(Exception, match=message):
        read(ReadCorpus(write("a.jsonl", '{"text": "a"}\n' + line)), [])


def test_a_json_column_takes_the_type_of_most_of_its_first_values_and_widens(
    write: Write, read: Read
) -> None:
    values = [
        '"n/a"',
        "1",
        "2",
        "2.5",
        "null",
        "true",
        "1e400",
        "9007199254740993",
        "123456789012345678901234567890",
    ]
    path = write("a.jsonl", "".join(f'{{"text": "t", "n": {value}}}\n' for value in values))
    expected = [
        {"id": f"a.jsonl:{i}", "text": "t", "n": n}
        for i, n in [(2, 1.0), (3, 2.0), (4, 2.5), (5, None)]
    ]
    expected.append({"id": "a.jsonl:7", "text": "t", "n": float("inf")})
    start = "value of another type than its column: n is"
    rejects = [
        ("a.jsonl:1", f'{start} "n/a", the column double'),
        ("a.jsonl:6", f"{start} true, the column double"),
        ("a.jsonl:8", f"{start} 9007199254740993, the column double"),  # 2^53 + 1 is not a float64
        ("a.jsonl:9", f"{start} 123456789012345678901234567890, the column double"),
    ]
    read(ReadCorpus(path), expected, rejects)


def test_a_json_column_keeps_its_kind_from_block_to_block(write: Write, read: Read) -> None:
    path = write(
        "a.jsonl",
        '{"text": "a", "n": 1}\n{"text": "b"}\n{"text": "c", "n": "x"}\n'
        '{"text": "d", "n": 0.5, "m": {"k": 1}}\n',
    )
    expected = [
        {"id": "a.jsonl:1", "text": "a", "n": 1.0, "m": None},
        {"id": "a.jsonl:2", "text": "b", "n": None, "m": None},
        {"id": "a.jsonl:4", "text": "d", "n": 0.5, "m": {"k": 1}},
    ]
    rejects = [("a.jsonl:3", 'value of another type than its column: n is "x", the column double')]
    read(ReadCorpus(path, rows_per_block=2), expected, rejects)


def test_parquet_keeps_types_integer_ids_and_dictionaries(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    schema = pa.schema(
        [
            ("no", pa.int32()),
            ("text", pa.dictionary(pa.int32(), pa.string())),
            ("f", pa.large_string()),
            ("skip", pa.int8()),
        ]
    )
    table = pa.table(
        {"no": [1, 2, 3], "text": ["a", "b", "a"], "f": ["x", None, "z"], "skip": [0, 0, 0]}, schema
    )
    pq.write_table(table, tmp_path / "a.pq")
    with new_pipeline() as p:
        corpus = p | ReadCorpus(str(tmp_path / "a.pq"), columns=["f"], id_column="no")
        expected = [
            {"no": 1, "text": "a", "f": "x"},
            {"no": 2, "text": "b", "f": None},
            {"no": 3, "text": "a", "f": "z"},
        ]
        assert_that(corpus | beam.FlatMap(rows), equal_to(expected))
        types = corpus | beam.Map(lambda block: [str(field.type) for field in block.schema])
        kind = "dictionary<values=string, indices=int32, ordered=0>"
        assert_that(types, equal_to([["int32", kind, "large_string"]]), "Types")


def test_a_block_carries_only_the_words_it_uses(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    words = [f"word {i}" for i in range(300)]
    pq.write_table(pa.table({"text": pa.array(words).dictionary_encode()}), tmp_path / "a.parquet")
    with new_pipeline() as p:
        corpus = p | ReadCorpus(str(tmp_path / "a.parquet"), rows_per_block=100)
        sizes = corpus | beam.Map(lambda block: len(block.column("text").dictionary))
        assert_that(sizes, equal_to([100, 100, 100]))


def test_invalid_strings_in_parquet_cost_their_rows(tmp_path: Path, read: Read) -> None:
    texts = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    pq.write_table(pa.table({"text": texts, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    expected = [
        {"id": "a.parquet:1", "text": "a", "n": 1},
        {"id": "a.parquet:3", "text": "c", "n": 3},
    ]
    read(ReadCorpus(str(tmp_path / "a.parquet")), expected, [(2, "invalid UTF-8")])


PACK = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_files_read_as_plain_ones_also_in_several_parts(
    write: Write, suffix: str
) -> None:
    pack = PACK[suffix]
    assert texts(write(f"a.txt.{suffix}", pack("\ufeffä\n".encode()) + pack(b"b\nc"))) == [
        "ä",
        "b",
        "c",
    ]


@pytest.mark.parametrize("suffix", PACK)
def test_a_truncated_file_fails_by_name(write: Write, suffix: str) -> None:
    """Beam's own decompression ends such a file early, without an error."""
    noise = "".join(f"{i * 2654435761 % 2**32:x}\n" for i in range(20_000)).encode()
    packed = PACK[suffix](noise)
    path = write(f"a.txt.{suffix}", packed[: len(packed) // 2])
    with pytest.raises(
        InputError, match=rf"a\.txt\.{suffix}: cannot be read.*; replace the file, or leave it out"
    ):
        texts(path)


def test_a_broken_parquet_file_fails_by_name_and_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    numbers = [str(i * 2654435761 % 2**32) for i in range(20_000)]
    pq.write_table(pa.table({"text": numbers}), path, row_group_size=2000, use_dictionary=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        InputError, match=r"a\.parquet: cannot be read: Parquet magic bytes not found"
    ):
        texts(str(path))
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(30_000) + whole[middle + 30_000 :])
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read past row \d{4,5}: "):
        texts(str(path))


def test_a_file_that_cannot_be_read_fails_the_job_even_if_rejects_are_collected(
    write: Write, read: Read
) -> None:
    with pytest.raises(
        Exception, match=r"a\.txt\.gz: cannot be read.*; replace the file, or leave it out"
    ):
        read(ReadCorpus(write("a.txt.gz", gzip.compress(b"some words")[:-9])), [], [])


def test_files_of_several_kinds_share_one_schema_in_the_order_of_the_first(
    write: Write, tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    write("a.csv", "text,lang\nx,de\n")
    write("b.jsonl", '{"n": 1, "text": "y"}\n')
    pq.write_table(
        pa.table({"n": pa.array([0.5], pa.float32()), "text": ["z"]}), tmp_path / "c.parquet"
    )
    write("d.jsonl", "")
    write("e.csv", "")
    write("f.csv", "text,only_header\n")
    with new_pipeline() as p:
        corpus = p | ReadCorpus(str(tmp_path / "*"))
        expected = [
            {"id": "a.csv:1", "text": "x", "lang": "de", "n": None, "only_header": None},
            {"id": "b.jsonl:1", "text": "y", "lang": None, "n": 1.0, "only_header": None},
            {"id": "c.parquet:1", "text": "z", "lang": None, "n": 0.5, "only_header": None},
        ]
        assert_that(corpus | beam.FlatMap(rows), equal_to(expected))
        schemas = (
            corpus
            | beam.Map(lambda block: block.schema.to_string())
            | beam.Distinct()
            | beam.combiners.Count.Globally()
        )
        assert_that(schemas, equal_to([1]), "Schemas")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("id_column", [None, "key"])
def test_many_files_of_differing_columns_are_one_corpus_in_every_mode(
    write: Write, read: Read, tmp_path: Path, mode: str, id_column: str | None
) -> None:
    """A number is an integer in files 0, 3, ..., a float in 1, 4, ..., and missing in the others.

    Every file that ends in 7 has no rows.
    """
    expected = []
    for i in range(120):
        numbers = [{"n": i}, {"n": i + 0.5}, {"tag": "t"}][i % 3]
        row = {"key": f"k{i}", "text": "a text", **numbers}
        write(f"{i:03}.jsonl", "" if i % 10 == 7 else json.dumps(row) + "\n")
        both = {"n": numbers.get("n"), "tag": numbers.get("tag")}
        both["n"] = None if both["n"] is None else float(both["n"])
        names = {} if id_column else {"id": f"{i:03}.jsonl:1"}
        if i % 10 != 7:
            expected.append({**names, "key": f"k{i}", "text": "a text", **both})
    counters = read(
        ReadCorpus(str(tmp_path / "*.jsonl"), id_column=id_column), expected, [], mode=mode
    )
    assert counters["files_read"] == 120


def test_no_read_on_several_processes_misses_a_schema(
    write: Write, tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    """Beam's runner has lost side inputs in one of 20 runs; see `elements.from_side_inputs`."""
    write("a.csv", "key,text\n1,x\n")
    write("b.csv", "key,text,late\n2,y,z\n")
    expected = [{"key": "1", "text": "x", "late": None}, {"key": "2", "text": "y", "late": "z"}]
    with new_pipeline("two processes") as p:
        for i in range(3):
            corpus = p | f"Read{i}" >> ReadCorpus(f"{tmp_path}/*", id_column="key")
            assert_that(corpus | f"Rows{i}" >> beam.FlatMap(rows), equal_to(expected), f"Is{i}")


@pytest.mark.parametrize("id_column", [None, "key"])
def test_files_without_rows_are_a_corpus_without_rows(
    write: Write, read: Read, tmp_path: Path, id_column: str | None
) -> None:
    write("a.jsonl", "")
    write("b.csv", "key,text,n\n")
    pq.write_table(
        pa.table({"key": pa.array([], pa.string()), "text": pa.array([], pa.string())}),
        tmp_path / "c.parquet",
    )
    counters = read(ReadCorpus(str(tmp_path / "*"), id_column=id_column), [], [])
    assert counters["files_read"] == 3
    assert counters["rows_read"] == 0


@pytest.mark.parametrize("id_column", [None, "key"])
def test_types_that_cannot_be_unified_are_named_even_if_no_file_has_rows(
    write: Write, read: Read, tmp_path: Path, id_column: str | None
) -> None:
    write("a.csv", "key,text,n\n")
    empty = {"key": pa.array([], pa.string()), "text": pa.array([], pa.string())}
    pq.write_table(pa.table({**empty, "n": pa.array([], pa.int64())}), tmp_path / "b.parquet")
    with pytest.raises(Exception, match=r"column 'n' is string .* and int64 in .*b\.parquet;"):
        read(ReadCorpus(str(tmp_path / "*"), id_column=id_column), [], [])


def test_a_rejected_id_has_the_columns_of_all_files(
    write: Write, tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    write("a.csv", "id,text\n1,a\n,b\n")
    write("b.csv", "id,text,lang\n1,a,de\n2,c\n")
    with new_pipeline() as p:
        good, bad = p | ReadCorpus(f"{tmp_path}/*", id_column="id").with_exception_handling()
        # of the rows with id 1, the one with the smaller hash is kept
        kept = [{"id": "1", "text": "a", "lang": None}]
        assert_that(good | beam.FlatMap(rows), equal_to(kept), "Good")
        step = {"reject_step": "ReadCorpus"}
        fields = {"file": str(tmp_path / "b.csv"), "row": 2, "content": "2,c"}
        expected = [
            {"id": None, "text": "b", "lang": None, **step, "reject_reason": "id is null"},
            {"id": "1", "text": "a", "lang": "de", **step, "reject_reason": "duplicate id"},
            {**fields, **step, "reject_reason": "wrong number of fields: 2 instead of 3"},
        ]
        assert_that(bad | "Bad" >> beam.FlatMap(rows), equal_to(expected), "Bad")


@pytest.mark.parametrize("id_column", [None, "key"])
def test_rows_and_rejects_are_without_a_time_as_those_of_every_source(
    write: Write, new_pipeline: Callable[..., beam.Pipeline], id_column: str | None
) -> None:
    path = write("a.csv", "key,text\n1,x\n,y\n3\n")
    with new_pipeline() as p:
        corpus = ReadCorpus(path, id_column=id_column).with_exception_handling()
        for label, part in zip(("Good", "Bad"), p | corpus, strict=True):
            times = part | f"Times{label}" >> beam.Map(has_no_time)
            assert_that(times | f"Once{label}" >> beam.Distinct(), equal_to([True]), label)


def test_types_that_cannot_be_unified_are_named(write: Write, read: Read, tmp_path: Path) -> None:
    write("a.csv", "text,n\nx,1\n")
    write("b.jsonl", '{"text": "y", "n": 1}\n')
    with pytest.raises(
        Exception,
        match=r"column 'n' is string in the first files and int64 in .*b\.jsonl; convert one, or",
    ):
        read(ReadCorpus(str(tmp_path / "*")), [], [])
    read(
        ReadCorpus(str(tmp_path / "*"), columns=[]),
        [{"id": "a.csv:1", "text": "x"}, {"id": "b.jsonl:1", "text": "y"}],
    )


def test_vectors_of_two_models_are_refused(tmp_path: Path, read: Read) -> None:
    for name, fingerprint in [("a", "one"), ("b", "two")]:
        field = VectorMetadata("m", fingerprint, "mean", "", 2, True).field("embedding")
        table = pa.table(
            [pa.array(["x"]), pa.array([[0.6, 0.8]], field.type)],
            pa.schema([("text", pa.string()), field]),
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(
        Exception,
        match=r"column 'embedding' of .*b\.parquet and of files before it: "
        ".* fingerprints one and two",
    ):
        read(ReadCorpus(str(tmp_path / "*.parquet")), [])


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.csv", "txt,n\na,1\n", {}, r"a\.csv: no column 'text' among txt, n; name one of these"),
        ("a.csv", "text,n\na,1\n", {"columns": ("m",)}, r"a\.csv: no column 'm' among text, n"),
        ("a.csv", "text,n\na,1\n", {"id_column": "key"}, r"a\.csv: no column 'key' among text, n"),
        ("a.csv", "text,n,n\na,1,2\n", {}, r"a\.csv: column 'n' is there 2 times; rename one"),
        ("a.csv", '"text",text\na,a\n', {}, r"a\.csv: column 'text' is there 2 times"),
        ("a.csv", 'text,,""\na,,\n', {}, r"a\.csv: column '' is there 2 times; rename one"),
        ("a.tsv", "text\tn\tn\na\t1\t1\n", {}, r"a\.tsv: column 'n' is there 2 times"),
        (
            "a.csv",
            "id,text\n1,a\n",
            {},
            r"a\.csv: there is a column 'id' already; pass id_column='id' to use it",
        ),
        (
            "a.jsonl",
            '{"id": 1, "text": "a"}\n',
            {},
            r"a\.jsonl: there is a column 'id' already; pass id_column='id'",
        ),
        ("a.jsonl", '{"txt": "a"}\n', {}, r"a\.jsonl: no column 'text' among txt"),
        ("a.txt", "a\n", {"id_column": "key"}, r"a\.txt: no column 'key' among text"),
        (
            "a.json",
            "[]",
            {},
            r"a\.json: unknown format; rename it to one of \.parquet, .*, "
            "or pass format as one of parquet",
        ),
        ("a.parquet.gz", "", {}, r"a\.parquet\.gz: a Parquet file within \.gz; unpack it"),
    ],
)
def test_missing_columns_and_wrong_formats_are_named(
    write: Write, name: str, content: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        texts(write(name, content), **settings)


def test_a_text_column_of_numbers_in_parquet_is_an_error_of_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"a\.parquet: column 'text' is int64; it has to be of strings"
    ):
        texts(str(tmp_path / "a.parquet"))


def test_format_and_text_column_override_names(write: Write, read: Read) -> None:
    path = write("dump.log", '{"body": "a", "id": "x"}\n')
    read(
        ReadCorpus(path, format="jsonl", text_column="body", id_column="id"),
        [{"body": "a", "id": "x"}],
    )


def test_ids_are_the_path_below_the_common_folder(write: Write, read: Read, tmp_path: Path) -> None:
    write("x/de/a.txt", "eins\n")
    write("x/en/a.txt", "one\n")
    expected = [{"id": "de/a.txt:1", "text": "eins"}, {"id": "en/a.txt:1", "text": "one"}]
    read(ReadCorpus(f"{tmp_path}/x/*/a.txt"), expected)
    read(
        ReadCorpus(
            [f"{tmp_path}/x/en/*.txt", f"{tmp_path}/x/de/*", f"{tmp_path}/x/de/../de/a.txt"]
        ),
        expected,
    )


def test_ids_do_not_depend_on_where_a_program_runs(
    write: Write, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("x/a.txt", "eins\n")
    monkeypatch.chdir(tmp_path / "x")
    read(ReadCorpus("./*.txt"), [{"id": "a.txt:1", "text": "eins"}])
    for pattern in ("a.txt", "./*.txt", "../x/a.txt", f"{tmp_path}/x/a.txt"):
        assert common_folder(pattern_list(pattern)) == f"{tmp_path}/x/"


def test_null_and_repeated_ids_are_rejected_across_files(
    write: Write, read: Read, tmp_path: Path
) -> None:
    write("a.csv", "id,text\n01,a\n,b\n1,c\n")
    write("b.csv.gz", gzip.compress(b"id,text\n01,a\n2,d\n"))
    expected = [{"id": "01", "text": "a"}, {"id": "1", "text": "c"}, {"id": "2", "text": "d"}]
    rejects = [(None, "id is null"), ("01", "duplicate id")]
    read(ReadCorpus(str(tmp_path / "*.csv*"), id_column="id"), expected, rejects)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "1,a\n1,a\n",
            "ReadCorpus: row with id '1': duplicate id; fix the row, or collect such rows",
        ),
        ("1,a\n,a\n", "ReadCorpus: row with id None: id is null; fix the row"),
    ],
)
def test_a_bad_id_is_an_error_of_read_corpus(
    write: Write, read: Read, lines: str, message: str
) -> None:
    path = write("a.csv", f"id,text\n{lines}")
    with pytest.raises(Exception, match=message):
        read(ReadCorpus(path, id_column="id"), [])


def test_rejected_ids_name_read_corpus(
    write: Write, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    path = write("a.csv", "id,text\n1,a\n1,a\n")
    with new_pipeline() as p:
        _, bad = p | ReadCorpus(path, id_column="id").with_exception_handling()
        steps = bad | beam.FlatMap(lambda block: block.column("reject_step").to_pylist())
        assert_that(steps, equal_to(["ReadCorpus"]))


def test_an_id_of_another_type_costs_its_row(write: Write, read: Read) -> None:
    path = write(
        "a.jsonl",
        "".join(f'{{"id": {i}, "text": "a"}}\n' for i in ("1", "2", "2.5", '"x"', "true", "[3]")),
    )
    rejects = [
        ("2.5", "id is not a string or integer: 2.5"),
        ("x", 'value of another type than its column: id is "x", the column int64'),
        ("true", "id is not a string or integer: true"),
        ("[3]", "id is not a string or integer: [3]"),
    ]
    read(
        ReadCorpus(path, id_column="id"), [{"id": 1, "text": "a"}, {"id": 2, "text": "a"}], rejects
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("mode", "id_column"), [("in memory", None), *((mode, "key") for mode in MODES)]
)
def test_ten_thousand_rows_with_bad_ones_among_them_read_the_same_in_every_mode(
    write: Write, read: Read, mode: str, id_column: str | None
) -> None:
    """Every 100th row of both files is broken: 50 + 50 of 5,000 + 5,000."""
    lines = [
        json.dumps({"key": f"j{i}", "text": f"ü {i}"}) if i % 100 else '{"text"'
        for i in range(5000)
    ]
    cells = [f'c{i},"ü, ""{i}"""' if i % 100 else f"c{i}" for i in range(5000)]
    one = write("a.jsonl.zst", zstandard.compress("\n".join(lines).encode()))
    two = write("b.csv.gz", gzip.compress(("key,text\n" + "\r\n".join(cells)).encode()))
    expected = []
    for i in range(5000):
        if i % 100:
            expected.append({"id": f"a.jsonl.zst:{i + 1}", "key": f"j{i}", "text": f"ü {i}"})
            expected.append({"id": f"b.csv.gz:{i + 1}", "key": f"c{i}", "text": f'ü, "{i}"'})
    if id_column:
        expected = [{name: row[name] for name in ("key", "text")} for row in expected]
    json_reason = "broken JSON: Expecting ':' delimiter: line 1 column 8 (char 7)"
    rejects = [(i + 1, json_reason) for i in range(0, 5000, 100)]
    rejects += [(i + 1, "wrong number of fields: 1 instead of 2") for i in range(0, 5000, 100)]
    counters = read(
        ReadCorpus([one, two], id_column=id_column, rows_per_block=512), expected, rejects, mode
    )
    assert counters["rows_read"] == 10_000
    assert counters["rejects"] == 100
    assert counters["files_read"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": []}, r"no file pattern in \[\]; give a path"),
        ({"pattern": "a.csv", "columns": "text"}, "columns is the string 'text'; give a list"),
        (
            {"pattern": "a.csv", "format": "xml"},
            "format 'xml' is unknown; use one of parquet, jsonl",
        ),
        ({"pattern": "a.csv", "text_column": "id"}, "'id' is both text and id column"),
        ({"pattern": "a.csv", "rows_per_block": 0}, "rows_per_block is 0; use 1 or more"),
    ],
)
def test_wrong_arguments_raise_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReadCorpus(**settings)


def test_a_launcher_can_check_files_before_it_starts(write: Write, tmp_path: Path) -> None:
    csv, text = write("a.csv", '"a,b",text\n1,2\n'), write("b.txt.gz", gzip.compress(b"x"))
    lines = write("c.jsonl", '\nbroken\n{"text": "a"}\n{"n": 1}\n')
    assert [
        Path(file.path).name for file in match_files([f"{tmp_path}/*.txt.gz", f"{tmp_path}/*"])
    ] == [
        "a.csv",
        "b.txt.gz",
        "c.jsonl",
    ]
    assert read_schema(csv) == ["a,b", "text"]
    assert read_schema(text, text_column="body") == ["body"]
    assert read_schema(lines) == ["text", "n"]
    pq.write_table(pa.table({"x": [1]}), tmp_path / "d.parquet")
    assert read_schema(str(tmp_path / "d.parquet")) == ["x"]
    with pytest.raises(InputError, match=r"no file matches '.*/\*\.tsv'; check the path"):
        match_files(f"{tmp_path}/*.tsv")
    with pytest.raises(InputError, match="no file matches '.*/none.csv'"):
        match_files([csv, f"{tmp_path}/none.csv"])
    with pytest.raises(
        InputError, match=r"is a folder; name the files in it, such as .*/\*\.parquet"
    ):
        match_files(str(tmp_path))
    with pytest.raises(InputError, match=r"a\.csv: cannot be read: "):
        read_schema(csv, "parquet")


def test_formats_and_folders_follow_from_names() -> None:
    assert [file_format(f"gs://b/x.{end}") for end in ("PQ", "ndjson.zst", "tsv.bz2", "txt")] == [
        "parquet",
        "jsonl",
        "tsv",
        "text",
    ]
    assert common_folder(["gs://b/x/*.csv", "gs://b/xy/a.csv"]) == "gs://b/"
    assert common_folder(["/data/[ab]/*.csv"]) == "/data/"


def test_a_block_is_typed_so_that_transforms_know_it(
    write: Write, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    good, bad = new_pipeline() | ReadCorpus(write("a.txt", "a")).with_exception_handling()
    assert good.element_type is Block
    assert bad.element_type is Block


def test_json_that_is_deep_or_mixed_costs_single_rows(write: Write, read: Read) -> None:
    deep: Any = 1
    for _ in range(70):
        deep = {"reply": deep}
    shallow = deep
    for _ in range(10):
        shallow = shallow["reply"]
    rows = [
        {"text": "a", "thread": deep},
        {"text": "b", "thread": shallow},
        {"text": "c", "n": 2**53 + 1},
        {"text": "d", "n": 2**53},
        {"text": "e", "n": 1.5},
    ]
    path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    read(
        ReadCorpus(path, rows_per_block=1),
        [
            {"id": "a.jsonl:2", "text": "b", "thread": shallow, "n": None},
            {"id": "a.jsonl:4", "text": "d", "thread": None, "n": 2.0**53},
            {"id": "a.jsonl:5", "text": "e", "thread": None, "n": 1.5},
        ],
        [
            ("a.jsonl:1", "value nested deeper than 60 levels: thread"),
            (
                "a.jsonl:3",
                "value does not fit its column: n is 9007199254740993, the column double",
            ),
        ],
    )
    write("a.jsonl", json.dumps(rows[2]) + "\n" + json.dumps(rows[4]) + "\n")
    message = r"row with id 'a\.jsonl:1': value does not fit its column: n is 9007199254740993"
    with pytest.raises(Exception, match=message), beam.Pipeline("FnApiRunner") as pipeline:
        pipeline | ReadCorpus(path, rows_per_block=1)


@pytest.mark.parametrize("rows_per_block", [1, 9])
def test_integers_up_to_2_to_the_64th_keep_their_value(
    write: Write, read: Read, rows_per_block: int
) -> None:
    ids = [5, 2**63, 2**64 - 1, 2**63 - 1]
    lines = "".join(f'{{"key": {n}, "text": "x"}}\n' for n in ids)
    path = write("a.jsonl", lines)
    expected = [{"key": n, "text": "x"} for n in ids]
    read(ReadCorpus(path, id_column="key", rows_per_block=rows_per_block), expected)


def test_strings_of_any_type_are_one_column(tmp_path: Path, read: Read) -> None:
    words = pa.array(["de"]).dictionary_encode()
    categorical = pa.DictionaryArray.from_arrays(
        words.indices.cast(pa.uint32()), words.dictionary.cast(pa.large_string())
    )
    columns = [
        words.dictionary,
        pa.array(["de"], pa.string_view()),
        pa.array(["de"], pa.large_string()),
        categorical,
        words,
        pa.nulls(1),
    ]
    for i, column in enumerate(columns):
        ids = pa.array([f"k{i}"], [pa.string(), pa.string_view(), pa.large_string()][i % 3])
        if i == 3:
            ids = ids.dictionary_encode()
        table = pa.table({"key": ids, "text": ["x"], "lang": column})
        pq.write_table(table, tmp_path / f"{i}.parquet")
        lang = column.to_pylist()[0]
        one = ReadCorpus(str(tmp_path / f"{i}.parquet"), id_column="key")
        read(one, [{"key": f"k{i}", "text": "x", "lang": lang}])
    expected = [
        {"key": f"k{i}", "text": "x", "lang": column.to_pylist()[0]}
        for i, column in enumerate(columns)
    ]
    read(ReadCorpus(str(tmp_path / "*.parquet"), id_column="key"), expected)


def test_an_xz_file_of_several_streams(write: Write) -> None:
    one, two = (lzma.compress(f"{text}\n".encode() * 3000) for text in ("eins", "zwei"))
    whole = ["eins"] * 3000 + ["zwei"] * 3000
    for padding in (b"", bytes(4), bytes(2 << 20)):
        assert texts(write("a.txt.xz", one + padding + two + padding)) == whole
    for damaged in (one + b"\1" + two[1:], one + two[:-9], one + two + b"x", one[:-9], b"x", b""):
        with pytest.raises(InputError, match=r"a\.txt\.xz: cannot be read"):
            texts(write("a.txt.xz", damaged))


def test_csv_columns_have_the_types_that_are_declared(write: Write, read: Read) -> None:
    cells = "key,text,stars,day\n07,a,9,2024-02-29\n08,b,,\n09,c,9.5,2024-02-30\n10,d,10,\n"
    path = write("a.csv", cells)
    kinds = {"stars": pa.int64(), "day": pa.date32()}
    leap = datetime.date(2024, 2, 29)
    read(
        ReadCorpus(path, id_column="key", types=kinds),
        [
            {"key": "07", "text": "a", "stars": 9, "day": leap},
            {"key": "08", "text": "b", "stars": None, "day": None},
            {"key": "10", "text": "d", "stars": 10, "day": None},
        ],
        [(None, "value does not fit its column: stars is 9.5, the column int64")],
    )
    with pytest.raises(Exception, match=r"ReadCorpus: .*a\.csv row 3: value does not fit its"):
        read(ReadCorpus(path, id_column="key", types=kinds), [])
    with pytest.raises(Exception, match=r"a\.csv: no column 'strs' among key, text, stars, day"):
        read(ReadCorpus(path, types={"strs": pa.int64()}), [])
    for types in ("stars", ["stars"], {"stars": "int64"}):
        with pytest.raises(InputError, match="types is .*; give a mapping of names to types"):
            ReadCorpus(path, types=types)  # type: ignore[arg-type]


@pytest.mark.parametrize("around", ["list", "struct", "map"])
def test_invalid_utf8_inside_a_value_of_parquet_costs_its_row(around: str, tmp_path: Path) -> None:
    broken, starts = pa.array([b"ok", b"a\xff"]).view(pa.string()), pa.array([0, 1, 2], pa.int32())
    column = {
        "list": pa.ListArray.from_arrays(starts, broken),
        "struct": pa.StructArray.from_arrays([broken], ["field"]),
        "map": pa.MapArray.from_arrays(starts, pa.array(["k", "k"]), broken),
    }[around]
    pq.write_table(pa.table({"text": ["one", "two"], "tags": column}), tmp_path / "a.parquet")
    read = ReadCorpus(str(tmp_path / "a.parquet")).with_exception_handling()
    with beam.Pipeline() as p:
        good, bad = p | read
        good | "KeepGood" >> beam.Map(keep, str(tmp_path), "good")
        bad | "KeepBad" >> beam.Map(keep, str(tmp_path), "bad")
    assert [b.column("text").to_pylist() for b in kept(str(tmp_path), "good")] == [["one"]]
    (rejected,) = kept(str(tmp_path), "bad")
    assert rejected.column("reject_reason").to_pylist() == ["invalid UTF-8"]
    assert "xff" in rejected.column("content")[0].as_py()
