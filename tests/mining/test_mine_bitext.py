"""Mining finds the pairs of a plain exact reference, whatever the order, shards and processes."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from beam_gpte import (
    BitextOutput,
    Block,
    Comparison,
    InputError,
    MineBitext,
    Thresholding,
)
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.mining.posterior import histogram
from beam_gpte.mining.bitext_report import METADATA
from beam_gpte.mining.threshold import margin_counts
from beam_gpte.neighbors.plan import NeighborPlan
from tests.examples import keep, kept

NewPipeline = Callable[..., beam.Pipeline]

PAIRS, ALONE, DIM = 120, 180, 32  # translations, and sentences without one on either side


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(
        np.float32
    )


def sides(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Row i of either side translates row i of the other, for the first `PAIRS`.

    Each language has another mean.
    """
    random = np.random.default_rng(seed)
    meaning = random.normal(size=(PAIRS, DIM))
    languages = 4 * unit(random.normal(size=(2, DIM)))
    source = np.concatenate([meaning, random.normal(size=(ALONE, DIM))]) + languages[0]
    target = np.concatenate(
        [meaning + 0.3 * random.normal(size=(PAIRS, DIM)), random.normal(size=(ALONE, DIM))]
    )
    return unit(source), unit(target + languages[1])


def block(
    vectors: np.ndarray,
    language: str,
    chosen: np.ndarray,
    texts: dict[int, str] | None = None,
    **columns: list,
) -> Block:
    texts = [(texts or {}).get(i, f"{language} {'x' * 20} {i}") for i in chosen]
    array = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors[chosen].reshape(-1)), vectors.shape[1]
    )
    more = {name: [values[i] for i in chosen] for name, values in columns.items()}
    return Block.from_pydict(
        {"id": [f"{language}{i:03}" for i in chosen], "text": texts, **more, "embedding": array}
    )


def blocks(
    vectors: np.ndarray, language: str, shards: int = 1, shuffled: bool = False, **columns: list
) -> list[Block]:
    rows = np.arange(len(vectors))
    if shuffled:
        rows = np.random.default_rng(5).permutation(rows)
    return [block(vectors, language, part, **columns) for part in np.array_split(rows, shards)]


class Mined(NamedTuple):
    pairs: list[dict]  # by ids
    report: dict
    rejects: list[dict]
    metadata: dict


def mine(
    new_pipeline: NewPipeline,
    mode: str,
    source: list[Block],
    target: list[Block],
    transform: MineBitext,
    **more: list[Block],
) -> Mined:
    with TemporaryDirectory() as folder:
        with new_pipeline(mode) as p:
            sides = {"source": source, "target": target, **more}
            inputs = {
                name: p | name >> beam.Create(rows).with_output_types(Block)
                for name, rows in sides.items()
            }
            result = inputs | transform
            for name in ("pairs", "report", "rejects"):
                getattr(result, name) | f"keep {name}" >> beam.Map(keep, folder, name)
        blocks, (report,), rejects = (kept(folder, name) for name in ("pairs", "report", "rejects"))
    rows = [row for block in blocks for row in block.batch.to_pylist()]
    pairs = sorted(rows, key=lambda row: (row["source_id"], row["target_id"]))
    metadata = json.loads(blocks[0].schema.field("margin").metadata[METADATA]) if blocks else {}
    return Mined(
        pairs, report, [row for block in rejects for row in block.batch.to_pylist()], metadata
    )


def reference(
    source: np.ndarray, target: np.ndarray, k: int = 4, retrieval: str = "max"
) -> dict[tuple[int, int], float]:
    """LASER's mine_bitexts: ratio margin over k neighbors, in float32, ties by row."""
    product = (
        (source.astype(np.float64) @ target.T.astype(np.float64))
        .astype(np.float32)
        .astype(np.float64)
    )
    forward = np.argsort(-product, axis=1, kind="stable")[:, :k]
    backward = np.argsort(-product, axis=0, kind="stable")[:k].T
    means = (
        np.take_along_axis(product, forward, 1).mean(1),
        np.take_along_axis(product.T, backward, 1).mean(1),
    )
    means = means[0].astype(np.float32).astype(np.float64), means[1].astype(np.float32)
    margins = (product / ((means[0][:, None] + means[1]) / 2)).astype(np.float32)
    best = {
        (i, min(near, key=lambda j: (-margins[i, j], j))) for i, near in enumerate(forward.tolist())
    }
    others = {
        (min(near, key=lambda i: (-margins[i, j], i)), j)
        for j, near in enumerate(backward.tolist())
    }
    if retrieval == "intersection":
        return {pair: margins[pair] for pair in best & others}
    pairs, taken = {}, (set(), set())
    for i, j in sorted(best | others, key=lambda pair: (-margins[pair], pair)):
        if i not in taken[0] and j not in taken[1]:
            pairs[i, j] = margins[i, j]
            taken[0].add(i)
            taken[1].add(j)
    return pairs


def numbers(pairs: list[dict]) -> dict[tuple[int, int], float]:
    return {(int(row["source_id"][2:]), int(row["target_id"][2:])): row["margin"] for row in pairs}


def test_few_rows_meet_in_few_partitions() -> None:
    means = np.zeros((2, 1), np.float32)
    sizes = {1: 1, 4096: 1, 4097: 2, 20_000: 5, 10**7: 16}
    for rows, partitions in sizes.items():
        assert NeighborPlan((rows, rows), means, (1, 1), None, 0).partitions == partitions


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("mode", "shards", "shard_rows"),
    [
        ("in memory", 1, 300),
        ("in memory", 3, 100),
        ("in memory", 8, 38),
        ("two processes", 8, None),
    ],
)
def test_the_preset_of_laser_gives_the_pairs_of_the_reference(
    new_pipeline: NewPipeline,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    shards: int,
    shard_rows: int | None,
) -> None:
    """In 1, 3 and 8 blocks per side, shuffled, and in as many shards."""
    if shard_rows is not None:
        monkeypatch.setattr("beam_gpte.neighbors.plan.SHARD_ROWS", shard_rows)
        monkeypatch.setattr("beam_gpte.neighbors.plan.ROWS_PER_PARTITION", shard_rows)
    source, target = sides()
    rows = (
        blocks(source, "de", shards, shuffled=shards > 1),
        blocks(target, "en", shards, shuffled=shards > 1),
    )
    found, report, *_ = mine(new_pipeline, mode, *rows, MineBitext.laser(1.05))
    wanted = {pair: margin for pair, margin in reference(source, target).items() if margin >= 1.05}
    assert numbers(found) == pytest.approx(wanted, abs=1e-6)
    assert (
        len({row["source_id"] for row in found})
        == len({row["target_id"] for row in found})
        == len(found)
    )
    assert report["pairs"] == len(wanted)
    assert report["warnings"] == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("sources", "targets"), [(2, 10), (300, 10), (10, 300), (1, 1)])
def test_few_sentences_on_a_side_meet_no_empty_partition(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch, sources: int, targets: int
) -> None:
    """A partition may have neighbors of one direction only."""
    monkeypatch.setattr("beam_gpte.neighbors.plan.ROWS_PER_PARTITION", 1)
    monkeypatch.setattr("beam_gpte.neighbors.plan.SHARD_ROWS", 40)
    source, target = sides()
    source, target = source[:sources], target[:targets]
    laser = MineBitext.laser(0, output=BitextOutput(emit="candidates"))
    rows = blocks(source, "de"), blocks(target, "en")
    found = mine(new_pipeline, "in memory", *rows, laser).pairs
    wanted = np.zeros((sources, targets), bool)
    product = source @ target.T
    np.put_along_axis(wanted, np.argsort(-product, axis=1)[:, :4], True, 1)
    np.put_along_axis(wanted, np.argsort(-product, axis=0)[:4], True, 0)
    assert numbers(found).keys() == set(map(tuple, np.argwhere(wanted).tolist()))


def trigram_vectors(texts: list[str]) -> np.ndarray:
    """Counts of hashed character trigrams, in place of a model."""
    vectors = np.zeros((len(texts), 256), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for i in range(len(text) - 2):
            row[zlib.crc32(text[i : i + 3].lower().encode()) % 256] += 1
    return unit(vectors + 0.1)


def test_the_preset_gives_the_pairs_of_the_reference_for_real_sentences(
    new_pipeline: NewPipeline, data: Path
) -> None:
    table = pq.read_table(data / "ddtp_de-en.parquet", columns=["side", "text"])
    texts = [
        table.filter(pc.equal(table["side"].cast(pa.string()), side))["text"].to_pylist()[:400]
        for side in ("src", "tgt")
    ]
    source, target = map(trigram_vectors, texts)
    rows = [
        blocks(vectors, name, 3, shuffled=True)
        for vectors, name in ((source, "de"), (target, "en"))
    ]
    for retrieval in ("max", "intersection"):
        found = mine(
            new_pipeline, "in memory", *rows, MineBitext.laser(0, retrieval=retrieval)
        ).pairs
        wanted = reference(source, target, retrieval=retrieval)
        assert len(wanted) > 100
        assert numbers(found) == pytest.approx(wanted, abs=1e-6)


def test_candidates_in_many_shards_are_all_near_pairs(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = sides(1)
    monkeypatch.setattr("beam_gpte.neighbors.plan.SHARD_ROWS", 70)
    rows = blocks(source, "de", 4), blocks(target, "en", 2)
    found = mine(
        new_pipeline, "in memory", *rows, MineBitext(output=BitextOutput(emit="candidates"))
    )[0]
    assert {row["forward_rank"] for row in found} == {None, 1, 2, 3, 4}
    product = (unit(source - source.mean(0)) @ unit(target - target.mean(0)).T).astype(np.float64)
    forward, backward = np.argsort(-product, axis=1)[:, :4], np.argsort(-product, axis=0)[:4].T
    wanted = {(i, j) for i, near in enumerate(forward.tolist()) for j in near}
    wanted |= {(i, j) for j, near in enumerate(backward.tolist()) for i in near}
    assert numbers(found).keys() == wanted


def test_cells_find_nearly_the_pairs_of_an_exact_search_in_any_order(
    new_pipeline: NewPipeline,
) -> None:
    """All three runs find the same pairs, in twice the root of 300 cells, seven for each row."""
    source, target = sides()
    runs = []
    for mode, cuts, shuffled in (
        ("in memory", 1, False),
        ("in memory", 5, True),
        ("two processes", 3, True),
    ):
        rows = (blocks(source, "de", cuts, shuffled), blocks(target, "en", cuts, shuffled))
        transform = MineBitext(comparison=Comparison(search="cells"))
        found, report, _, metadata = mine(new_pipeline, mode, *rows, transform)
        assert (report["search"], report["cells"], report["cells_per_row"]) == ("cells", 35, 7)
        assert (metadata["search"], metadata["cells"]) == ("cells", 35)
        runs.append(numbers(found))
    assert runs[0] == runs[1] == runs[2]
    pairs = {pair for pair in runs[0] if pair[0] == pair[1] < PAIRS}
    assert len(pairs) >= 0.95 * PAIRS
    assert len(pairs) >= 0.95 * len(runs[0])
    assert len({i for i, _ in runs[0]}) == len({j for _, j in runs[0]}) == len(runs[0])


def test_rows_that_scopes_leave_are_mined_among_all(new_pipeline: NewPipeline) -> None:
    """Every other translation is in another document.

    Equal sentences that two documents leave are compared once.
    """
    source, target = sides()
    document = np.array([str(i // 30) for i in range(PAIRS + ALONE)])
    moved = document.copy()
    moved[1:PAIRS:2] = "elsewhere"
    # 1 is left, 2 is in a pair of its document
    duplicates = block(source, "de", np.array([1, 2]), doc=document.tolist())
    renamed = duplicates.without_columns(["id", "doc"]).with_column(
        pa.field("id", pa.string()), pa.array(["zz1", "zz2"])
    )
    renamed = renamed.with_column(pa.field("doc", pa.string()), pa.array(["alone", "0"]))
    names = ["id", "text", "doc", "embedding"]
    rows = [*blocks(source, "de", 2, doc=document.tolist()), Block(renamed.batch.select(names))]
    transform = MineBitext(scope="doc", mine_unmatched=True, threshold=0.2)
    found, report, *_ = mine(
        new_pipeline, "in memory", rows, blocks(target, "en", doc=moved.tolist()), transform
    )
    places = {pair: row["found_in"] for pair, row in zip(numbers(found), found, strict=True)}
    assert (
        sum(places.get((i, i)) == ("all" if i % 2 else "scope") for i in range(PAIRS))
        >= 0.95 * PAIRS
    )
    assert (
        len({row["source_id"] for row in found})
        == len({row["target_id"] for row in found})
        == len(found)
    )
    assert duplicates_of(found) == {"de001": ["zz1"], "de002": ["zz2"]}
    assert report["pairs"] == len(found)
    assert report["all"]["pairs"] == sum(place == "all" for place in places.values())
    assert report["all"]["source_rows"] == report["source_rows"] - 1 - (
        len(found) - report["all"]["pairs"]
    )


def test_nothing_is_lost_of_ten_thousand_duplicates_and_texts_of_all_kinds(
    new_pipeline: NewPipeline,
) -> None:
    """Duplicates count once; long, right-to-left and combining texts come back unchanged."""
    source, target = sides()
    texts = {
        0: "x" * 100_000,
        1: "مرحبا بالعالم",
        2: "e\u0301a\u0300 \u202bשלום",
        3: 'a "b", c\td\ne',
    }
    rows = [
        block(source, "de", np.arange(PAIRS + ALONE), texts),
        block(target, "en", np.arange(PAIRS + ALONE), texts),
    ]
    many = Block.from_pydict(
        {
            "id": [f"many{i:05}" for i in range(10_000)],
            "text": ["Noch einmal"] * 10_000,
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(np.tile(source[7], 10_000)), DIM
            ),
        }
    )
    found, report, *_ = mine(new_pipeline, "in memory", [rows[0], many], [rows[1]], MineBitext())
    assert report["source_rows"] == PAIRS + ALONE + 1
    for row in found:
        i, j = (int(row[name][-3:]) for name in ("source_id", "target_id"))
        assert row["source_text"] == texts.get(i, row["source_text"])
        assert row["target_text"] == texts.get(j, row["target_text"])
    assert {0, 1, 2, 3} <= {i for i, j in numbers(found) if i == j}
    seventh = next(row for row in found if row["target_id"] == "en007")
    assert seventh["source_id"] == "de007"
    assert seventh["forward_rank"] == 1
    laser = MineBitext.laser(1.0, output=BitextOutput(emit="candidates"))
    near = mine(new_pipeline, "in memory", [rows[0], many], [rows[1]], laser)[0]
    assert sum(row["forward_rank"] is not None for row in near) == 4 * (PAIRS + ALONE + 10_000)
    assert {
        row["source_id"]
        for row in near
        if row["target_id"] == "en007" and row["backward_rank"] is not None
    } == {
        "de007",
        "many00000",
        "many00001",
        "many00002",
    }


def test_the_defaults_find_the_translations(new_pipeline: NewPipeline) -> None:
    source, target = sides()
    found, report, *_ = mine(
        new_pipeline, "in memory", blocks(source, "de"), blocks(target, "en", 3), MineBitext()
    )
    right = [i for i, j in numbers(found) if i == j < PAIRS]
    assert len(right) >= 0.98 * PAIRS
    assert len(right) >= 0.98 * len(found)
    assert report["source_rows"] == PAIRS + ALONE
    assert report["pairs"] == len(found)
    assert report["threshold_used"] == 0.15
    first = found[0]
    assert first["source_text"] == "de xxxxxxxxxxxxxxxxxxxx 0"
    assert first["same_numbers"]
    assert 0.5 < first["char_overlap"] < 1
    assert first["posterior"] > 0.9
    assert first["length_ratio"] == pytest.approx(1, abs=0.01)
    assert list(first)[:4] == ["source_id", "target_id", "source_text", "target_text"]


def test_the_posterior_as_a_threshold(new_pipeline: NewPipeline) -> None:
    source, target = sides()
    transform = MineBitext(threshold="posterior")
    found, report, *_ = mine(
        new_pipeline, "in memory", blocks(source, "de"), blocks(target, "en"), transform
    )
    right = [i for i, j in numbers(found) if i == j < PAIRS]
    assert len(right) >= 0.95 * PAIRS
    assert len(right) >= 0.95 * len(found)
    assert min(row["posterior"] for row in found) >= 0.9
    assert report["mixture"]["chance"] >= 1


def test_decoys_estimate_a_precision(new_pipeline: NewPipeline) -> None:
    source, target = sides()
    language = source.mean(axis=0)
    decoys = unit(
        np.random.default_rng(9).normal(size=(300, DIM)) + 4 * language / np.linalg.norm(language)
    )
    pairs = mine(
        new_pipeline,
        "in memory",
        blocks(source, "de"),
        blocks(target, "en"),
        MineBitext(thresholding=Thresholding(target_precision=0.9)),
        decoys=blocks(decoys, "xx"),
    ).pairs
    assert not [row for row in pairs if row["source_id"].startswith("xx")]
    right = [i for i, j in numbers(pairs) if i == j < PAIRS]
    assert len(right) >= 0.9 * len(pairs)
    assert len(right) >= 0.9 * PAIRS


def test_a_decoy_with_the_id_of_a_source_is_rejected_not_merged_with_it(
    new_pipeline: NewPipeline,
) -> None:
    source, target = sides()
    mean = source.mean(axis=0)
    random = np.random.default_rng(9).normal(size=(300, DIM))
    decoys = unit(random + 4 * mean / np.linalg.norm(mean))
    rows = blocks(source, "de"), blocks(target, "en")

    def precise() -> MineBitext:
        return MineBitext(thresholding=Thresholding(target_precision=0.9))

    with pytest.raises(Exception, match="MineBitext decoys: row with id 'de000': id is that of a "):
        mine(new_pipeline, "in memory", *rows, precise(), decoys=blocks(decoys[:1], "de"))

    apart = mine(new_pipeline, "in memory", *rows, precise(), decoys=blocks(decoys, "xx"))
    both = blocks(decoys, "xx") + blocks(decoys[:1], "de")
    found = mine(new_pipeline, "in memory", *rows, precise().with_exception_handling(), decoys=both)
    assert numbers(found.pairs) == numbers(apart.pairs)
    assert [(row["id"], row["reject_step"], row["reject_reason"]) for row in found.rejects] == [
        ("de000", "MineBitext decoys", "id is that of a source")
    ]


def test_a_scope_is_searched_by_itself(new_pipeline: NewPipeline) -> None:
    source, target = sides()
    document = [str(i // 10) for i in range(PAIRS + ALONE)]
    rows = (
        blocks(source, "de", 3, shuffled=True, doc=document),
        blocks(target, "en", 2, doc=document),
    )
    transform = MineBitext(scope="doc", output=BitextOutput(emit="candidates"))
    found, *_ = mine(new_pipeline, "two processes", *rows, transform)
    assert all(row["source_doc"] == row["target_doc"] for row in found)
    wanted = 0
    for first in range(0, PAIRS + ALONE, 10):
        rows_of = slice(first, first + 10)
        means = source.mean(0, dtype=np.float64), target.mean(0, dtype=np.float64)
        product = unit(source[rows_of] - means[0]) @ unit(target[rows_of] - means[1]).T
        near = np.zeros(product.shape, bool)
        np.put_along_axis(near, np.argsort(-product, axis=1)[:, :4], True, 1)
        np.put_along_axis(near, np.argsort(-product, axis=0)[:4], True, 0)
        wanted += int(near.sum())
    assert len(found) == wanted


def duplicates_of(pairs: list[dict]) -> dict[str, list[str]]:
    """The ids of the duplicates of each source that has some."""
    listed = {row["source_id"]: row["source_duplicates"] for row in pairs}
    return {source: ids for source, ids in listed.items() if ids}


def test_duplicates_are_mined_once_and_named(new_pipeline: NewPipeline) -> None:
    source, target = sides()
    extra = blocks(source, "de")[0].slice(3, 1)
    renamed = extra.without_columns(["id"]).with_column(
        pa.field("id", pa.string()), pa.array(["zz999"])
    )
    rows = [*blocks(source, "de"), Block(renamed.batch.select(["id", "text", "embedding"]))]
    found, report, *_ = mine(new_pipeline, "in memory", rows, blocks(target, "en"), MineBitext())
    assert report["source_rows"] == PAIRS + ALONE
    assert duplicates_of(found) == {"de003": ["zz999"]}


def test_a_pair_of_odd_lengths_is_dropped_and_counted(
    new_pipeline: NewPipeline,
) -> None:
    source, target = sides()
    rows = blocks(target, "en")[0]
    texts = rows.column("text").to_pylist()
    texts[7] *= 3
    long = rows.without_columns(["text"]).with_column(
        pa.field("text", pa.string()), pa.array(texts)
    )
    found, report, *_ = mine(new_pipeline, "in memory", blocks(source, "de"), [long], MineBitext())
    assert (7, 7) not in numbers(found)
    assert report["dropped_by_length"] == 1
    no_limit = MineBitext(output=BitextOutput(max_length_ratio=None))
    every, *_ = mine(new_pipeline, "in memory", blocks(source, "de"), [long], no_limit)
    assert numbers(every).keys() - numbers(found).keys() == {(7, 7)}


def test_pairs_describe_how_they_were_found(new_pipeline: NewPipeline) -> None:
    source, target = sides()
    known = VectorMetadata("m", "0123", "mean", "", DIM, True)

    def described(rows: Block, metadata: VectorMetadata) -> Block:
        return rows.without_columns(["embedding"]).with_column(
            metadata.field("embedding"), rows.column("embedding")
        )

    one = described(blocks(source, "de")[0], known)
    other = described(blocks(target, "en")[0], known)
    about = mine(new_pipeline, "in memory", [one], [other], MineBitext(k=3)).metadata
    assert about["fingerprint"] == "0123"
    assert about["k"] == 3
    assert about["margin"] == "distance"
    foreign = described(
        blocks(target, "en")[0], VectorMetadata("m", "4567", "mean", "query: ", DIM, True)
    )
    with pytest.raises(
        Exception, match=r"vectors of fingerprints 0123 and 4567 .*'' and 'query: '"
    ):
        mine(new_pipeline, "in memory", [one], [foreign], MineBitext())


def test_bad_rows_are_rejects_that_name_their_side(new_pipeline: NewPipeline) -> None:
    source, target = sides()
    rows = blocks(source, "de")[0]
    vectors = np.array(source)
    vectors[0, 0], vectors[1] = np.nan, 0
    bad = block(vectors, "de", np.arange(len(source)))
    with pytest.raises(
        Exception,
        match="MineBitext source: row with id 'de000': embedding has a value that is not finite",
    ):
        mine(new_pipeline, "in memory", [bad], blocks(target, "en"), MineBitext())
    twice = [bad, rows.slice(5, 1)]
    found, report, rejects, _ = mine(
        new_pipeline,
        "in memory",
        twice,
        blocks(target, "en"),
        MineBitext().with_exception_handling(),
    )
    assert {row["id"]: row["reject_reason"] for row in rejects} == {
        "de000": "embedding has a value that is not finite",
        "de001": "embedding is zero and has no direction",
        "de005": "duplicate id",
    }
    assert all("source" in row["reject_step"] for row in rejects)
    assert report["source_rows"] + len(rejects) == len(source) + 1
    assert len(found) > 0.9 * PAIRS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MineBitext(k=0), "k is 0"),
        (lambda: MineBitext(margin="cosine"), "margin is 'cosine'; use ratio, distance, absolute"),
        (lambda: MineBitext(retrieval="mutual"), "retrieval is 'mutual'; use forward"),
        (lambda: Comparison(search="ivf"), "search is 'ivf'; use auto, exact, cells"),
        (lambda: MineBitext(mine_unmatched=True), "mine_unmatched without scope"),
        (
            lambda: MineBitext(
                scope="doc", mine_unmatched=True, output=BitextOutput(emit="candidates")
            ),
            "mine_unmatched excludes the rows that are in pairs",
        ),
        (lambda: MineBitext(threshold="auto"), 'use a number or "posterior"'),
        (lambda: Thresholding(min_posterior=1), "min_posterior is 1; use a number between 0 and 1"),
        (lambda: Thresholding(target_precision=0), "target_precision is 0; use a number"),
        (lambda: BitextOutput(emit="all"), "emit is 'all'; use pairs, candidates"),
        (lambda: BitextOutput(max_length_ratio=0.5), "use a number above 1, or None"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_sides_that_cannot_be_mined_fail_the_job(
    new_pipeline: NewPipeline,
) -> None:
    source, target = sides()
    with pytest.raises(Exception, match="source and target have the same vectors"):
        mine(
            new_pipeline,
            "in memory",
            blocks(source, "de"),
            blocks(source, "en", 3, shuffled=True),
            MineBitext(),
        )
    with pytest.raises(
        Exception, match="vectors of 32 dimensions on the source side and 16 on the target side"
    ):
        mine(
            new_pipeline,
            "in memory",
            blocks(source, "de"),
            blocks(unit(target[:, :16]), "en"),
            MineBitext(),
        )
    with (
        pytest.raises(InputError, match='give {"source": ..., "target": ...}'),
        new_pipeline("in memory") as p,
    ):
        p | beam.Create(blocks(source, "de")) | MineBitext()
    precise = MineBitext(thresholding=Thresholding(target_precision=0.9))
    rows = blocks(source, "de"), blocks(target, "en")
    for transform, more in ((precise, {}), (MineBitext(), {"decoys": rows[0]})):
        with pytest.raises(InputError, match="target_precision and decoys go together"):
            mine(new_pipeline, "in memory", *rows, transform, **more)
    noise = [unit(np.random.default_rng(i).normal(size=(200, DIM))) for i in (1, 2)]
    with pytest.raises(Exception, match="one hump: nothing separates pairs from chance"):
        mine(
            new_pipeline,
            "in memory",
            blocks(noise[0], "a"),
            blocks(noise[1], "b"),
            MineBitext(threshold="posterior"),
        )
    found, report, *_ = mine(new_pipeline, "in memory", blocks(source, "de"), [], MineBitext())
    assert found == []
    assert report["warnings"][-1] == "no rows on the target side"


def translations(rows: int, noise: float, alone: int = 0) -> list[np.ndarray]:
    """Vectors of two sides: `rows` translations, row i of row i, and sentences without one."""
    random = np.random.default_rng(3)
    meaning = random.normal(size=(rows, DIM))
    others = meaning + noise * random.normal(size=(rows, DIM))
    return [
        unit(np.concatenate([side, random.normal(size=(alone, DIM))])) for side in (meaning, others)
    ]


def test_a_good_result_has_no_warning_though_its_margins_have_one_mode(
    new_pipeline: NewPipeline,
) -> None:
    source, target = translations(rows=300, noise=0.45, alone=30)
    found, report, *_ = mine(
        new_pipeline, "in memory", blocks(source, "de"), blocks(target, "en"), MineBitext()
    )
    right = sum(de[2:] == en[2:] for de, en in ((r["source_id"], r["target_id"]) for r in found))
    assert right / len(found) > 0.9
    assert report["mixture"] is None
    assert report["no_posterior"] == f"the scores of {report['chosen']} pairs have one hump"
    assert report["warnings"] == []
    counted = report["margins"]
    assert sum(count for _, count in counted) == report["chosen"]
    assert sum(count for edge, count in counted if edge >= 0.15) == report["pairs"] == len(found)


def test_pairs_that_are_the_tail_of_chance_are_warned_of(new_pipeline: NewPipeline) -> None:
    noise = [unit(np.random.default_rng(i).normal(size=(300, DIM))) for i in (1, 2)]
    found, report, *_ = mine(
        new_pipeline, "in memory", blocks(noise[0], "a"), blocks(noise[1], "b"), MineBitext()
    )
    assert found
    (warning,) = report["warnings"]
    share = len(found) / report["chosen"]
    assert warning.startswith("the pairs may be there by chance: the margins of the ")
    assert f"only {share:.1%} reach the minimum margin" in warning


def test_margins_are_counted_on_both_sides_of_the_threshold() -> None:
    margins = histogram(np.array([0.0, 0.1, 0.1499, 0.1501, 0.2, 0.4]))
    counted = margin_counts(margins, 0.15)
    edges = [edge for edge, _ in counted]
    assert 0.15 in edges
    assert len(counted) <= 45
    assert np.allclose(np.diff(edges), edges[1] - edges[0], atol=1e-5)
    assert sum(count for edge, count in counted if edge < 0.15) == 3
    assert sum(count for edge, count in counted if edge >= 0.15) == 3
    assert margin_counts(histogram(np.zeros(0)), 0.15) == []


def test_pairs_keep_the_vectors_of_their_rows_on_request(
    new_pipeline: NewPipeline,
) -> None:
    source, target = sides()
    found = mine(
        new_pipeline,
        "in memory",
        blocks(source, "de", 3),
        blocks(target, "en"),
        MineBitext(output=BitextOutput(keep_vectors=True)),
    )
    assert len(found.pairs) > PAIRS // 2
    assert "keep_vectors" not in found.report
    for row in found.pairs:
        both = np.array([row["source_embedding"], row["target_embedding"]], np.float32)
        assert np.array_equal(
            both, [source[int(row["source_id"][2:])], target[int(row["target_id"][2:])]]
        )
