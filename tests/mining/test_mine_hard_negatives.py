"""Hard negatives and pair filters equal brute force, whatever the order, shards and processes."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from beam_gpte import Block, FilterPairs, InputError, MineHardNegatives, PairOptions
from beam_gpte.core.columns import DOCUMENT, QUERY
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.mining.hard_negatives import NegativeRule, choose_negatives, with_consistency
from beam_gpte.core.vectors.near_frames import forward_candidates
from beam_gpte.core.vectors.neighbors import nearest_neighbors
from beam_gpte.elements.block import hidden_block
from beam_gpte.mining.filter_pairs import _reasons
from beam_gpte.mining.pair_neighbors import _Rows, _score
from beam_gpte.neighbors.plan_queries import check_one_space
from tests.examples import keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]

QUERIES, DOCUMENTS, DIM = 40, 300, 16


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(
        np.float32
    )


def corpus(seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[int, list[int]]]:
    """Queries, documents, and the positives of each query.

    Query 0 has none, query 1 three, the others one.
    """
    random = np.random.default_rng(seed)
    queries, documents = random.normal(size=(QUERIES, DIM)), random.normal(size=(DOCUMENTS, DIM))
    positives = {q: [q] for q in range(2, QUERIES)} | {1: [1, 100, 200]}
    for query, of_query in positives.items():
        documents[of_query] = queries[query] + 0.8 * random.normal(size=(len(of_query), DIM))
    return unit(queries), unit(documents), positives


def block(kind: str, vectors: np.ndarray, chosen: np.ndarray) -> Block:
    array = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors[chosen].reshape(-1)), vectors.shape[1]
    )
    texts = [f"{kind} number {i}" for i in chosen]
    return Block.from_pydict(
        {"id": [f"{kind}{i:03}" for i in chosen], "text": texts, "embedding": array}
    )


def blocks(kind: str, vectors: np.ndarray, shards: int = 1) -> list[Block]:
    rows = (
        np.arange(len(vectors))
        if shards == 1
        else np.random.default_rng(5).permutation(len(vectors))
    )
    return [block(kind, vectors, part) for part in np.array_split(rows, shards)]


def pair_rows(positives: dict[int, list[int]]) -> list[dict]:
    return [
        {"query_id": f"q{q:03}", "document_id": f"d{d:03}"}
        for q, of_query in positives.items()
        for d in of_query
    ]


def run(
    new_pipeline: NewPipeline,
    transform: Any,
    third: str,
    queries: list,
    documents: list,
    pairs: list,
    mode: str = "in memory",
) -> dict:
    """The rows of every output, by its name, and the counters."""
    with TemporaryDirectory() as folder:
        with new_pipeline(mode) as p:
            given = {"queries": queries, "documents": documents, third: pairs}
            kinds = {
                name: Block if rows and isinstance(rows[0], Block) else dict
                for name, rows in given.items()
            }
            inputs = {
                name: p | name >> beam.Create(rows).with_output_types(kinds[name])
                for name, rows in given.items()
            }
            result = inputs | transform
            if isinstance(result, beam.PCollection):
                outputs = {"good": result}
            else:
                outputs = result._asdict()
            for name, output in outputs.items():
                output | f"keep {name}" >> beam.Map(keep, folder, name)
        counted = p.result.metrics().query()["counters"]
        counters: Counter[str] = Counter()
        for one in counted:  # a counter is reported for each step
            counters[one.key.metric.name] += one.committed
        rows = {name: rows_in(kept(folder, name)) for name in outputs}
        return {**rows, "counters": counters}


def mine(
    new_pipeline: NewPipeline, transform: MineHardNegatives, *rows: list, mode: str = "in memory"
) -> list[dict]:
    found = run(new_pipeline, transform, "positives", *rows, mode=mode)["good"]
    return sorted(found, key=lambda row: (row["query_id"], row["positive_id"], row["rank"]))


def cosine(a: np.ndarray, b: np.ndarray) -> np.float32:
    return np.float32(np.dot(a.astype(np.float64), b.astype(np.float64)))


def brute_force(
    queries: np.ndarray,
    documents: np.ndarray,
    positives: dict[int, list[int]],
    number: int,
    first: int,
    last: int,
    passes: Callable[[float, float], bool],
) -> list[tuple[int, int, int, int]]:
    """(query, positive, negative, rank).

    `passes` decides by the scores of a negative and of the weakest positive.
    """
    triplets = []
    for query, of_query in positives.items():
        scores = [cosine(queries[query], document) for document in documents]
        order = sorted(
            (d for d in range(len(documents)) if d not in of_query), key=lambda d: (-scores[d], d)
        )
        weakest = float(min(scores[d] for d in of_query))
        ranked = [(d, rank) for rank, d in enumerate(order, 1) if first <= rank <= last]
        chosen = [(d, rank) for d, rank in ranked if passes(float(scores[d]), weakest)][:number]
        triplets += [(query, p, d, rank) for p in of_query for d, rank in chosen]
    return sorted(triplets)


def arrays(
    queries: np.ndarray, documents: np.ndarray, positives: dict[int, list[int]], k: int
) -> tuple:
    """The neighbors of all queries, and the pairs with their scores, as frames."""
    found, _ = nearest_neighbors(
        queries, np.arange(len(queries)), documents, np.arange(len(documents)), k
    )
    near = forward_candidates(np.arange(len(queries)), found).drop("forward_rank")
    rows = [
        (q, d, cosine(queries[q], documents[d]))
        for q, of_query in positives.items()
        for d in of_query
    ]
    names = {"source_id": pl.Int64, "target_id": pl.Int64, "score": pl.Float32}
    return near, pl.DataFrame(rows, schema=names, orient="row")


SETTINGS = {
    "nearest": ({}, (3, 1, 100, lambda score, weakest: True)),
    "ranks": (
        {"num_negatives": 50, "first_rank": 5, "last_rank": 20},
        (50, 5, 20, lambda score, weakest: True),
    ),
    "absolute": (
        {"absolute_margin": 0.1},
        (3, 1, 100, lambda score, weakest: score <= weakest - 0.1),
    ),
    "relative": (
        {"relative_margin": 0.2, "num_negatives": 5},
        (5, 1, 100, lambda score, weakest: score <= weakest - abs(weakest) * 0.2),
    ),
    "scores": (
        {"min_score": 0.3, "max_score": 0.5, "num_negatives": 99},
        (99, 1, 100, lambda score, weakest: 0.3 <= score <= 0.5),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_negatives_are_those_of_brute_force(name: str) -> None:
    arguments, oracle = SETTINGS[name]
    near, pairs = arrays(*corpus(), k=100 + 3)
    chosen = choose_negatives(near, pairs, NegativeRule(**arguments))
    found = pairs.join(chosen, on="source_id", suffix="_negative").select(
        "source_id", "target_id", "target_id_negative", "rank"
    )
    wanted = brute_force(*corpus(), *oracle)
    assert sorted(found.rows()) == wanted
    assert len(wanted) > 40


def test_margins_below_zero_keep_their_distance_from_the_positive() -> None:
    near = pl.DataFrame(
        {"source_id": [0] * 3, "target_id": [1, 2, 3], "cosine": [-0.40, -0.43, -0.5]}
    ).cast({"cosine": pl.Float32})
    pairs = pl.DataFrame({"source_id": [0], "target_id": [9], "score": [-0.4]}).cast(
        {"score": pl.Float32}
    )
    # a twentieth of 0.4 below -0.4 is -0.42, where 0.95 times -0.4 would be -0.38
    assert choose_negatives(near, pairs, NegativeRule(relative_margin=0.05))[
        "target_id"
    ].to_list() == [2, 3]


def test_every_pair_has_the_rank_and_the_rival_of_brute_force() -> None:
    queries, documents, positives = corpus(2)
    near, pairs = arrays(queries, documents, positives | {0: [250]}, k=20 + 3)
    known = with_consistency(near, pairs, 10)
    assert known["target_id"].equals(pairs["target_id"])
    assert known["rank"].null_count() > 0
    for q, d, score, rank, rival in known.rows():
        scores = [cosine(queries[q], document) for document in documents]
        place = 1 + sum((-s, other) < (-scores[d], d) for other, s in enumerate(scores))
        of_query = (positives | {0: [250]})[q]
        assert rank == (place if place <= 10 else None)
        assert score == scores[d]
        assert np.float32(rival) == max(
            s for other, s in enumerate(scores) if other not in of_query
        )


def test_mining_is_exact_whatever_the_order_and_the_processes(
    new_pipeline: NewPipeline,
) -> None:
    queries, documents, positives = corpus(1)
    transform = MineHardNegatives(relative_margin=0.05, pairs=PairOptions(deduplicate=False))
    rows = blocks("q", queries, 3), blocks("d", documents, 4), pair_rows(positives)[::-1]
    found = mine(new_pipeline, transform, *rows, mode="two processes")
    wanted = brute_force(
        queries,
        documents,
        positives,
        3,
        1,
        100,
        lambda score, weakest: score <= weakest - abs(weakest) * 0.05,
    )
    keys = ("query_id", "positive_id", "negative_id", "rank")
    named = [
        (int(row[keys[0]][1:]), int(row[keys[1]][1:]), int(row[keys[2]][1:]), row["rank"])
        for row in found
    ]
    assert sorted(named) == wanted
    assert "q000" not in {row["query_id"] for row in found}
    for (q, p, n, _), row in zip(named, found, strict=True):
        assert row["positive_score"] == cosine(queries[q], documents[p])
        assert row["negative_score"] == cosine(queries[q], documents[n])
        texts = (f"q number {q}", f"d number {p}", f"d number {n}")
        assert (row["query"], row["positive"], row["negative"]) == texts
    assert list(found[0])[:3] == ["query", "positive", "negative"]


def small(texts: dict[str, str], angles: dict[str, float]) -> list[dict]:
    """Rows whose vectors lie at angles, in degrees."""
    turn = {id_: np.deg2rad(angle) for id_, angle in angles.items()}
    return [
        {
            "id": id_,
            "text": texts.get(id_, id_),
            "embedding": np.array([np.cos(a), np.sin(a)], np.float32),
        }
        for id_, a in turn.items()
    ]


def test_duplicates_are_one_document_and_pairs_of_missing_rows_are_rejects(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_gpte.neighbors.plan.SHARD_ROWS", 2)
    queries = small({"a": "same", "b": "Same"}, {"q": 0, "a": 90, "b": 90, "lone": 50})
    documents = small(
        {"again": "The  ANSWER", "yes": "the answer"},
        {"again": 10, "yes": 10, "no": 20, "far": 80, "up": 95},
    )
    documents.append({"id": "null", "text": "no vector", "embedding": None})
    named = [
        ("q", "yes"),
        ("q", "again"),
        ("a", "up"),
        ("b", "far"),
        ("q", "gone"),
        ("who", "no"),
        (None, "no"),
        ("q", "null"),
    ]
    pairs = [
        {"query_id": query, "document_id": document, "n": n}
        for n, (query, document) in enumerate(named)
    ]
    isolating = MineHardNegatives().with_exception_handling()
    found = run(new_pipeline, isolating, "positives", queries, documents, pairs)
    by_pair: dict[tuple[str, str], list[str]] = {}
    for row in sorted(found["good"], key=lambda row: row["rank"]):
        by_pair.setdefault((row["query_id"], row["positive_id"]), []).append(row["negative_id"])
    # yes and again are one document; b has the text of a, so up and far are positives of both;
    # lone has none
    assert by_pair == {
        ("q", "again"): ["no", "far", "up"],
        ("a", "up"): ["no", "again"],
        ("b", "far"): ["no", "again"],
    }
    names = ("positives", "positives_repeated", "queries_without_positives", "triplets", "rejects")
    assert [found["counters"][name] for name in names] == [3, 1, 1, 7, 5]
    step = "MineHardNegatives positives"
    assert {
        row["n"]: (row["reject_step"], row["reject_reason"])
        for row in found["rejects"]
        if "n" in row
    } == {
        4: (step, "document_id is not among the documents: gone"),
        5: (step, "query_id is not among the queries: who"),
        6: (step, "query_id is null"),
        7: (step, "document_id is not among the documents: null"),
    }
    (document,) = (row for row in found["rejects"] if "embedding" in row)
    assert (document["reject_step"], document["reject_reason"]) == (
        "MineHardNegatives documents",
        "embedding is null",
    )


def test_a_margin_drops_duplicates_of_positives_where_texts_are_not_compared() -> None:
    near = pl.DataFrame(
        {"source_id": [0] * 3, "target_id": [1, 2, 3], "cosine": [0.9, 0.9, 0.5]}
    ).cast({"cosine": pl.Float32})
    pairs = pl.DataFrame({"source_id": [0], "target_id": [1], "score": [0.9]}).cast(
        {"score": pl.Float32}
    )
    assert choose_negatives(near, pairs, NegativeRule())["target_id"].to_list() == [2, 3]
    assert choose_negatives(near, pairs, NegativeRule(relative_margin=0.01))[
        "target_id"
    ].to_list() == [3]


def test_bad_pairs_fail_the_job_by_name() -> None:
    ids = pa.array(["x"], pa.large_string())
    rows = _Rows(ids, np.ones((1, 2), np.float32))
    for query, message in [
        (
            pa.array(["who"], pa.large_string()),
            r"P: row with query_id 'who': query_id is not among the queries: who",
        ),
        (
            pa.array([7]),
            "P: query_id is int64, the ids of the queries are large_string; convert one",
        ),
    ]:
        pair = hidden_block({"query_id": query, QUERY: query, DOCUMENT: ids})
        with pytest.raises(InputError, match=message):
            list(_score(pair, rows, rows, ("query_id", "document_id"), "P", isolate=False))


def test_two_prompts_of_one_model_can_be_compared_and_two_models_cannot() -> None:
    asked, answers = (
        VectorMetadata("m", f"f {prompt}", "mean", prompt, DIM, True)
        for prompt in ("query: ", "passage: ")
    )
    check_one_space(asked, answers, "MineHardNegatives")
    with pytest.raises(
        InputError, match="MineHardNegatives queries and documents: vectors of fingerprints"
    ):
        check_one_space(asked, dataclasses.replace(answers, model="another"), "MineHardNegatives")


def test_rows_without_texts_are_refused_by_what_takes_them(new_pipeline: NewPipeline) -> None:
    queries, documents, positives = corpus(2)
    images = [one.without_columns(["text"]) for one in blocks("d", documents)]
    rows = blocks("q", queries), images, pair_rows(positives)
    with pytest.raises(Exception, match=r"no column 'text' among .* set deduplicate=False of Pair"):
        run(new_pipeline, FilterPairs(k=2), "pairs", *rows)
    without = FilterPairs(k=2, pairs=PairOptions(deduplicate=False))
    found = run(new_pipeline, without, "pairs", *rows)
    assert found["kept"]


def test_consistent_pairs_are_kept_and_others_leave_with_their_rank(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_gpte.neighbors.plan.SHARD_ROWS", 17)
    queries, documents, positives = corpus(2)
    random = np.random.default_rng(7)
    pairs = pair_rows(positives) + pair_rows(
        {q: [int(random.integers(DOCUMENTS))] for q in range(QUERIES)}
    )
    pairs = [{**pair, "note": f"n{i}", "score": "mine"} for i, pair in enumerate(pairs)]
    rows = blocks("q", queries, 2), [*blocks("d", documents, 3), duplicates_of(documents)], pairs
    found = run(
        new_pipeline, FilterPairs(k=2, depth=20, rename={"score": "cosine"}), "pairs", *rows
    )
    assert found["rejects"] == []
    assert min(len(found["kept"]), len(found["removed"])) > 20
    notes = {
        row["note"]: (row["query_id"], row["document_id"])
        for row in found["kept"] + found["removed"]
    }
    assert notes == {pair["note"]: (pair["query_id"], pair["document_id"]) for pair in pairs}
    for name in ("kept", "removed"):
        for row in found[name]:
            document = int(row["document_id"][1:])
            scores = [cosine(queries[int(row["query_id"][1:])], other) for other in documents]
            rank = 1 + sum((-s, d) < (-scores[document], document) for d, s in enumerate(scores))
            assert (row["score"], row["cosine"]) == ("mine", scores[document])
            assert (name == "kept") == (rank <= 2)
            assert row["rank"] == (rank if rank <= 20 else None)
            assert (
                name == "kept"
                or row["reject_reason"] == f"rank {row['rank'] or 'above 20'} is beyond 2"
            )


def duplicates_of(documents: np.ndarray) -> Block:
    """Duplicates of all documents, which take no rank from them."""
    texts = [f"D  number {i}" for i in range(len(documents))]
    plain = block("z", documents, np.arange(len(documents)))
    return plain.with_column(pa.field("text", pa.string()), pa.array(texts))


def test_pairs_are_filtered_by_rank_margin_and_score() -> None:
    near = pl.DataFrame({"source_id": [0, 0, 0], "target_id": [1, 2, 3], "cosine": [0.9, 0.8, 0.1]})
    near = near.cast({"cosine": pl.Float32})
    pairs = pl.DataFrame({"source_id": [0, 0], "target_id": [1, 3], "score": [0.9, 0.1]}).cast(
        {"score": pl.Float32}
    )
    known = with_consistency(near, pairs, 2)  # the rival of both is 2

    def reasons(
        k: int | None = None, min_margin: float | None = None, min_score: float | None = None
    ) -> list:
        return known.select(_reasons(k, min_margin, min_score, 2))[:, 0].to_list()

    assert reasons(k=2) == [None, "rank above 2 is beyond 2"]
    assert reasons(min_margin=0.05) == [None, "margin -0.7 is below 0.05"]
    assert reasons(min_margin=0.2) == ["margin 0.1 is below 0.2", "margin -0.7 is below 0.2"]
    assert reasons(min_score=0.5) == [None, "score 0.1 is below 0.5"]
    assert reasons(k=1, min_score=0.95) == ["score 0.9 is below 0.95", "rank above 2 is beyond 1"]


def test_a_lone_document_has_no_rival() -> None:
    near = pl.DataFrame({"source_id": [0], "target_id": [1], "cosine": [0.9]}).cast(
        {"cosine": pl.Float32}
    )
    pairs = near.rename({"cosine": "score"})
    known = with_consistency(near, pairs, 1)
    assert known.select("rank", "rival").rows() == [(1, None)]
    assert known.select(_reasons(1, 0.5, None, 1))[:, 0].to_list() == [None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MineHardNegatives(num_negatives=0), "num_negatives is 0; use 1 or more"),
        (lambda: MineHardNegatives(ranks=(5, 4)), "ranks from 5 to 4"),
        (lambda: MineHardNegatives(ranks=(1,)), "ranks is (1,); use the first and the last rank"),
        (lambda: MineHardNegatives(relative_margin=-0.1), "relative_margin is -0.1"),
        (
            lambda: MineHardNegatives(min_score=0.5, max_score=0.4),
            "min_score is 0.5, above max_score 0.4",
        ),
        (
            lambda: PairOptions(query_id="id", document_id="id"),
            "query_id and document_id are both 'id'",
        ),
        (
            lambda: MineHardNegatives(pairs=PairOptions(query_model="m")),
            "query_model without model",
        ),
        (lambda: FilterPairs(k=0), "k is 0"),
        (lambda: FilterPairs(k=5, depth=4), "depth is 4; use k, 5, or more"),
        (lambda: FilterPairs(k=None), "every pair is kept"),
        (
            lambda: FilterPairs().expand({}),
            'give {"queries": ..., "documents": ..., "pairs": ...} | FilterPairs',
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)
