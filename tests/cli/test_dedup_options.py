"""Options of `beam-gpte dedup`: what they write and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte.core.vectors.similarity import vectors_to_arrow
from tests.cli.test_programs import flags
from tests.programs import run

PROGRAM = "deduplicate_corpus.py"
Rows = Callable[[list[dict]], str]


def read(folder: Path) -> list[dict]:
    rows = [row for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


def test_all_rows_are_written_with_their_clusters_if_asked_for(tmp_path: Path, jsonl: Rows) -> None:
    texts = ("a b c d e f", "A b  c d e f", "nothing like it", None)
    rows = jsonl([{"id": i, "text": text, "cluster_size": i} for i, text in enumerate(texts)])
    arguments = [
        *flags(input=rows, id_column="id", output=tmp_path / "o", by="exact"),
        "--annotate",
    ]
    refused = run(PROGRAM, *arguments, expect=2)
    assert "name the added one by --rename cluster_size=NAME" in refused.stderr
    run(PROGRAM, *arguments, "--rename", "cluster_size=size")
    names = ("id", "cluster_size", "cluster_id", "size", "is_representative")
    assert [tuple(row[name] for name in names) for row in read(tmp_path / "o/annotated")] == [
        (0, 0, 0, 2, True),
        (1, 1, 0, 2, False),
        (2, 2, 2, 1, True),
    ]
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert (summary["kept"], summary["removed"], summary["rejected"]) == (2, 1, 1)


def test_excerpts_go_by_containment_and_the_longer_text_stays(tmp_path: Path, jsonl: Rows) -> None:
    texts = ("brown fox jumps over", "the quick brown fox jumps over the lazy dog", "none like it")
    rows = jsonl([{"id": i, "text": text} for i, text in enumerate(texts)])
    arguments = flags(input=rows, id_column="id", output=tmp_path / "o", by="exact,lexical")
    run(PROGRAM, *arguments, *flags(lexical_similarity="containment", lexical_threshold=0.9))
    removed = [(row["id"], row["duplicate_of"]) for row in read(tmp_path / "o/removed")]
    assert removed == [(0, 1)]
    steps = json.loads((tmp_path / "o/summary.json").read_text())["steps"]
    assert [step["keep"] for step in steps] == ["first", "longest"]
    refused = run(PROGRAM, *arguments, "--lexical_similarity", "cosine", expect=2)
    assert "invalid choice: 'cosine'" in refused.stderr


def test_the_cosine_is_chosen_by_how_many_rows_stay(tmp_path: Path) -> None:
    """By hand: 0, 10, 25 and 50 degrees; two rows stay where 10 and 15 degrees are near."""
    degrees = np.radians([0, 10, 25, 50])
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    table = pa.table({"id": range(4), "text": list("abcd"), "embedding": vectors_to_arrow(vectors)})
    pq.write_table(table, tmp_path / "rows.parquet")
    arguments = flags(input=tmp_path / "rows.parquet", id_column="id", output=tmp_path / "o")
    run(PROGRAM, *arguments, *flags(by="semantic", threshold=0.85, target_size=3))
    (step,) = json.loads((tmp_path / "o/summary.json").read_text())["steps"]
    assert (step["kept"], step["threshold"], step["min_threshold"]) == (3, 0.98, 0.85)
    refused = run(PROGRAM, *arguments, *flags(by="exact", target_size=3), expect=2)
    assert "--target_size is of the semantic step, which --by leaves out" in refused.stderr


MENU = "Home | About | Contact us"


def test_repeated_lines_are_cut_before_the_steps_and_nothing_is_lost(
    tmp_path: Path, jsonl: Rows
) -> None:
    """Two texts are equal once their different menus are cut; of a third nothing is left."""
    texts = (f"{MENU}\nit lasts", f"it lasts\n{MENU.upper()}", MENU, "none like it", None)
    rows = jsonl([{"id": i, "text": text} for i, text in enumerate(texts)])
    arguments = flags(input=rows, output=tmp_path / "o", by="exact", spans="lines")
    done = run(PROGRAM, *arguments, *flags(spans_keep="none", spans_max_documents=2))
    assert "5 rows: 2 kept, 1 removed, 1 emptied, 1 rejected" in done.stdout
    kept = [(row["id"], row["text"]) for row in read(tmp_path / "o/kept")]
    assert kept == [(0, "it lasts"), (3, "none like it")]
    assert [row["duplicate_of"] for row in read(tmp_path / "o/removed")] == [0]
    assert [(row["id"], row["text"]) for row in read(tmp_path / "o/emptied")] == [(2, MENU)]
    assert [row["cut_text"] for row in read(tmp_path / "o/cut")] == [MENU, MENU.upper(), MENU]
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert (summary["rows"], summary["emptied"], summary["rejected"]) == (5, 1, 1)


def test_spans_are_refused_where_they_would_do_harm_or_nothing(tmp_path: Path, jsonl: Rows) -> None:
    rows = jsonl([{"id": 1, "text": "a", "embedding": [1.0, 0.0]}])
    arguments = flags(input=rows, output=tmp_path / "o", by="exact")
    refused = run(PROGRAM, *arguments, "--spans", "lines", expect=2)
    assert "has vectors, of texts that --spans would change" in refused.stderr
    refused = run(PROGRAM, *arguments, "--spans_keep", "none", expect=2)
    assert "--spans_keep is of --spans; name the unit, such as --spans lines" in refused.stderr


def test_a_later_run_needs_the_signatures_of_earlier_ones_alone(
    tmp_path: Path, jsonl: Rows
) -> None:
    """The second run finds a text of the first, by the same id; the third those of both."""
    old = "the quick brown fox jumps over the lazy dog, twice a day"
    new = "pack my box with five dozen liquor jugs, and send it home"
    outputs = [tmp_path / name for name in ("first", "second", "third")]
    lexical = flags(by="lexical", lexical_threshold=0.7)
    rows = jsonl([{"id": "a", "text": old}, {"id": "b", "text": f"{old}!"}])
    run(PROGRAM, *flags(input=rows, output=outputs[0]), *lexical, "--signatures")
    assert [row["id"] for row in read(outputs[0] / "signatures")] == ["a"]
    rows = jsonl([{"id": "n", "text": new}, {"id": "a", "text": f"{old}."}])
    arguments = [*flags(input=rows, output=outputs[1]), *lexical, "--signatures"]
    run(PROGRAM, *arguments, "--history", outputs[0])
    assert [row["text"] for row in read(outputs[1] / "kept")] == [new]
    assert [(row["id"], row["duplicate_of"]) for row in read(outputs[1] / "removed")] == [
        ("a", "a")
    ]
    rows = jsonl(
        [{"id": str(i), "text": text} for i, text in enumerate((f"{old}?", f"{new}?", "else"))]
    )
    history = [outputs[0], outputs[1] / "signatures"]
    run(PROGRAM, *flags(input=rows, output=outputs[2]), *lexical, "--history", *history)
    assert [row["text"] for row in read(outputs[2] / "kept")] == ["else"]
    (step,) = json.loads((outputs[2] / "summary.json").read_text())["steps"]
    assert step["standard_error"] == pytest.approx(0.0405, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "exact,lexical"}, "--history with --by exact,lexical; signatures are compared by"),
        ({"lexical_similarity": "containment"}, "--history by containment; signatures estimate"),
        ({"reference": "o"}, "--history with --reference; leave one out"),
        ({}, "--history: no file matches"),
    ],
)
def test_signatures_are_refused_where_they_cannot_be_used(
    tmp_path: Path, jsonl: Rows, arguments: dict, message: str
) -> None:
    rows = jsonl([{"id": 1, "text": "a"}])
    settings = {"input": rows, "output": tmp_path / "o", "by": "lexical", **arguments}
    refused = run(PROGRAM, *flags(**settings, history=tmp_path / "none"), expect=2)
    assert message in refused.stderr
