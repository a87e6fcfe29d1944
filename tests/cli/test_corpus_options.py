"""`--types` and `--rename`: the same in every program, refused before the run if they are wrong."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import ChunkText, DeduplicateStream, InputError
from beam_gpte.cli.corpus_options import check_added, check_renames, renamed, types_of
from tests.programs import ROOT, run

SENTENCE = "Das ist ein ganzer Satz über {}."


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.csv"
    lines = [f"{i},{SENTENCE.format(i)},{10 * i},x,1.5,y\n" for i in range(3)]
    head = "id,text,stars,embedding,score,language\n"
    path.write_text(head + "".join(lines), encoding="utf-8")
    return path


def arguments(program: str, corpus: Path, model: str) -> list[Any]:
    output = ["--output", corpus.parent / "out", "--id_column", "id"]
    if program == "mine_bitext.py":
        sides = ["--source", corpus, "--target", corpus, "--source_lang", "de"]
        return [*sides, *output, "--model", model]
    by = ["--by", "exact"] if program == "deduplicate_corpus.py" else []
    return ["--input", corpus, *output, *by, *([] if by else ["--model", model])]


TAKEN = {
    "deduplicate_corpus.py": "score",
    "embed_corpus.py": "embedding",
    "mine_bitext.py": "language",
}


@pytest.mark.parametrize("program", TAKEN)
def test_a_program_refuses_before_the_run_what_the_flags_say_wrongly(
    program: str, corpus: Path, minilm: str
) -> None:
    given, ours = arguments(program, corpus, minilm), TAKEN[program]
    wrong = [
        ((), f"has a column '{ours}'; name the added one by --rename {ours}=NAME"),
        (("--rename", f"{ours}=stars"), "has a column 'stars'; name the added one by"),
        (("--rename", "nothing=x"), "--rename has 'nothing'; this run adds "),
        (("--rename", ours), f"--rename has '{ours}'; use OURS=NAME, such as score=similarity"),
        (("--types", "stars"), "--types has 'stars'; use COLUMN:TYPE, such as stars:int64"),
        (("--types", "stars:number"), "--types: 'stars:number': no type 'number'; use int64, "),
        (("--types", "moons:int64"), "--types has 'moons', but no such column is in "),
    ]
    for more, said in wrong:
        done = run(program, *given, *more, expect=2)
        assert said in done.stderr.replace("\n", " ")
        assert done.stderr.count("\n") == 1
        assert not list(corpus.parent.glob("out/**/*.parquet"))


def test_vectors_go_into_a_column_of_another_name_and_values_get_their_type(
    corpus: Path, minilm: str
) -> None:
    flags = "--types", "stars:int64", "--rename", "embedding=vector", "--quantize", "float16"
    run("embed_corpus.py", *arguments("embed_corpus.py", corpus, minilm), *flags)
    files = (corpus.parent / "out").glob("*.parquet")
    rows = pa.concat_tables(pq.read_table(path) for path in files)
    assert rows["embedding"].to_pylist() == ["x"] * 3
    assert rows.schema.field("vector").type == pa.list_(pa.float16(), 384)
    assert sorted(rows["stars"].to_pylist()) == [0, 10, 20]


def test_rows_are_kept_in_the_order_of_numbers(corpus: Path) -> None:
    text = corpus.read_text(encoding="utf-8") + f"3,{SENTENCE.format(0)},9,x,1.5,y\n"
    corpus.write_text(text.replace(",0,x", ",10,x"), encoding="utf-8")
    flags = "--types", "stars:int64", "--rename", "score=similarity", "--keep", "stars desc"
    run("deduplicate_corpus.py", *arguments("deduplicate_corpus.py", corpus, ""), *flags)
    (path,) = (corpus.parent / "out/removed").glob("*.parquet")
    (row,) = pq.read_table(path).to_pylist()
    assert (row["id"], row["duplicate_of"], row["stars"]) == ("3", "0", 9)
    assert (row["score"], row["similarity"]) == ("1.5", 1.0)


def test_each_transform_gets_the_names_that_are_for_it() -> None:
    chunk, stream = ChunkText("sentences", 40), DeduplicateStream()
    entries = ["score=s", "parent_id=of", "chunk_index=at"]
    check_renames([chunk, stream], entries)
    assert renamed(chunk, entries).rename == {"parent_id": "of", "chunk_index": "at"}
    assert renamed(stream, entries).rename == {"score": "s"}
    assert renamed(stream, []) is stream
    with pytest.raises(InputError, match="this run adds a column 's' twice; name the added one"):
        check_added([chunk, stream], ["score=s", "parent_id=s"], "f.csv", ["id"])
    with pytest.raises(InputError, match="--rename: rename gives two columns the name 's'"):
        renamed(stream, ["score=s", "duplicate_of=s"])
    assert types_of([]) is None
    assert types_of(["a:int8", "b:string"]) == {"a": pa.int8(), "b": pa.string()}


def test_flags_are_spelled_with_underscores() -> None:
    modules = (ROOT / "beam_gpte" / "cli").rglob("*.py")
    flags = [flag for path in modules for flag in re.findall(r'"(--\w[\w-]*)"', path.read_text())]
    assert "--max_row_bytes" in flags
    assert [flag for flag in flags if "-" in flag[2:]] == []
