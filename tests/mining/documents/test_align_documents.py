"""Documents are aligned one by one, n:m, in the order of their sentences."""

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest

from beam_gpte import (
    AlignDocuments,
    Block,
    EmbedText,
    InputError,
    ReadCorpus,
)
from beam_gpte.core.columns import SIDES
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from tests.examples import WordEncoder, keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]

DIM = 48
# sources, and the targets that translate them
SHAPE = [((0, 1), (0,)), ((2,), (1,)), ((3,), (2, 3)), ((4,), (4,)), ((5,), (5,))]


SEEN: set[str] = set()  # by the encoder below, of which a pipeline has copies


class TextCounter(WordEncoder):
    """Encode texts by their words, and keep them in `SEEN`."""

    fingerprint = "words-2"

    def encode(self, texts: list[str]) -> np.ndarray:
        SEEN.update(texts)
        return super().encode(texts)


class RefusesPairs(WordEncoder):
    """Make no vector of several sentences; those of the test begin with a letter alone."""

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors = super().encode(texts)
        vectors[[sum(len(word) == 1 for word in text.split()) > 1 for text in texts]] = np.nan
        return vectors


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


def run_with(new_pipeline: NewPipeline, build: Callable[[beam.Pipeline], None]) -> None:
    with new_pipeline("in memory") as p:
        build(p)


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


def test_concatenations_are_embedded_where_there_is_a_model(new_pipeline: NewPipeline) -> None:
    """Look at the texts that the model gets: of several sentences only if it embeds spans."""
    source = [["the red sun", "a house"], ["one train", "two"], ["night"], ["bread and", "salt"]]
    target = [["sun and house"], ["train", "two"], ["night"], ["salt"]]
    rows = [
        [
            {"id": f"{name}{d}-{i}", "doc": d, "n": i, "text": text}
            for d, texts in enumerate(side)
            for i, text in enumerate(texts)
        ]
        for name, side in (("s", source), ("t", target))
    ]
    for spans in ("embed", "average"):
        SEEN.clear()
        transform = AlignDocuments("doc", ("n",), max_span=2, spans=spans, model=TextCounter())
        found = aligned(new_pipeline, "in memory", *rows, transform)
        assert sorted(i for bead in found for i in bead["source_ids"]) == sorted(
            row["id"] for row in rows[0]
        )
        concatenated = {"the red sun a house", "one train two", "bread and salt", "train two"}
        assert SEEN & concatenated == (concatenated if spans == "embed" else set())


def test_a_span_that_the_model_refuses_is_averaged_and_its_rows_stay(
    new_pipeline: NewPipeline,
) -> None:
    sides = [
        [
            {"id": f"{name}{i}", "doc": "d", "n": i, "text": f"{name} {text}"}
            for i, text in enumerate(("sun rain", "moon snow", "star wind"))
        ]
        for name in "st"
    ]
    transform = AlignDocuments("doc", ("n",), model=RefusesPairs()).with_exception_handling()
    with TemporaryDirectory() as folder:
        with new_pipeline("in memory") as p:
            both = {
                name: p | name >> beam.Create(rows)
                for name, rows in zip(("source", "target"), sides, strict=True)
            }
            beads, rejects = both | transform
            beads | "beads" >> beam.Map(keep, folder, "beads")
            rejects | "rejects" >> beam.Map(keep, folder, "rejects")
        found, bad = (rows_in(kept(folder, kind)) for kind in ("beads", "rejects"))
    assert sorted(i for bead in found for i in bead["source_ids"]) == ["s0", "s1", "s2"]
    assert bad == []


def test_sentences_with_vectors_of_another_model_than_their_spans_are_refused(
    new_pipeline: NewPipeline,
) -> None:
    def align_others(p: beam.Pipeline) -> None:
        both = {}
        for name in SIDES:
            rows = [
                {"id": i, "doc": "d", "n": i, "text": f"{name} {text}"}
                for i, text in enumerate(("the red sun", "a house", "one train"))
            ]
            blocks = p | f"rows {name}" >> beam.Create(
                [Block.from_table(pa.Table.from_pylist(rows))]
            )
            both[name] = blocks | f"embed {name}" >> EmbedText(WordEncoder())
        _ = both | AlignDocuments("doc", ("n",), model=TextCounter())

    with pytest.raises(Exception, match="source: .*; embed both with the same model"):
        run_with(new_pipeline, align_others)


def test_sentences_of_csv_files_are_in_the_order_of_their_numbers(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    words = [*("sun", "moon", "star", "rain", "wind", "snow"), *("tree", "leaf", "root", "bird")]
    words += ["fish", "stone"]
    for side in SIDES:
        lines = [f"{side}{i},d,{i},{side[0]} {word} {word}" for i, word in enumerate(words)]
        random.Random(side).shuffle(lines)
        text = "\n".join(["id,doc,n,text", *lines])
        (tmp_path / f"{side}.csv").write_text(text)
    with new_pipeline("in memory") as p:
        both = {
            side: p | side >> ReadCorpus(f"{tmp_path}/{side}.csv", id_column="id") for side in SIDES
        }
        beads = both | AlignDocuments("doc", ("n",), model=WordEncoder())
        beads | beam.Map(keep, str(tmp_path), "beads")
    found = rows_in(kept(str(tmp_path), "beads"))
    found.sort(key=lambda bead: bead["source_start"])
    assert [bead["source_ids"] for bead in found] == [[f"source{i}"] for i in range(len(words))]
    assert [bead["target_ids"] for bead in found] == [[f"target{i}"] for i in range(len(words))]


def test_a_document_of_a_thousand_sentences_a_side_is_aligned_in_a_band(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All positions are 1,100 x 1,000; of the beads nearly all are those of the translation."""
    monkeypatch.setattr("beam_gpte.core.mining.align.WHOLE", 1 << 12)
    random_ = np.random.default_rng(3)
    meanings = random_.normal(size=(1100, DIM))
    there = np.sort(random_.permutation(1100)[:1000])
    sides: list[list[dict]] = []
    for name, vectors in (("s", meanings), ("t", meanings[there])):
        noisy = unit(vectors + 0.3 * random_.normal(size=vectors.shape))
        sides.append(
            [
                {"id": f"{name}{i}", "doc": "d", "n": i, "text": "x", "embedding": vector}
                for i, vector in enumerate(noisy)
            ]
        )
    found = aligned(new_pipeline, "in memory", *sides, AlignDocuments("doc", ("n",)))
    beads = {(tuple(bead["source_ids"]), tuple(bead["target_ids"])) for bead in found}
    wanted = {((f"s{i}",), (f"t{j}",)) for j, i in enumerate(there)}
    assert len(beads & wanted) >= 970


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
        ({"order": ("n",), "spans": "mean"}, "spans is 'mean'; use embed, average"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlignDocuments("doc", **settings)
