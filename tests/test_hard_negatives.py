"""Hard negatives and consistent pairs against brute force: the same whatever the order, the shards and the processes."""

from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest

from beam_gpte import Block, FilterPairs, InputError, MineHardNegatives
from beam_gpte.core.metadata import VectorMetadata
from tests.elements import LengthEncoder, keep, kept

QUERIES, DOCUMENTS, DIM = 40, 300, 16


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(np.float32)


def corpus(seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[int, list[int]]]:
    """Queries, documents, and the positives of each query: none for query 0, three for query 1, one for the others."""
    random = np.random.default_rng(seed)
    queries, documents = random.normal(size=(QUERIES, DIM)), random.normal(size=(DOCUMENTS, DIM))
    positives = {q: [q] for q in range(2, QUERIES)} | {1: [1, 100, 200]}
    for query, of_query in positives.items():
        documents[of_query] = queries[query] + 0.8 * random.normal(size=(len(of_query), DIM))
    return unit(queries), unit(documents), positives


def block(kind: str, vectors: np.ndarray, chosen: np.ndarray) -> Block:
    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors[chosen].reshape(-1)), vectors.shape[1])
    texts = [f"{kind} number {i}" for i in chosen]
    return Block.from_pydict({"id": [f"{kind}{i:03}" for i in chosen], "text": texts, "embedding": array})


def blocks(kind: str, vectors: np.ndarray, shards: int = 1) -> list[Block]:
    rows = np.arange(len(vectors)) if shards == 1 else np.random.default_rng(5).permutation(len(vectors))
    return [block(kind, vectors, part) for part in np.array_split(rows, shards)]


def pair_rows(positives: dict[int, list[int]]) -> list[dict]:
    return [{"query_id": f"q{q:03}", "document_id": f"d{d:03}"} for q, of_query in positives.items() for d in of_query]


def run(
    new_pipeline, transform: Any, third: str, queries: list, documents: list, pairs: list, mode: str = "in memory"
) -> dict:
    """The rows of every output, by its name."""
    with TemporaryDirectory() as folder:
        with new_pipeline(mode) as p:
            given = {"queries": queries, "documents": documents, third: pairs}
            kinds = {name: Block if rows and isinstance(rows[0], Block) else dict for name, rows in given.items()}
            inputs = {name: p | name >> beam.Create(rows).with_output_types(kinds[name]) for name, rows in given.items()}
            result = inputs | transform
            if isinstance(result, beam.PCollection):
                outputs = {"triplets": result}
            elif hasattr(result, "_asdict"):
                outputs = result._asdict()
            else:
                outputs = dict(zip(("triplets", "rejects"), result, strict=True))
            for name, output in outputs.items():
                output | f"keep {name}" >> beam.Map(keep, folder, name)
        return {name: [row for block in kept(folder, name) for row in block.batch.to_pylist()] for name in outputs}


def mine(new_pipeline, transform: MineHardNegatives, *rows: list, mode: str = "in memory") -> list[dict]:
    found = run(new_pipeline, transform, "positives", *rows, mode=mode)["triplets"]
    return sorted(found, key=lambda row: (row["query_id"], row["positive_id"], row["rank"]))


def cosine(a: np.ndarray, b: np.ndarray) -> np.float32:
    return np.float32(np.dot(a.astype(np.float64), b.astype(np.float64)))


def brute_force(queries, documents, positives, number, first, last, passes) -> list[tuple[str, str, str, int]]:
    """(query, positive, negative, rank), `passes` told the scores of a negative and the weakest positive."""
    triplets = []
    for query, of_query in positives.items():
        scores = [cosine(queries[query], document) for document in documents]
        order = sorted((d for d in range(len(documents)) if d not in of_query), key=lambda d: (-scores[d], d))
        least = float(min(scores[d] for d in of_query))
        ranked = [(d, rank) for rank, d in enumerate(order, 1) if first <= rank <= last]
        chosen = [(d, rank) for d, rank in ranked if passes(float(scores[d]), least)][:number]
        triplets += [(f"q{query:03}", f"d{p:03}", f"d{d:03}", rank) for p in of_query for d, rank in chosen]
    return sorted(triplets)


SETTINGS = {
    "nearest": ({}, (3, 1, 100, lambda score, least: True)),
    "ranks": ({"num_negatives": 50, "first_rank": 5, "last_rank": 20}, (50, 5, 20, lambda score, least: True)),
    "absolute": ({"absolute_margin": 0.1}, (3, 1, 100, lambda score, least: score <= least - 0.1)),
    "relative": (
        {"relative_margin": 0.2, "num_negatives": 5},
        (5, 1, 100, lambda score, least: score <= least - abs(least) * 0.2),
    ),
    "scores": (
        {"min_score": 0.3, "max_score": 0.5, "num_negatives": 99},
        (99, 1, 100, lambda score, least: 0.3 <= score <= 0.5),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_negatives_are_those_of_brute_force(new_pipeline, name):
    queries, documents, positives = corpus()
    arguments, oracle = SETTINGS[name]
    rows = blocks("q", queries, 3), blocks("d", documents, 4), pair_rows(positives)
    found = mine(new_pipeline, MineHardNegatives(**arguments), *rows)
    wanted = brute_force(queries, documents, positives, *oracle)
    keys = ("query_id", "positive_id", "negative_id", "rank")
    assert [tuple(row[key] for key in keys) for row in found] == sorted(wanted, key=lambda t: (t[0], t[1], t[3]))
    assert 0 < len(wanted) and "q000" not in {row["query_id"] for row in found}
    for row in found[:50]:
        q, p, n = (int(row[key][1:]) for key in keys[:3])
        assert row["positive_score"] == cosine(queries[q], documents[p])
        assert row["negative_score"] == cosine(queries[q], documents[n])
        texts = (f"q number {q}", f"d number {p}", f"d number {n}")
        assert (row["query"], row["positive"], row["negative"]) == texts
    assert list(found[0])[:3] == ["query", "positive", "negative"]


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_shards_order_and_processes_change_nothing(new_pipeline, mode, monkeypatch):
    queries, documents, positives = corpus(1)
    transform, pairs = MineHardNegatives(relative_margin=0.05), pair_rows(positives)
    whole = mine(new_pipeline, transform, blocks("q", queries), blocks("d", documents), pairs)
    if mode == "in memory":  # worker processes would not know of it
        monkeypatch.setattr("beam_gpte.bitext_survey.SHARD_ROWS", 17)
    cut = blocks("q", queries, 3), blocks("d", documents, 5), pairs[::-1]
    assert mine(new_pipeline, transform, *cut, mode=mode) == whole
    judged = run(new_pipeline, FilterPairs(k=1), "pairs", *cut, mode=mode)
    monkeypatch.undo()
    again = run(new_pipeline, FilterPairs(k=1), "pairs", blocks("q", queries), blocks("d", documents), pairs)
    assert {name: sorted(map(str, rows)) for name, rows in judged.items()} == {
        name: sorted(map(str, rows)) for name, rows in again.items()
    }


def small(texts: dict[str, str], angles: dict[str, float]) -> list[dict]:
    """Rows whose vectors lie at angles, in degrees."""
    turn = {id_: np.deg2rad(angle) for id_, angle in angles.items()}
    return [
        {"id": id_, "text": texts.get(id_, id_), "embedding": np.array([np.cos(a), np.sin(a)], np.float32)}
        for id_, a in turn.items()
    ]


def negatives_of(found: list[dict]) -> dict[tuple[str, str], list[str]]:
    by_pair: dict[tuple[str, str], list[str]] = {}
    for row in found:
        by_pair.setdefault((row["query_id"], row["positive_id"]), []).append(row["negative_id"])
    return by_pair


def test_a_copy_of_a_positive_is_that_positive(new_pipeline):
    queries = small({}, {"q": 0})
    documents = small({"copy": "The  ANSWER", "yes": "the answer"}, {"copy": 10, "yes": 10, "no": 20, "far": 80})
    pairs = [{"query_id": "q", "document_id": "yes"}]
    assert negatives_of(mine(new_pipeline, MineHardNegatives(), queries, documents, pairs)) == {("q", "yes"): ["no", "far"]}
    # texts not compared, the copy is a document like others, which a margin of nothing lets pass and a real one does not
    apart = MineHardNegatives(deduplicate=False)
    assert negatives_of(mine(new_pipeline, apart, queries, documents, pairs)) == {("q", "yes"): ["copy", "no", "far"]}
    apart = MineHardNegatives(deduplicate=False, relative_margin=0.01)
    assert negatives_of(mine(new_pipeline, apart, queries, documents, pairs)) == {("q", "yes"): ["no", "far"]}


def test_queries_of_one_text_share_their_positives_and_a_pair_named_twice_counts_once(new_pipeline):
    queries = small({"a": "same", "b": "Same"}, {"a": 0, "b": 0})
    documents = small({}, {"x": 5, "y": 10, "z": 15})
    pairs = [{"query_id": query, "document_id": document} for query, document in [("a", "x"), ("b", "y"), ("b", "x")]]
    found = mine(new_pipeline, MineHardNegatives(), queries, documents, pairs)
    assert negatives_of(found) == {("a", "x"): ["z"], ("b", "y"): ["z"]}


def test_pairs_of_rows_that_are_not_there_are_named_or_set_aside(new_pipeline):
    queries, documents = small({}, {"q": 0, "lone": 50}), small({}, {"x": 5, "y": 10})
    documents.append({"id": "null", "text": "no vector", "embedding": None})
    pairs = [{"query_id": "q", "document_id": "x", "n": 1}, {"query_id": "q", "document_id": "gone", "n": 2}]
    pairs += [{"query_id": "who", "document_id": "x", "n": 3}, {"query_id": None, "document_id": "x", "n": 4}]
    pairs += [{"query_id": "q", "document_id": "null", "n": 5}]
    isolating = MineHardNegatives().with_exception_handling()
    found = run(new_pipeline, isolating, "positives", queries, documents, pairs)
    assert negatives_of(found["triplets"]) == {("q", "x"): ["y"]}
    reasons = {row["n"]: (row["reject_step"], row["reject_reason"]) for row in found["rejects"] if row.get("n")}
    step = "MineHardNegatives positives"
    assert reasons == {
        2: (step, "document_id is not among the documents: gone"),
        3: (step, "query_id is not among the queries: who"),
        4: (step, "query_id is null"),
        5: (step, "document_id is not among the documents: null"),
    }
    (document,) = (row for row in found["rejects"] if "embedding" in row)
    assert (document["reject_step"], document["reject_reason"]) == ("MineHardNegatives documents", "embedding is null")
    with pytest.raises(Exception, match="MineHardNegatives positives: row with query_id 'q': document_id is not among"):
        run(new_pipeline, MineHardNegatives(), "positives", queries, documents[:2], pairs[:2])
    with pytest.raises(Exception, match="query_id is int64, the ids of the queries are large_string; convert one"):
        run(new_pipeline, MineHardNegatives(), "positives", queries, documents[:2], [{"query_id": 7, "document_id": "x"}])


def test_nothing_comes_of_nothing(new_pipeline):
    queries, documents = small({}, {"q": 0}), small({}, {"x": 5})
    assert mine(new_pipeline, MineHardNegatives(), queries, documents, []) == []
    assert mine(new_pipeline, MineHardNegatives(), queries, documents, [{"query_id": "q", "document_id": "x"}]) == []
    assert mine(new_pipeline, MineHardNegatives(), [], documents, []) == []


def test_texts_are_embedded_and_two_prompts_of_one_model_may_meet(new_pipeline):
    rows = [{"id": "a", "text": "x" * 3}, {"id": "b", "text": "y" * 9}, {"id": "c", "text": "z" * 50}]
    pairs = [{"query_id": "q", "document_id": "a"}]
    query = [{"id": "q", "text": "www"}]
    found = mine(new_pipeline, MineHardNegatives(model=LengthEncoder()), query, rows, pairs)
    assert negatives_of(found) == {("q", "a"): ["b", "c"]}

    def told(kind: str, prompt: str, fingerprint: str, model: str = "m") -> Block:
        known = VectorMetadata(model, fingerprint, "mean", prompt, DIM, True)
        plain = block(kind, unit(np.random.default_rng(3).normal(size=(4, DIM))), np.arange(4))
        return plain.with_column(known.field("embedding"), plain.column("embedding"))

    pairs = [{"query_id": "q001", "document_id": "d002"}]
    asked, answers = told("q", "query: ", "f1"), told("d", "passage: ", "f2")
    assert len(mine(new_pipeline, MineHardNegatives(), [asked], [answers], pairs)) == 3
    with pytest.raises(Exception, match="MineHardNegatives queries and documents: vectors of fingerprints f1 and f3"):
        mine(new_pipeline, MineHardNegatives(), [asked], [told("d", "passage: ", "f3", "another")], pairs)


def test_consistent_pairs_are_kept_and_others_leave_with_their_rank(new_pipeline):
    queries, documents, positives = corpus(2)
    random = np.random.default_rng(7)
    pairs = pair_rows(positives) + pair_rows({q: [int(random.integers(DOCUMENTS))] for q in range(QUERIES)})
    pairs = [{**pair, "note": f"n{i}", "score": "mine"} for i, pair in enumerate(pairs)]
    rows = blocks("q", queries, 2), blocks("d", documents, 3), pairs
    found = run(new_pipeline, FilterPairs(k=2, depth=20), "pairs", *rows)
    assert found["rejects"] == [] and len(found["kept"]) + len(found["removed"]) == len(pairs)
    own: dict[str, set[int]] = {}
    for pair in pairs:
        own.setdefault(pair["query_id"], set()).add(int(pair["document_id"][1:]))
    for name in ("kept", "removed"):
        for row in found[name]:
            assert any(row["note"] == pair["note"] and row["query_id"] == pair["query_id"] for pair in pairs)
            document = int(row["document_id"][1:])
            scores = [cosine(queries[int(row["query_id"][1:])], other) for other in documents]
            rank = 1 + sum((-s, d) < (-scores[document], document) for d, s in enumerate(scores))
            rival = max(s for d, s in enumerate(scores) if d not in own[row["query_id"]])
            assert row["rank"] == (rank if rank <= 20 else None) and (name == "kept") == (rank <= 2)
            assert row["score"] == scores[document] and row["margin"] == pytest.approx(scores[document] - rival, abs=1e-6)
            told = row["rank"] or "above 20"
            assert name == "kept" or row["reject_reason"] == f"rank {told} is beyond 2"
    assert len(found["kept"]) > 20 and len(found["removed"]) > 20


def test_pairs_are_filtered_by_margin_and_score(new_pipeline):
    queries, documents = small({}, {"q": 0, "r": 90}), small({}, {"near": 10, "also": 20, "far": 60, "up": 90})
    pairs = [{"query_id": q, "document_id": d} for q, d in [("q", "near"), ("q", "far"), ("r", "up")]]
    found = run(new_pipeline, FilterPairs(k=None, min_margin=0.04), "pairs", queries, documents, pairs)
    # q is nearest to near, cos 10 = 0.985; its best other document is also, cos 20 = 0.940; r's are up, 1, and far, 0.866
    assert {row["document_id"]: round(row["margin"], 3) for row in found["kept"]} == {"near": 0.045, "up": 0.134}
    assert [row["reject_reason"] for row in found["removed"]] == ["margin -0.4397 is below 0.04"]
    found = run(new_pipeline, FilterPairs(k=None, min_score=0.99), "pairs", queries, documents, pairs)
    assert [row["document_id"] for row in found["kept"]] == ["up"]
    assert {row["reject_reason"] for row in found["removed"]} == {
        "score 0.9848 is below 0.99",
        "score 0.5 is below 0.99",
    }
    # a lone document has no rival, and a copy of it is itself
    lone = small({"near": "one", "twin": "One"}, {"near": 10, "twin": 10})
    found = run(new_pipeline, FilterPairs(k=1), "pairs", queries[:1], lone, [{"query_id": "q", "document_id": "twin"}])
    assert [(row["document_id"], row["rank"], row["margin"]) for row in found["kept"]] == [("twin", 1, None)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MineHardNegatives(num_negatives=0), "num_negatives is 0; use 1 or more"),
        (lambda: MineHardNegatives(first_rank=5, last_rank=4), "ranks from 5 to 4"),
        (lambda: MineHardNegatives(relative_margin=-0.1), "relative_margin is -0.1"),
        (lambda: MineHardNegatives(min_score=0.5, max_score=0.4), "min_score is 0.5, above max_score 0.4"),
        (lambda: MineHardNegatives(query_id="id", document_id="id"), "query_id and document_id are both 'id'"),
        (lambda: MineHardNegatives(query_model="m"), "query_model without model"),
        (lambda: FilterPairs(k=0), "k is 0"),
        (lambda: FilterPairs(k=5, depth=4), "depth is 4; use k, 5, or more"),
        (lambda: FilterPairs(k=None), "every pair is kept"),
        (lambda: {} | FilterPairs(), 'give {"queries": ..., "documents": ..., "pairs": ...} | FilterPairs'),
    ],
)
def test_what_cannot_be_searched_is_refused(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)
