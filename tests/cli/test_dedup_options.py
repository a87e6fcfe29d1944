"""Options of `beam-gpte dedup`: what they write and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
