"""Documents are paired by what their sentences mean, whatever their names."""

from collections.abc import Callable
from tempfile import TemporaryDirectory

import apache_beam as beam
import numpy as np
import pytest

from beam_gpte import AlignDocuments, InputError, PairDocuments
from beam_gpte.core.mining.bimax import bimax
from tests.examples import WordEncoder, keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]
DIM = 32


def corpora(count: int, noise: float, extra: int = 0) -> tuple[list[dict], list[dict]]:
    """Make `count` documents and translations of other names and sizes; and some of one side."""
    random = np.random.default_rng(count)
    sides: tuple[list[dict], list[dict]] = ([], [])
    for document in range(count + extra):
        meanings = random.normal(size=(int(random.integers(2, 9)), DIM)) + random.normal(size=DIM)
        for side, (rows, name) in enumerate(zip(sides, ("seite-{}", "page-{}"), strict=True)):
            if side and document >= count:
                continue
            number = document if side == 0 else 100 - document
            kept_sentences = meanings[: len(meanings) - side]
            for i, meaning in enumerate(kept_sentences):
                vector = meaning + noise * random.normal(size=DIM)
                doc = name.format(number)
                rows.append(
                    {
                        "id": f"{doc}/{i}",
                        "doc": doc,
                        "n": i,
                        "text": f"{doc} {i}.",
                        "embedding": vector,
                    }
                )
    return sides


def paired(
    new_pipeline: NewPipeline,
    mode: str,
    source: list,
    target: list,
    transform: PairDocuments,
    shards: int = 1,
) -> list[dict]:
    with TemporaryDirectory() as folder:
        with new_pipeline(mode) as p:
            both = {}
            for name, rows in (("source", source), ("target", target)):
                order = np.random.default_rng(shards).permutation(len(rows))
                both[name] = p | name >> beam.Create([rows[i] for i in order])
            both | transform | beam.Map(keep, folder, "pairs")
        found = rows_in(kept(folder, "pairs"))
    return sorted(found, key=lambda row: str(row["source_document"]))


def names(pairs: list[dict]) -> set[tuple[str, str]]:
    return {(row["source_document"], row["target_document"]) for row in pairs}


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_documents_find_their_translations_whatever_the_order(
    new_pipeline: NewPipeline, mode: str
) -> None:
    sides = corpora(30, noise=0.5, extra=4)
    found = [paired(new_pipeline, mode, *sides, PairDocuments("doc"), seed) for seed in (1, 2)]
    assert found[0] == found[1]
    right = {(f"seite-{n}", f"page-{100 - n}") for n in range(30)}
    assert len(names(found[0]) & right) >= 28
    for column in ("source_document", "target_document"):
        assert len({row[column] for row in found[0]}) == len(found[0])  # each in one pair


def oracle(sides: tuple[list[dict], list[dict]]) -> dict[tuple[str, str], float]:
    """Score all pairs of documents by NumPy, and keep the mutual best."""
    documents = []
    for rows in sides:
        vectors = np.array([row["embedding"] for row in rows])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors -= vectors.mean(axis=0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        of = np.array([row["doc"] for row in rows])
        documents.append(
            {name: vectors[of == name].astype(np.float32) for name in dict.fromkeys(of)}
        )
    scores = {(s, t): bimax(x, y) for s, x in documents[0].items() for t, y in documents[1].items()}
    best = [
        {
            pair
            for pair in scores
            if scores[pair] == max(v for p, v in scores.items() if p[i] == pair[i])
        }
        for i in (0, 1)
    ]
    return {pair: scores[pair] for pair in best[0] & best[1]}


def test_pairs_and_scores_are_those_of_comparing_all_documents(new_pipeline: NewPipeline) -> None:
    sides = corpora(12, noise=1.0, extra=3)
    found = paired(new_pipeline, "in memory", *sides, PairDocuments("doc", k=100))
    wanted = oracle(sides)
    assert names(found) == set(wanted)
    for row in found:
        score = wanted[row["source_document"], row["target_document"]]
        assert row["score"] == pytest.approx(score, abs=1e-3)  # of vectors in float16
        assert -1 <= row["cosine"] <= 1
    sizes = {row["doc"]: row["n"] + 1 for row in sides[0]}
    assert all(row["source_sentences"] == sizes[row["source_document"]] for row in found)


def test_one_document_a_side_equal_vectors_and_names_that_are_numbers(
    new_pipeline: NewPipeline,
) -> None:
    rows = [{"id": i, "doc": 7, "text": "x", "embedding": [1.0, 0.0]} for i in range(3)]
    others = [{"id": i, "doc": "x", "text": "x", "embedding": [1.0, 1.0]} for i in range(2)]
    found = paired(new_pipeline, "in memory", rows, others, PairDocuments("doc"))
    assert names(found) == {(7, "x")}
    assert (found[0]["source_sentences"], found[0]["target_sentences"]) == (3, 2)
    assert paired(new_pipeline, "in memory", rows, [], PairDocuments("doc")) == []


def test_texts_are_embedded_and_bad_rows_collected(new_pipeline: NewPipeline) -> None:
    texts = ("salt and oil", "the red train", "a long night")
    sides = [
        [{"id": i, "doc": f"{name}{i}", "text": text} for i, text in enumerate(texts)]
        for name in ("d", "e")
    ]
    sides[1] = [{**row, "text": f"{row['text']} so"} for row in sides[1]]
    sides[0].append({"id": 9, "doc": None, "text": "whose"})
    with TemporaryDirectory() as folder:
        with new_pipeline("in memory") as p:
            both = {
                name: p | name >> beam.Create(rows)
                for name, rows in zip(("source", "target"), sides, strict=True)
            }
            transform = PairDocuments("doc", model=WordEncoder()).with_exception_handling()
            pairs, rejects = both | transform
            pairs | "pairs" >> beam.Map(keep, folder, "pairs")
            rejects | "rejects" >> beam.Map(keep, folder, "rejects")
        found, bad = (rows_in(kept(folder, kind)) for kind in ("pairs", "rejects"))
    assert names(found) == {(f"d{i}", f"e{i}") for i in range(3)}
    assert [(row["id"], row["reject_reason"]) for row in bad] == [(9, "doc is null")]


def test_rows_with_vectors_need_no_texts(new_pipeline: NewPipeline) -> None:
    sides = corpora(6, noise=0.2)
    without = [
        [{name: value for name, value in row.items() if name != "text"} for row in rows]
        for rows in sides
    ]
    expected = paired(new_pipeline, "in memory", *sides, PairDocuments("doc"))
    assert paired(new_pipeline, "in memory", *without, PairDocuments("doc")) == expected


def test_a_zero_vector_fails_the_job(new_pipeline: NewPipeline) -> None:
    rows = [{"id": 1, "doc": "a", "text": "x", "embedding": [0.0, 0.0]}]
    message = "PairDocuments (source|target): row with id 1: embedding is zero and has no direction"
    with pytest.raises(Exception, match=message):
        paired(new_pipeline, "in memory", rows, rows, PairDocuments("doc"))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="k is 0; use 1 or more"):
        PairDocuments("doc", k=0)


def test_pairs_are_aligned_by_their_names(new_pipeline: NewPipeline) -> None:
    sides = corpora(6, noise=0.2, extra=1)
    with TemporaryDirectory() as folder:
        with new_pipeline("in memory") as p:
            both = {
                name: p | name >> beam.Create(rows)
                for name, rows in zip(("source", "target"), sides, strict=True)
            }
            documents = both | PairDocuments("doc")
            beads = {**both, "documents": documents} | AlignDocuments("doc", ("n",))
            beads | beam.Map(keep, folder, "beads")
        found = rows_in(kept(folder, "beads"))
    assert {bead["doc"] for bead in found} >= {f"seite-{n}" for n in range(6)}
    for bead in found:
        if bead["target_ids"] and bead["source_ids"]:
            numbers = [
                int(ids[0].split("/")[0].split("-")[1])
                for ids in (bead["source_ids"], bead["target_ids"])
            ]
            if numbers[0] < 6:
                assert sum(numbers) == 100


def test_a_document_in_two_pairs_is_refused(new_pipeline: NewPipeline) -> None:
    source, target = corpora(2, noise=0.2)
    pairs = [
        {"source_document": "seite-0", "target_document": name} for name in ("page-100", "page-99")
    ]
    given = {"source": source, "target": target, "documents": pairs}

    def align() -> None:
        with new_pipeline("in memory") as p:
            inputs = {name: p | name >> beam.Create(rows) for name, rows in given.items()}
            _ = inputs | AlignDocuments("doc", ("n",))

    message = "AlignDocuments documents: source_document 'seite-0' is in two pairs; keep the best"
    with pytest.raises(Exception, match=message):
        align()
