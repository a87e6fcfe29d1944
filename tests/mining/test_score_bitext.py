"""Given pairs get the numbers that mining gives, recomputed here."""

from collections.abc import Callable
from tempfile import TemporaryDirectory

import apache_beam as beam
import numpy as np
import pytest

from beam_gpte import Block, Comparison, InputError, ScoreBitext
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from tests.examples import keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]

ROWS, DIM, K = 150, 24, 4


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(
        np.float32
    )


def sides() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    meaning, languages = random.normal(size=(ROWS, DIM)), random.normal(size=(2, DIM))
    return unit(meaning + languages[0]), unit(
        meaning + 0.4 * random.normal(size=meaning.shape) + languages[1]
    )


def rows(
    name: str, vectors: np.ndarray, more: list[tuple[str, int]], shards: int = 3
) -> list[Block]:
    """Sentences, and `more` duplicates of some, by their id and row; shuffled."""
    ids = [f"{name}{i:03}" for i in range(len(vectors))] + [id_ for id_, _ in more]
    at = [*range(len(vectors)), *(i for _, i in more)]
    order = np.random.default_rng(1).permutation(len(ids))
    return [
        Block.from_pydict(
            {
                "id": [ids[i] for i in part],
                "text": [f"{name} text {at[i]}" for i in part],
                "url": [f"{name}/{ids[i]}" for i in part],
                "embedding": vectors_to_arrow(vectors[[at[i] for i in part]]),
            }
        )
        for part in np.array_split(order, shards)
    ]


class Oracle:
    """Means, ranks and distance margins of centered vectors, in float64."""

    def __init__(self, source: np.ndarray, target: np.ndarray) -> None:
        moved = [side - side.mean(0, dtype=np.float64) for side in (source, target)]
        source, target = (side / np.linalg.norm(side, axis=1)[:, None] for side in moved)
        self.cosine = source @ target.T
        self.forward, self.backward = (
            np.sort(matrix, axis=1)[:, -K:].mean(1) for matrix in (self.cosine, self.cosine.T)
        )

    def check(self, row: dict, i: int, j: int) -> None:
        cosine, means = self.cosine[i, j], (self.forward[i], self.backward[j])
        scores = [row[name] for name in ("cosine", "forward_mean", "backward_mean", "margin")]
        assert scores == pytest.approx([cosine, *means, cosine - sum(means) / 2], abs=2e-6)
        ranks = [
            1 + int((self.cosine[i] > cosine).sum()),
            1 + int((self.cosine[:, j] > cosine).sum()),
        ]
        assert [row["forward_rank"], row["backward_rank"]] == [
            rank if rank <= K else None for rank in ranks
        ]


def scored(
    new_pipeline: NewPipeline, mode: str, given: dict[str, list] | list, transform: ScoreBitext
) -> tuple[list, dict, list]:
    with TemporaryDirectory() as folder:
        with new_pipeline(mode) as p:
            if isinstance(given, dict):
                inputs = {name: p | name >> beam.Create(part) for name, part in given.items()}
            else:
                inputs = p | beam.Create(given)
            result = inputs | transform
            for name in ("pairs", "report", "rejects"):
                getattr(result, name) | f"keep {name}" >> beam.Map(keep, folder, name)
        pairs, (report,), rejects = (kept(folder, name) for name in ("pairs", "report", "rejects"))
    return rows_in(pairs), report, rows_in(rejects)


def test_pairs_of_two_corpora_get_what_mining_would_give(
    new_pipeline: NewPipeline,
) -> None:
    source, target = sides()
    oracle = Oracle(source, target)
    named = [(i, i, f"s{i:03}", f"t{i:03}") for i in range(100)] + [
        (i, 149 - i, f"s{i:03}", f"t{149 - i:03}") for i in range(9)
    ]
    named += [
        (5, 5, "again", "t005"),
        (7, 8, "s007", "doppel"),
        (0, 0, "s000", "t000"),
    ]  # of duplicates, and one pair twice
    pairs = [
        {"source_id": a, "target_id": b, "n": n, "cosine": "old"}
        for n, (_, _, a, b) in enumerate(named)
    ]
    lost = [("s000", "none"), ("gone", "t000"), (None, "t001")]
    given = {
        "pairs": [
            *pairs,
            *({"source_id": a, "target_id": b, "n": None, "cosine": None} for a, b in lost),
        ],
        "source": rows("s", source, [("again", 5)]),
        "target": rows("t", target, [("doppel", 8)]),
    }
    found, report, rejects = scored(
        new_pipeline,
        "two processes",
        given,
        ScoreBitext(rename={"cosine": "new"}).with_exception_handling(),
    )
    assert {row["cosine"] for row in found} == {"old"}
    assert list(found[0])[:6] == [
        "source_id",
        "target_id",
        "source_text",
        "target_text",
        "new",
        "margin",
    ]
    found = [{**row, "cosine": row["new"]} for row in found]
    assert sorted(row["n"] for row in found) == list(range(len(named)))
    for row in found:
        i, j, source_id, target_id = named[row["n"]]
        oracle.check(row, i, j)
        assert (row["source_id"], row["target_id"]) == (source_id, target_id)
        assert (row["source_url"], row["target_text"]) == (f"s/{source_id}", f"t text {j}")
    assert {(row["source_id"], row["target_id"]): row["reject_reason"] for row in rejects} == {
        lost[0]: "target_id is not among the rows of the target side",
        lost[1]: "source_id is not among the rows of the source side",
        lost[2]: "source_id is null",
    }
    assert (report["source_rows"], report["pairs"], report["search"]) == (ROWS, len(named), "exact")


def test_pairs_of_texts_are_each_others_neighbors(
    new_pipeline: NewPipeline,
) -> None:
    source, target = sides()
    pairs = [
        {
            "id": i,
            "source_text": f"a {i}",
            "target_text": f"b {i}",
            "source_embedding": x,
            "target_embedding": y,
            "source_u": "x",
        }
        for i, (x, y) in enumerate(zip(source, target, strict=True))
    ]
    bad = [
        {**pairs[0], "id": 900, "target_text": None},
        {**pairs[1], "id": 901, "source_embedding": 0 * source[0]},
    ]
    found, report, rejects = scored(
        new_pipeline, "in memory", [*pairs, *bad], ScoreBitext().with_exception_handling()
    )
    oracle = Oracle(source, target)  # the good halves of the bad pairs have texts of other pairs
    for row in found:
        assert row["source_id"] == row["target_id"]
        assert row["source_u"] == "x"
        assert "source_embedding" not in row
        oracle.check(row, row["source_id"], row["source_id"])
    assert len(found) == ROWS == report["source_rows"]
    assert {row["source_id"]: row["reject_reason"] for row in rejects} == {
        900: "target: text is null",
        901: "source: embedding is zero and has no direction",
    }


def test_inputs_that_cannot_be_scored_are_refused(new_pipeline: NewPipeline) -> None:
    with pytest.raises(InputError, match="margin is 'cosine'; use ratio"):
        ScoreBitext(margin="cosine")
    with pytest.raises(InputError, match="search is 'ivf'; use auto, exact, cells"):
        ScoreBitext(comparison=Comparison(search="ivf"))
    with (
        pytest.raises(InputError, match='give {"pairs": ..., "source": ..., "target": ...}'),
        new_pipeline() as p,
    ):
        {"source": p | beam.Create([1])} | ScoreBitext()
    source, target = sides()
    given = {
        "pairs": [{"source_id": 3, "target_id": "t003"}],
        "source": rows("s", source, []),
        "target": rows("t", target, []),
    }
    with pytest.raises(
        Exception,
        match="source_id of the pairs is int64 and the ids of the source side are large_string",
    ):
        scored(new_pipeline, "in memory", given, ScoreBitext())
