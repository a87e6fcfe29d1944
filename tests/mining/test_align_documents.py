"""Documents are aligned one by one, n:m, in the order of their sentences."""

from collections.abc import Callable
from tempfile import TemporaryDirectory

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest

from beam_gpte import AlignDocuments, Block, InputError
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from beam_gpte.mining import align_documents
from tests.examples import keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]

DIM = 48
# sources, and the targets that translate them
SHAPE = [((0, 1), (0,)), ((2,), (1,)), ((3,), (2, 3)), ((4,), (4,)), ((5,), (5,))]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(
        np.float32
    )


def documents(count: int) -> tuple[list[dict], list[dict]]:
    """Rows of both sides; a vector of several sentences is the mean of theirs."""
    random = np.random.default_rng(0)
    sides: tuple[list[dict], list[dict]] = ([], [])
    for document in range(count):
        source, target = random.normal(size=(6, DIM)), random.normal(size=(6, DIM))
        target[0] = source[0] + source[1]
        source[3] = target[2] + target[3]
        target[[1, 4, 5]] = source[[2, 4, 5]]
        for rows, vectors, name in zip(sides, (source, target), "st", strict=True):
            noisy = unit(vectors + 0.2 * random.normal(size=vectors.shape))
            for i, vector in enumerate(noisy):
                key = {
                    "id": f"{name}{document}-{i}",
                    "doc": f"d{document}",
                    "n": i,
                    "text": f"{name}{i}.",
                }
                rows.append({**key, "embedding": vector})
    return sides


def blocks(rows: list[dict], shards: int, shuffled: bool) -> list[Block]:
    order = np.random.default_rng(1).permutation(len(rows)) if shuffled else np.arange(len(rows))
    made = []
    for part in np.array_split(order, shards):
        chosen = [rows[i] for i in part]
        columns = {name: [row[name] for row in chosen] for name in ("id", "doc", "n", "text")}
        vectors = vectors_to_arrow(np.stack([row["embedding"] for row in chosen]))
        made.append(Block.from_pydict({**columns, "embedding": vectors}))
    return made


def aligned(
    new_pipeline: NewPipeline, mode: str, source: list, target: list, transform: AlignDocuments
) -> list[dict]:
    with TemporaryDirectory() as folder:
        with new_pipeline(mode) as p:
            both = {
                name: p | name >> beam.Create(rows)
                for name, rows in (("source", source), ("target", target))
            }
            both | transform | beam.Map(keep, folder, "beads")
        return rows_in(kept(folder, "beads"))


@pytest.mark.parametrize(
    ("mode", "shards"), [("in memory", 1), ("in memory", 4), ("two processes", 3)]
)
def test_sentences_are_joined_and_skipped_as_they_were_translated(
    new_pipeline: NewPipeline, mode: str, shards: int
) -> None:
    sides = documents(30)
    given = [blocks(rows, shards, shuffled=shards > 1) for rows in sides]
    found = aligned(new_pipeline, mode, *given, AlignDocuments("doc", ("n",)))
    wanted = {
        (tuple(f"s{d}-{i}" for i in source), tuple(f"t{d}-{i}" for i in target))
        for d in range(30)
        for source, target in SHAPE
    }
    beads = [(tuple(bead["source_ids"]), tuple(bead["target_ids"])) for bead in found]
    assert len(set(beads) & wanted) >= 0.95 * len(wanted)
    for name, side in zip(("source_ids", "target_ids"), sides, strict=True):
        assert sorted(id_ for bead in found for id_ in bead[name]) == sorted(
            row["id"] for row in side
        )
    (joined,) = [bead for bead in found if bead["source_ids"] == ["s0-0", "s0-1"]]
    assert (joined["doc"], joined["source_text"], joined["target_text"]) == ("d0", "s0. s1.", "t0.")
    assert [
        joined[name] for name in ("source_start", "source_stop", "target_start", "target_stop")
    ] == [0, 2, 0, 1]


def test_rows_of_any_kind_and_a_document_of_one_side_alone(
    new_pipeline: NewPipeline,
) -> None:
    source, target = documents(3)
    found = aligned(
        new_pipeline, "in memory", source, target[:12], AlignDocuments("doc", ("n",), max_span=1)
    )
    assert {bead["doc"] for bead in found} == {"d0", "d1"}
    assert max(len(bead["source_ids"]) for bead in found) == 1


def test_a_document_of_too_many_pairs_of_sentences_is_named(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = documents(3)
    first, second = (AlignDocuments("doc", ("n",)) for _ in range(2))
    monkeypatch.setattr(align_documents, "MAX_PAIRS", 36)
    assert len(aligned(new_pipeline, "in memory", *sides, first)) >= 15
    monkeypatch.setattr(align_documents, "MAX_PAIRS", 35)
    message = "column 'doc': document 'd.' has 6 sentences and 6 in its translation, more than 35"
    with pytest.raises(Exception, match=message):
        aligned(new_pipeline, "in memory", *sides, second)


def test_a_row_without_its_document_fails_the_job(
    new_pipeline: NewPipeline,
) -> None:
    source, target = documents(2)
    source[3] = {**source[3], "doc": None}
    with pytest.raises(Exception, match="AlignDocuments source: row with id 's0-3': doc is null"):
        aligned(new_pipeline, "in memory", source, target, AlignDocuments("doc", ("n",)))
    bare = [pa.table({"id": ["a"], "text": ["b"]})]
    with pytest.raises(Exception, match="no column 'embedding'"):
        aligned(new_pipeline, "in memory", bare, target, AlignDocuments("doc", ("n",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "n"}, "order is 'n'; use a tuple"),
        ({"order": ("n",), "max_span": 0}, "max_span is 0"),
        ({"order": ("n",), "skip_percentile": 101}, "skip_percentile is 101"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlignDocuments("doc", **settings)
