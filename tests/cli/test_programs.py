"""The programs, run as a user runs them: what they write and print, and how they report errors."""

import ast
import datetime
import json
import re
import runpy
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import TextEncoder
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from tests.engines.joined import batch_examples
from tests.pages import (
    CHROMIUM,
    CONTRASTS,
    HOSTILE,
    SCHEMES,
    hash_of,
    open_page,
    read_page,
    use_page,
)
from tests.programs import ROOT, run, start
from tests.sinks.test_write_parquet import embedded, write


def flags(**values: object) -> list[object]:
    """Give the arguments of a command line: `--input a` for `input="a"`."""
    return [part for name, value in values.items() for part in (f"--{name}", value)]


def one_line(text: str) -> bool:
    return len(text.strip().splitlines()) == 1


def read_vectors(folder: Path) -> pa.Table:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(tables).sort_by("id")


def read_rejects(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("rejects/*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]


@pytest.fixture
def ten_thousand(tmp_path: Path) -> Path:
    """10,000 rows; 100 of them are bad in six ways, or in a seventh: lines of invalid JSON."""
    texts = ["the cat sat", "a dog ran", "birds fly south", "rain falls", "stones roll"]
    texts += ["wind blows hard", "snow melts"]
    lines = [json.dumps({"id": f"r{i}", "text": texts[i % 7], "n": i}) for i in range(10_000)]
    for k in range(100):
        i, kind = 100 * k + 50, k % 7
        row = {"id": f"r{i}", "text": "fine", "n": i}
        if kind == 0:
            row["text"] = None
        elif kind == 1:
            row["text"] = ""
        elif kind == 2:
            row["text"] = " \t\n"
        elif kind == 3:
            row["text"] = 42
        elif kind == 4:
            row["id"] = f"r{i - 1}"
        elif kind == 5:
            row["text"] = "lone \ud800 surrogate"
        lines[i] = json.dumps(row) if kind < 6 else '{"id": "broken", "text": "bad byte \udcff"}'
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    return path


PROCESSES = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing"]
PROCESSES += ["--direct_num_workers=2"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("mode", [[], PROCESSES], ids=["threads", "processes"])
def test_a_hundred_bad_rows_of_ten_thousand_cost_a_hundred(
    tmp_path: Path, minilm: str, encoder: TextEncoder, ten_thousand: Path, mode: list[str]
) -> None:
    out = tmp_path / "out"
    arguments = flags(input=ten_thousand, id_column="id", output=out, model=minilm)
    done = run("embed_corpus.py", *arguments, *mode)
    vectors, rejects = read_vectors(out), read_rejects(out)
    assert vectors.num_rows == 9_900
    assert len(set(vectors.column("id").to_pylist())) == 9_900
    assert len(rejects) == 100
    summary = json.loads((out / "summary.json").read_text())
    files = len(list(out.glob("*.parquet")))
    assert (summary["texts"], summary["rejected"], summary["files"]) == (9_900, 100, files)
    assert sum(summary["reasons"].values()) == 100
    assert {reason.split(":")[0] for reason in summary["reasons"]} == {
        row["reject_reason"].split(":")[0] for row in rejects
    }
    assert len(summary["reasons"]) == 7
    assert "9,900" in done.stdout
    assert "rejected  100" in done.stdout
    some = vectors.take(list(range(0, 9_900, 990)))
    found = np.array(some.column("embedding").to_pylist(), np.float32)
    assert np.abs(found - encoder.encode(some.column("text").to_pylist())).max() < 1e-6


def test_more_rejects_than_allowed_leave_no_vectors_but_the_reasons(
    tmp_path: Path, minilm: str, ten_thousand: Path
) -> None:
    out = tmp_path / "out"
    arguments = flags(input=ten_thousand, id_column="id", output=out, model=minilm, max_rejects=99)
    done = run("embed_corpus.py", *arguments, expect=3)
    message = f"100 rows rejected, more than max_rejects 99; see their reasons in {out}/rejects"
    assert done.stderr.strip().endswith(message)
    assert one_line(done.stderr)
    assert not list(out.glob("*.parquet"))
    assert len(read_rejects(out)) == 100


def test_every_input_column_and_a_table_to_query(
    tmp_path: Path, minilm: str, jsonl: Callable[[list[dict]], str]
) -> None:
    texts = ["a cat", "a kitten", "the stock market"]
    rows = jsonl([{"key": i, "body": text, "n": i / 2} for i, text in enumerate(texts)])
    arguments = flags(input=rows, id_column="key", text_column="body", model=minilm)
    arguments += flags(output=tmp_path / "out", duckdb=tmp_path / "v.duckdb", truncate_dim=128)
    run("embed_corpus.py", *arguments)
    table = pq.read_table(next((tmp_path / "out").glob("*.parquet")))
    assert {"key", "body", "n", "embedding"} == set(table.column_names)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 128)
    with duckdb.connect(str(tmp_path / "v.duckdb")) as connection:
        nearest = connection.execute(
            "SELECT b.body FROM vectors a, vectors b WHERE a.key = 0 AND b.key <> 0 "
            "ORDER BY array_cosine_similarity(a.embedding, b.embedding) DESC LIMIT 1"
        )
        assert nearest.fetchone() == ("a kitten",)


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def embedded_twice(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    """Folder `a`, `a.duckdb`, and `b` of a run that reuses `a` and quantizes; its `page.html`."""
    folder = tmp_path_factory.mktemp("embedded")
    texts = [*(f"text number {i}" for i in range(18)), "repair a bicycle", HOSTILE, None]
    rows = [{"id": i, "text": text, "kind": "even"} for i, text in enumerate(texts)]
    for row in rows[1:19:2]:
        row["kind"] = "odd"
    path = write_jsonl(folder / "rows.jsonl", rows)
    arguments = flags(input=path, id_column="id", model=minilm)
    run("embed_corpus.py", *arguments, *flags(output=folder / "a", duckdb=folder / "a.duckdb"))
    arguments += flags(output=folder / "b", reuse=folder / "a", quantize="int8")
    arguments += flags(s3_secret_access_key="TOPSECRET")
    done = run("embed_corpus.py", *arguments, *flags(report=folder / "page.html"))
    assert f"report  {folder / 'page.html'}" in done.stdout
    return folder


def test_a_second_run_reuses_the_first_and_quantizes(embedded_twice: Path) -> None:
    summary = json.loads((embedded_twice / "b" / "summary.json").read_text())
    assert (summary["texts"], summary["reused"]) == (20, 20)
    full, codes = (
        np.array(read_vectors(embedded_twice / name).column("embedding").to_pylist(), np.float32)
        for name in ("a", "b")
    )
    cosines = (full * codes).sum(1) / np.linalg.norm(codes, axis=1)
    assert codes.max() == 127
    assert cosines.min() > 0.999


def test_chunks_and_codes_are_reused_and_join_the_table_by_their_limit(
    tmp_path: Path, minilm: str
) -> None:
    texts = ["one two three four five six", "seven eight", "nine ten eleven twelve thirteen"]
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    arguments = flags(input=tmp_path / "rows.jsonl", model=minilm, duckdb=tmp_path / "v.duckdb")
    arguments += flags(long_text="chunks", chunk_tokens=4, quantize="int8")
    write_jsonl(tmp_path / "rows.jsonl", rows)
    run("embed_corpus.py", *arguments, *flags(output=tmp_path / "a"))
    rows[1]["text"] = "an altogether different text"
    write_jsonl(tmp_path / "rows.jsonl", [*rows, {"id": 3, "text": texts[1]}])
    run("embed_corpus.py", *arguments, *flags(output=tmp_path / "b", reuse=tmp_path / "a"))
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert (summary["texts"], summary["reused"], summary["not_reused"]) == (4, 3, {})
    first, second = (read_vectors(tmp_path / name).sort_by("id") for name in "ab")
    assert summary["vectors"] == second.num_rows == 6
    assert first.schema.equals(second.schema, check_metadata=True)  # of one int8_limit
    codes = [
        {row["id"]: row["embedding"] for row in table.to_pylist() if row["parent_id"] in (0, 2)}
        for table in (first, second)
    ]
    assert codes[0] == codes[1]
    arguments = [*arguments[:4], *arguments[6:]]  # without the table
    arguments += flags(prompt="query: ", output=tmp_path / "c", reuse=tmp_path / "b")
    done = run("embed_corpus.py", *arguments)
    summary = json.loads((tmp_path / "c" / "summary.json").read_text())
    reason = "the previous vectors are of another model or settings"
    assert (summary["reused"], summary["not_reused"]) == (0, {reason: 4})
    assert f"4 x {reason}" in done.stdout
    limits = {limit_of(table) for table in (first, second, read_vectors(tmp_path / "c"))}
    assert len(limits) == 2  # nothing has the limit of another model


def limit_of(table: pa.Table) -> float | None:
    metadata = vector_metadata(table.schema.field("embedding"))
    assert metadata is not None
    return metadata.int8_limit


@pytest.fixture(scope="module")
def inspected(embedded_twice: Path, minilm: str) -> Path:
    """Pages `answer.html`, `vectors.html`, `codes.html` of `embedded_twice`; `docstrings.html`."""
    folder = embedded_twice / "inspected"
    folder.mkdir()
    arguments = ["how do I fix a flat tyre", "--model", minilm, "-k", 2]
    arguments += flags(report=folder / "answer.html")
    answer = run("search_vectors.py", embedded_twice / "a.duckdb", *arguments).stdout
    assert "repair a bicycle" in answer.splitlines()[3]
    assert answer.count("text number") <= 1
    page = folder / "vectors.html"
    printed = run("inspect_vectors.py", embedded_twice / "a", *flags(report=page)).stdout
    assert printed.endswith(f"report in {page}\n")
    codes = flags(report=folder / "codes.html")
    run("inspect_vectors.py", embedded_twice / "b", "--json", *codes)
    docstrings = flags(report=folder / "docstrings.html")
    run("extract_docstrings.py", folder / "docstrings.jsonl", *docstrings)
    return folder


def test_a_question_is_answered_from_the_table(
    inspected: Path, tmp_path: Path, minilm: str
) -> None:
    page = read_page(inspected / "answer.html")
    assert "how do I fix a flat tyre" in page.text
    assert "repair a bicycle" in page.text
    (chart,) = page.charts_of("map")
    assert chart["ids"][-1] == "question"
    found = next(column for column in chart["columns"] if column["name"] == "found")
    assert sorted(found["values"]) == ["question", *["sample"] * 18, "shown", "shown"]
    wrong = run("search_vectors.py", tmp_path / "none.duckdb", "q", "--model", minilm, expect=2)
    assert "none.duckdb" in wrong.stderr
    assert one_line(wrong.stderr)


def test_pages_of_vectors_show_what_they_are(inspected: Path, minilm: str) -> None:
    vectors, codes = read_page(inspected / "vectors.html"), read_page(inspected / "codes.html")
    for page in (vectors, codes):
        for shown in (Path(minilm).name, "fingerprint", "Nearest texts", "20 texts"):
            assert shown in page.text
        (chart,) = page.charts_of("map")
        assert HOSTILE in chart["texts"]
    assert "1.0000 to" not in vectors.text
    assert "of 20 vectors, a sample" in vectors.text
    assert "int8" in codes.text


def test_docstrings_are_several_thousand_real_texts(inspected: Path) -> None:
    rows = [json.loads(line) for line in (inspected / "docstrings.jsonl").open(encoding="utf-8")]
    assert len(rows) > 3_000
    assert len({row["id"] for row in rows}) == len(rows)
    assert next(row for row in rows if row["id"] == "json.dumps")["text"].startswith(
        "Serialize ``obj`` to a JSON formatted"
    )
    page = read_page(inspected / "docstrings.html")
    for kind in ("module", "class", "function"):
        assert f"of {sum(row['kind'] == kind for row in rows):,}" in page.text


def test_messages_of_a_package_are_a_bitext_in_two_files(tmp_path: Path) -> None:
    pytest.importorskip("django", reason="its message catalogs are extracted")
    page, out = tmp_path / "page.html", tmp_path / "messages"
    printed = run("extract_messages.py", "django", "de", out, "--report", page).stdout
    files = [out / f"{name}.jsonl" for name in ("source", "target", "gold")]
    source, target, gold = (
        [json.loads(line) for line in file.open(encoding="utf-8")] for file in files
    )
    counts = f"{len(gold):,} translations among {len(source):,} and {len(target):,} messages"
    assert printed.startswith(counts)
    texts = [{row["id"]: row["text"] for row in rows} for rows in (source, target)]
    pairs = {(texts[0][row["source_id"]], texts[1][row["target_id"]]) for row in gold}
    assert ("Dieses Feld ist zwingend erforderlich.", "This field is required.") in pairs
    assert len(pairs) == len(gold)
    shown = read_page(page).text
    for text in ("Translated messages", f"of {len(source):,}", f"of {len(target):,}"):
        assert text in shown
    assert "no package 'jango'" in run("extract_messages.py", "jango", "de", out, expect=2).stderr


def test_a_folder_and_a_table_are_inspected(tmp_path: Path) -> None:
    block = embedded(0, 3, text=pa.array(["a", None, "c"]))
    write([block], WriteVectorsToParquet(str(tmp_path / "o")))
    write([block], WriteVectorsToDuckDB(str(tmp_path / "v.duckdb")))
    found = json.loads(run("inspect_vectors.py", tmp_path / "v.duckdb", "--json").stdout)
    assert (found["rows"], found["repeated_ids"], found["nulls"]) == (3, 0, {"text": 1})
    vectors = found["vectors"]["embedding"]
    assert (vectors["dim"], vectors["duplicates"]) == (3, 0)
    printed = run("inspect_vectors.py", tmp_path / "o").stdout
    assert "3 rows" in printed
    assert "text                 string, 1 nulls" in printed
    assert "norms  0.7071 to 4.0620" in printed  # of (2, 2.5, 2.5)
    assert "not of length 1  3, though the model normalizes" in printed
    wrong = run("inspect_vectors.py", tmp_path / "none.duckdb", expect=2)
    message = "there is no such file; name a DuckDB file or a folder of Parquet files"
    assert wrong.stderr.strip().endswith(message)


def test_errors_are_one_line_and_exit_code_2(
    tmp_path: Path, minilm: str, jsonl: Callable[[list[dict]], str]
) -> None:
    good = jsonl([{"id": 1, "text": "a"}])
    locked = tmp_path / "a file"
    locked.write_text("")
    arguments = {"--input": good, "--output": tmp_path / "out", "--model": minilm}
    for changed, message in [
        ({"--input": tmp_path / "missing.jsonl"}, "no file matches"),
        ({"--input": tmp_path / "*.csv"}, "no file matches"),
        ({"--text_column": "body"}, "no column 'body' in"),
        ({"--id_column": "key"}, "no column 'key' in"),
        ({"--model": "no/such-model"}, "model 'no/such-model': no such folder"),
        ({"--model": tmp_path / "nothing"}, "no such folder"),
        ({"--output": locked / "below"}, "cannot write to this folder"),
        ({"--prompt_name": "query"}, "prompt_name 'query': model"),
        ({"--duckdb": locked / "x.duckdb"}, "cannot write"),
    ]:
        pairs = {**arguments, **changed}
        done = run("embed_corpus.py", *(part for pair in pairs.items() for part in pair), expect=2)
        assert message in done.stderr, changed
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_killed_job_leaves_nothing_half_written_and_a_rerun_is_complete(
    tmp_path: Path, minilm: str, jsonl: Callable[[list[dict]], str]
) -> None:
    many = 400
    rows = jsonl([{"id": i, "text": f"text number {i} " * 10} for i in range(many)])
    out = tmp_path / "out"
    arguments = flags(input=rows, id_column="id", output=out, model=minilm)
    arguments += flags(duckdb=tmp_path / "v.duckdb")
    child = start("embed_corpus.py", *arguments, out=tmp_path / "out.txt", err=tmp_path / "err.txt")
    deadline = time.monotonic() + 120
    while child.is_alive() and time.monotonic() < deadline:
        if list(out.glob(".beam-gpte-tmp-*/*")):
            break
        time.sleep(0.05)
    assert child.is_alive(), "the job has to be killed while it writes"
    child.kill()
    child.join()
    assert not list(out.glob("*.parquet"))
    run("embed_corpus.py", *arguments)
    vectors = read_vectors(out)
    assert vectors.column("id").to_pylist() == list(range(many))
    assert not list(out.glob(".beam-gpte-tmp-*"))
    with duckdb.connect(str(tmp_path / "v.duckdb"), read_only=True) as connection:
        counts = connection.execute("SELECT count(*), count(DISTINCT id) FROM vectors").fetchone()
    assert counts == (many, many)


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "example", sorted((ROOT / "transforms").glob("*.py")), ids=lambda path: path.name
)
def test_every_example_of_the_catalog_runs(example: Path, minilm: str) -> None:
    runpy.run_path(str(example), run_name="__main__")


@pytest.mark.parametrize("example", batch_examples())
def test_an_example_has_no_class_that_workers_elsewhere_could_not_import(example: str) -> None:
    tree = ast.parse((ROOT / "transforms" / f"{example}.py").read_text("utf-8"))
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


@pytest.fixture(scope="module")
def deduplicated(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    """The folder `clean`, and `page.html`."""
    folder = tmp_path_factory.mktemp("deduplicated")
    texts = ["How do I open a file?", "how do I open a  file?", "How can I open a file?"]
    texts += ["Stock prices fell.", None, HOSTILE]
    rows = [{"id": f"r{i}", "text": text, "n": i} for i, text in enumerate(texts)]
    path = write_jsonl(folder / "rows.jsonl", rows)
    arguments = flags(input=path, id_column="id", model=minilm, report=folder / "page.html")
    done = run("deduplicate_corpus.py", *arguments, "--output", folder / "clean")
    assert "6 rows: 3 kept, 2 removed, 1 rejected" in done.stdout
    assert done.stdout.endswith(f"report in {folder / 'page.html'}\n")
    return folder


def test_a_corpus_loses_its_duplicates_and_a_later_one_those_of_the_first(
    deduplicated: Path, tmp_path: Path, minilm: str, jsonl: Callable[[list[dict]], str]
) -> None:
    clean = deduplicated / "clean"
    assert {row["id"] for row in read_vectors(clean / "kept").to_pylist()} == {"r0", "r3", "r5"}
    removed = {
        row["id"]: (row["duplicate_of"], row["found_by"])
        for row in read_vectors(clean / "removed").to_pylist()
    }
    assert removed == {"r1": ("r0", "exact"), "r2": ("r0", "semantic")}
    assert sum(pq.read_table(path).num_rows for path in (clean / "pairs").glob("*.parquet")) == 2
    assert [row["reject_reason"] for row in read_rejects(clean)] == ["text is null"]
    summary = json.loads((clean / "summary.json").read_text())
    counts = [summary[name] for name in ("rows", "kept", "removed", "rejected")]
    assert counts == [6, 3, 2, 1]
    assert [step["step"] for step in summary["steps"]] == ["exact", "lexical", "semantic"]

    later = [{"id": "s0", "text": "Share prices fell."}, {"id": "s1", "text": "Bake bread."}]
    newer = tmp_path / "newer"
    arguments = flags(input=jsonl(later), id_column="id", model=minilm, output=newer)
    run("deduplicate_corpus.py", *arguments, *flags(reference=clean, threshold=0.8))
    assert read_vectors(newer / "kept").column("id").to_pylist() == ["s1"]
    assert read_vectors(newer / "removed").select(["id", "duplicate_of"]).to_pylist() == [
        {"id": "s0", "duplicate_of": "r3"}
    ]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--by", "exact,fuzzy"], "--by has 'fuzzy'"),
        (["--by", "semantic"], "no column 'embedding'"),
        (["--keep", "best"], "keep is 'best'"),
        (["--by", "exact", "--text_column", "body"], "'body'"),
    ],
)
def test_errors_in_deduplicating_are_one_line(
    tmp_path: Path, jsonl: Callable[[list[dict]], str], mistake: list[str], message: str
) -> None:
    rows = jsonl([{"id": 1, "text": "a"}])
    arguments = flags(input=rows, id_column="id", output=tmp_path / "o")
    done = run("deduplicate_corpus.py", *arguments, *mistake, expect=2)
    assert message in done.stderr
    assert one_line(done.stderr)


@pytest.mark.parametrize("by", ["exact", "lexical", "exact,lexical"])
def test_a_corpus_is_deduplicated_without_a_model_and_keeps_its_own_columns(
    tmp_path: Path, jsonl: Callable[[list[dict]], str], by: str
) -> None:
    texts = ("a b c d e f", "A b  c d e f")
    rows = jsonl([{"id": i, "text": text, "score": i} for i, text in enumerate(texts)])
    arguments = flags(input=rows, id_column="id", output=tmp_path / "o", by=by)
    refused = run("deduplicate_corpus.py", *arguments, expect=2)
    assert "has a column 'score'; name the added one by --rename score=NAME" in refused.stderr
    run("deduplicate_corpus.py", *arguments, "--rename", "score=similarity")
    (path,) = (tmp_path / "o/removed").glob("*.parquet")
    (removed,) = pq.read_table(path).to_pylist()
    assert (removed["id"], removed["score"], removed["similarity"]) == (1, 1, 1.0)


def bitext_sides(folder: Path) -> tuple[Path, Path]:
    """Write Parquet files of 60 sentences per side, 40 of them translations in another order.

    Texts and ids have quotes, tabs, line breaks and right-to-left letters.
    """
    random = np.random.default_rng(0)
    meaning = random.normal(size=(40, 32))
    paths = []
    for number, side in enumerate(("source", "target")):
        vectors = np.concatenate(
            [meaning + 0.1 * random.normal(size=meaning.shape), random.normal(size=(20, 32))]
        )
        texts = [f'{side} "{i}",\ta line\nand another, مرحبا e\u0301' for i in range(60)]
        order = random.permutation(60)
        embedding = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors[order].astype(np.float32).reshape(-1)), 32
        )
        ids = [f'{side},"{i}"\t{i:02}' for i in order]
        columns = {"id": ids, "text": [texts[i] for i in order], "n": order, "embedding": embedding}
        paths.append(folder / f"{side}.parquet")
        pq.write_table(pa.table(columns), paths[number])
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `mined`, `gold.jsonl`, of which two pairs are not found, and `page.html`."""
    folder = tmp_path_factory.mktemp("mined")
    source, target = bitext_sides(folder)
    ids = [(f'source,"{i}"\t{i:02}', f'target,"{i}"\t{i:02}') for i in range(40)]
    ids += [(ids[0][0], ids[1][1]), ('source,"50"\t50', "absent")]
    pairs = [dict(zip(("source_id", "target_id"), pair, strict=True)) for pair in ids]
    gold = write_jsonl(folder / "gold.jsonl", pairs)
    arguments = flags(source=source, target=target, id_column="id", gold=gold)
    arguments += flags(output=folder / "mined", report=folder / "page.html")
    more = shlex.split("--tsv --tmx ar en --moses ar en")
    done = run("mine_bitext.py", *arguments, *more)
    assert "precision 100.0%, recall 95.2%" in done.stdout
    assert "warning" not in done.stdout
    assert done.stdout.endswith(f"report in {folder / 'page.html'}\n")
    return folder


def test_a_bitext_is_mined_and_compared_with_gold(mined: Path) -> None:
    pairs = [json.loads(line) for line in (mined / "gold.jsonl").open(encoding="utf-8")]
    found = pa.concat_tables(
        [pq.read_table(path) for path in (mined / "mined" / "bitext").glob("*.parquet")]
    )
    assert not [name for name in found.column_names if "embedding" in name]
    assert {(row["source_id"], row["target_id"]) for row in found.to_pylist()} == {
        tuple(pair.values()) for pair in pairs[:40]
    }
    assert found.column("source_n").to_pylist() == found.column("target_n").to_pylist()
    metadata = json.loads(found.schema.field("margin").metadata[b"beam_gpte.bitext"])
    assert metadata["retrieval"] == "intersection"
    lines = (mined / "mined" / "bitext.tsv").read_text(encoding="utf-8").splitlines()
    margins, sources, targets = zip(*(line.split("\t") for line in lines), strict=True)
    assert len(lines) == 40
    assert [*map(float, margins)] == sorted(map(float, margins), reverse=True)
    assert all(text.startswith('source "') for text in sources)
    assert all("a line and another, مرحبا" in text for text in sources)
    assert all(text.startswith('target "') for text in targets)
    summary = json.loads((mined / "mined" / "summary.json").read_text())
    counts = [summary[name] for name in ("source_rows", "pairs", "rejected", "f1")]
    assert counts == [60, 40, 0, 0.9756]


def test_mined_pairs_are_written_for_tools_of_translators(mined: Path) -> None:
    units = ElementTree.parse(mined / "mined" / "bitext.tmx").findall("body/tu")
    ids = [unit.findtext("prop[@type='x-source_id']") for unit in units]
    assert ids == sorted(f'source,"{i}"\t{i:02}' for i in range(40))
    names = ("bitext.ar", "bitext.en", "bitext.ids.jsonl")
    lines = [(mined / "mined" / name).read_text("utf-8").splitlines() for name in names]
    assert [json.loads(line)["source_id"] for line in lines[2]] == ids
    assert lines[0][0] == 'source "0",\ta line and another, مرحبا e\u0301'
    assert len(lines[1]) == 40


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--threshold", "high"], "--threshold is 'high'"),
        (["--margin", "cosine"], "margin is 'cosine'"),
        (["--scope", "doc"], "no column 'doc'"),
        (["--source_lang", "german"], "keep has german; use ISO 639 codes"),
        (["--prompt_name", "query"], "--prompt_name is for --model"),
        (["--split_sentences"], "--split_sentences depends on the language; give --source_lang"),
        (["--embedding_column", "vector"], "no column 'vector' in"),
        (["--tmx", "de", "de"], "source_language and target_language are both 'de'"),
        (["--moses", "de", "e"], "target_language is 'e'; use a code such as"),
    ],
)
def test_errors_in_mining_are_one_line(tmp_path: Path, mistake: list[str], message: str) -> None:
    source, target = bitext_sides(tmp_path)
    arguments = flags(source=source, target=target, id_column="id", output=tmp_path / "o")
    done = run("mine_bitext.py", *arguments, *mistake, expect=2)
    assert message in done.stderr
    assert one_line(done.stderr)


def test_pages_show_the_figures_of_the_summaries(
    embedded_twice: Path, deduplicated: Path, mined: Path
) -> None:
    embed, dedup, mine = (
        read_page(folder / "page.html") for folder in (embedded_twice, deduplicated, mined)
    )
    for shown in ("text is null", "Nearest texts", "Positions by t-SNE", "quantize"):
        assert shown in embed.text
    (chart,) = embed.charts_of("map")
    assert HOSTILE in chart["texts"]
    (tokens,) = [chart for chart in embed.charts_of("bars") if chart["label"] == "tokens"]
    assert sum(tokens["counts"]) == 20
    summary = json.loads((deduplicated / "clean" / "summary.json").read_text())
    for step in summary["steps"]:
        counts = f"{step['rows']:,} rows, {step['kept']:,} kept, {step['removed']:,} removed"
        assert f"Step {step['step']}" in dedup.text
        assert f"{counts} ({step['ratio']:.1%})." in dedup.text
    assert "lexical_threshold" in dedup.text
    assert "padding percent" in dedup.text
    (chart,) = dedup.charts_of("map")
    state = next(column for column in chart["columns"] if column["name"] == "kept or removed")
    assert dict(zip(chart["ids"], state["values"], strict=True)) == {
        "r0": "kept",
        "r2": "removed",
        "r3": "kept",
        "r5": "kept",
    }
    for table in ("Groups and pairs", "Removed rows"):
        assert [1 for tag, one in dedup.found if one.get("data-search") == table]
    assert dedup.count("del")
    assert dedup.count("ins")
    summary = json.loads((mined / "mined" / "summary.json").read_text())
    assert f"{summary['pairs']} pairs, a line from source to target" in mine.text
    assert "no_centering" in mine.text
    (chart,) = mine.charts_of("map")
    assert chart["joined"]
    assert len(chart["x"]) == 2 * summary["pairs"] == 80
    margins = mine.charts_of("bars")[0]
    place, *_ = margins["mark"]
    assert sum(margins["counts"][round(place) :]) == summary["pairs"]
    assert sum(margins["counts"]) == summary["chosen"] > summary["pairs"]


def test_gold_pairs_that_were_not_found_are_on_the_page(mined: Path) -> None:
    text = read_page(mined / "page.html").text
    assert "2 gold pairs that are not among the pairs" in text
    assert 'source is in a pair with target,"0"' in text
    assert "no target of this id" in text


def test_a_page_begins_with_what_ran(embedded_twice: Path, mined: Path, inspected: Path) -> None:
    today = datetime.datetime.now(datetime.UTC)
    near = {f"{today - datetime.timedelta(days=days):%Y-%m-%d}" for days in (0, 1)}
    pages = [embedded_twice / "page.html", mined / "page.html", *sorted(inspected.glob("*.html"))]
    for path in pages:
        page = read_page(path)
        top = page.text.partition("Throughput")[0]
        assert any(f"date{day}" in top for day in near), path
        assert re.search(r"command\w+\.py ", top), path
        if path.name != "docstrings.html":
            assert re.search(r"dimension(32|384)\n", top), path
    assert "TOPSECRET" not in read_page(embedded_twice / "page.html").text
    assert "--s3_secret_access_key (not shown)" in read_page(embedded_twice / "page.html").text


@pytest.fixture(scope="module")
def pages(embedded_twice: Path, deduplicated: Path, mined: Path, inspected: Path) -> list[Path]:
    runs = [folder / "page.html" for folder in (embedded_twice, deduplicated, mined)]
    return [*runs, *sorted(inspected.glob("*.html"))]


def test_no_text_becomes_markup_and_no_hidden_file_remains_in_the_output(
    pages: list[Path], embedded_twice: Path, deduplicated: Path, mined: Path
) -> None:
    for path in pages:
        page = read_page(path)
        assert not sum(page.count(tag) for tag in ("img", "link", "iframe", "object", "svg"))
        assert page.count("script") == len(page.scripts) == 4
        run = [script for script in page.scripts if not script.startswith("[")]
        assert re.findall(r"'sha256-\S+'", page.policy) == [hash_of(script) for script in run]
        assert len(path.read_bytes()) < 2_500_000
        assert not [
            attributes
            for _, attributes in page.found
            if {"src", "href", "srcset", "style"} & set(attributes)
        ]
        assert "@import" not in page.text
        assert "url(" not in page.text
    for folder, output in ((embedded_twice, "b"), (deduplicated, "clean"), (mined, "mined")):
        assert not [path for path in (folder / output).iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_browser_shows_every_page_without_errors(pages: list[Path], tmp_path: Path) -> None:
    assert len(pages) == 7
    for path in pages:
        written, (seen, console) = read_page(path), open_page(path, tmp_path / "profile")
        assert console == []
        for tag in ("section", "figure", "td", "script"):
            assert seen.count(tag) == written.count(tag) > 0, (path, tag)
        # what the script has made: a map's controls, tables' filters
        maps = len(written.charts_of("map"))
        tables = [1 for _, one in written.found if one.get("data-search")]
        assert seen.count("input") == maps + len(tables)
        assert seen.count("select") == 2 * maps
    wrong = tmp_path / "wrong.html"  # the same check finds a page that requests something
    image = '<img src="http://127.0.0.1:9/x.png"></main>'
    text = pages[2].read_text(encoding="utf-8").replace("</main>", image)
    wrong.write_text(text, encoding="utf-8")
    _, console = open_page(wrong, tmp_path / "profile")
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_map_is_searched_colored_and_zoomed(embedded_twice: Path, tmp_path: Path) -> None:
    steps = """
      const [canvas] = canvases().filter((one) => one.width > 400);
      const [layer] = withClass("bk-events");
      const picture = () => canvas.toDataURL();
      const before = picture();
      const tips = new Set();
      for (const [x, y] of dots(canvas)) {
        move(layer, x, y);
        await wait(20);
        withClass("tip").forEach((one) => tips.add(one.textContent));
      }
      seen.tips = [...tips];
      seen.markup = everything().filter((one) => one.matches("img, iframe, object")).length;
      type(document.querySelector(".controls input"), "BICYCLE");
      await wait(300);
      seen.found = document.querySelector(".controls + p").textContent;
      seen.listed = [...document.querySelectorAll(".side > ul li")].map((one) => one.textContent);
      seen.highlighted = picture() !== before;
      document.querySelector(".side > ul li button").click();
      await wait(300);
      seen.point = document.querySelector(".point").textContent;
      const [closer, farther, reset] = document.querySelectorAll(".controls button");
      reset.click();
      await wait(300);
      seen.reset = picture() === before;
      closer.click();
      await wait(300);
      seen.closer = picture() !== before;
      const [color, zoom] = document.querySelectorAll(".controls select");
      const named = (select, name) => [...select.options].find((one) => one.label === name).value;
      reset.click();
      choose(color, named(color, "characters"));
      await wait(300);
      seen.recolored = picture() !== before;
      choose(color, named(color, "kind"));
      await wait(300);
      const colored = picture();
      seen.legend = [...document.querySelectorAll(".side li")].map((one) => one.textContent);
      choose(zoom, named(zoom, "odd (9)"));
      await wait(300);
      seen.zoomed = picture() !== colored;
      seen.said = document.querySelector(".controls + p").textContent;
    """
    seen, console = use_page(embedded_twice / "page.html", steps, tmp_path)
    assert console == []
    assert len(seen["tips"]) == 20
    assert "18repair a bicycle" in seen["tips"]
    assert f"19{HOSTILE}" in seen["tips"]
    assert seen["markup"] == 0
    assert seen["found"] == "1 of 20 match"
    assert seen["listed"] == ["18 repair a bicycle"]
    assert seen["point"].startswith("18repair a bicycle")
    assert "kind even" in seen["point"]
    assert seen["legend"] == ["even11", "odd9"]
    assert seen["said"] == "9 of 20 have kind odd"
    for done in ("highlighted", "reset", "closer", "recolored", "zoomed"):
        assert seen[done], done


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_texts_stand_out_from_their_ground(
    pages: list[Path], tmp_path: Path, scheme: str
) -> None:
    for path in pages:
        seen, _ = use_page(path, CONTRASTS, tmp_path, *SCHEMES[scheme])
        assert seen["dark"] == (scheme == "dark")
        assert seen["texts"] > 20
        assert seen["faint"] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_colors_of_numbers_stand_out_from_the_map(
    embedded_twice: Path, tmp_path: Path, scheme: str
) -> None:
    steps = """
      const [color] = document.querySelectorAll(".controls select");
      choose(color, [...color.options].find((one) => one.label === "characters").value);
      const ramp = document.querySelector(".ramp");
      const stops = getComputedStyle(ramp).backgroundImage.match(/rgba?\\([^)]*\\)/g);
      const below = ground(ramp.parentElement);
      seen.contrasts = stops.map((one) => contrast(numbers(one).slice(0, 3), below));
    """
    seen, _ = use_page(embedded_twice / "page.html", CONTRASTS + steps, tmp_path, *SCHEMES[scheme])
    assert len(seen["contrasts"]) == 5
    assert min(seen["contrasts"]) > 2.5


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_table_of_pairs_is_filtered_and_sorted(mined: Path, tmp_path: Path) -> None:
    steps = """
      const table = document.querySelector('table[data-search="Pairs"]');
      const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
      seen.rows = shown().length;
      const [margin] = table.tHead.rows[0].cells;
      margin.querySelector("button").click();
      seen.ascending = shown().map((row) => Number(row.cells[0].textContent));
      margin.querySelector("button").click();
      seen.descending = shown().map((row) => Number(row.cells[0].textContent));
      seen.sort = margin.getAttribute("aria-sort");
      const box = table.parentElement.previousElementSibling.previousElementSibling;
      type(box.querySelector("input"), 'source,"7" LINE');
      seen.filtered = shown().map((row) => row.cells[1].textContent);
      seen.said = box.nextElementSibling.textContent;
    """
    seen, console = use_page(mined / "page.html", steps, tmp_path)
    assert console == []
    assert seen["rows"] == 40
    assert seen["ascending"] == sorted(seen["ascending"])
    assert seen["descending"] == seen["ascending"][::-1]
    assert seen["sort"] == "descending"
    assert seen["filtered"] == ['source,"7"\t07']
    assert seen["said"] == "1 of 40 rows"
