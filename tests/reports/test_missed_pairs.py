"""Gold pairs that were not found are listed with their texts, and why."""

import json
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import polars as pl
import pytest

from beam_gpte import Columns, InputError
from beam_gpte.elements.block import Block
from beam_gpte.reports.missed_pairs import WriteGoldRows, missed_pairs, read_gold
from beam_gpte.reports.sample import take_sample

SUMMARY = {"max_length_ratio": 2.0, "length_ratio_median": 1.0}


def gold_of(pairs: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        pairs, schema={"source_id": pl.String, "target_id": pl.String}, orient="row"
    )


def rows_of(texts: dict[str, str]) -> pl.DataFrame:
    sides = ["source" if id_.startswith("s") else "target" for id_ in texts]
    return pl.DataFrame({"side": sides, "id": [*texts], "text": [*texts.values()]})


PAIRS = pl.DataFrame(
    {
        "source_id": ["s1", "s2", "s8"],
        "target_id": ["t1", "t3", "t8"],
        "margin": [0.5, 0.25, 0.4],
        "source_duplicates": [None, None, ["s9"]],
    }
)


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (("s2", "t2"), "source is in a pair with t3 (margin 0.2500)"),
        (("s3", "t3"), "target is in a pair with s2 (margin 0.2500)"),
        (("s9", "t8"), "found as s8 and t8, which have the same texts"),
        (("s4", "t4"), "no target of this id"),
        (("s5", "t5"), "length ratio 3.00, beyond the limit of 2, or a margin too small"),
        (
            ("s6", "t6"),
            "in no pair: not each other's best, or a margin below the minimum",
        ),
    ],
)
def test_why_a_gold_pair_is_missing(pair: tuple[str, str], why: str) -> None:
    texts = {"s2": "a", "t2": "b", "s3": "c", "t3": "d", "s9": "e", "t8": "f", "s4": "g"}
    texts |= {"s5": "abc", "t5": "abcabcabc", "s6": "x", "t6": "y"}
    (missed,) = missed_pairs(gold_of([("s1", "t1"), pair]), PAIRS, rows_of(texts), SUMMARY)
    assert (missed.source_id, missed.target_id) == pair
    assert missed.source_text == texts.get(pair[0])
    assert missed.target_text == texts.get(pair[1])
    assert missed.why == why


def test_the_rows_of_gold_pairs_are_written_with_their_sides(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    path = tmp_path / "gold.jsonl"
    pairs = [{"source_id": 1, "target_id": 7}, {"source_id": 2, "target_id": 9}]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    gold = read_gold(str(path))
    with new_pipeline() as pipeline:
        sides = {
            name: pipeline
            | name
            >> beam.Create([Block.from_pydict({"key": ids, "body": [f"{name} {i}" for i in ids]})])
            for name, ids in (("source", [1, 2, 3]), ("target", [7, 8]))
        }
        sides | WriteGoldRows(str(tmp_path / "rows"), gold, Columns("key", "body"))
    rows = take_sample(str(tmp_path / "rows"))
    assert set(rows.select("side", "id", "text").rows()) == {
        ("source", "1", "source 1"),
        ("source", "2", "source 2"),
        ("target", "7", "target 7"),
    }
    found = PAIRS.clear().with_columns(pl.col("source_id", "target_id").cast(pl.Int64))
    missed = missed_pairs(gold, found, rows, SUMMARY)
    assert [(one.source_id, one.target_text) for one in missed] == [("1", "target 7"), ("2", None)]


@pytest.mark.parametrize("content", ["nonsense", '{"source_id": 1}', "[1]"])
def test_a_file_that_is_not_gold_is_refused_before_the_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "gold.jsonl").write_text(content)
    with pytest.raises(InputError, match="not JSON Lines of source_id and target_id"):
        read_gold(str(tmp_path / "gold.jsonl"))
    with pytest.raises(InputError, match="none.jsonl"):
        read_gold(str(tmp_path / "none.jsonl"))
