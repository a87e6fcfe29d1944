"""FitHead and ApplyHead: labeled rows in, predictions out, the same for any sharding."""

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to, is_empty

from beam_gpte import (
    ApplyHead,
    Block,
    DeduplicateSemantic,
    FitHead,
    Head,
    HeadOptions,
    InputError,
    VectorMetadata,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.core.format_version import FORMAT
from beam_gpte.core.vectors.fit_head import LabeledVectors, fit_head
from beam_gpte.neighbors.fitted_files import load_fitted, save_fitted
from beam_gpte.shuffle.unique_ids import id_hashes
from tests.conftest import MODES
from tests.core.dedup.test_space import unit
from tests.examples import WordEncoder

NewPipeline = Callable[..., beam.Pipeline]
METADATA = VectorMetadata("a/model", "print", "mean", "", 8, True)


def corpus(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Vectors around three directions, labeled with a mistake now and then."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((3, 8))
    chosen = rng.integers(0, 3, rows)
    vectors = unit(directions[chosen] + 0.7 * rng.standard_normal((rows, 8)))
    seen = np.where(rng.random(rows) < 0.05, rng.integers(0, 3, rows), chosen)
    return vectors, np.array(["news", "spam", "talk"])[seen].tolist()


def load_head(folder: str) -> Head:
    return load_fitted(folder, "head", Head.from_bytes, "FitHead")


def blocks_of(vectors: np.ndarray, labels: list, size: int, metadata: Any = METADATA) -> list:
    field = (
        pa.field("embedding", pa.list_(pa.float32(), vectors.shape[1]))
        if metadata is None
        else metadata.field("embedding")
    )
    schema = pa.schema([("id", pa.int64()), field, pa.field("label", pa.array(labels).type)])
    table = pa.table([range(len(vectors)), pa.array(vectors.tolist(), field.type), labels], schema)
    starts = range(0, len(table), size)
    return [Block.from_table(table.slice(start, size)) for start in starts]


def fitted(**settings: Any) -> Head:
    vectors, labels = corpus()
    (head,) = blocks_of(vectors, labels, 100) | FitHead("label", **settings)
    return head


def test_a_pipeline_fits_what_the_whole_matrix_gives() -> None:
    vectors, labels = corpus()
    hashes = id_hashes(pa.array(range(400)))
    order = np.argsort(hashes)
    rows = LabeledVectors(vectors, np.array(labels, object), hashes, METADATA).take(order)
    expected = fit_head(rows, "classification", 0, HeadOptions())
    head = fitted()
    assert head.classes == ("news", "spam", "talk")
    assert head.metadata == METADATA
    assert head.report == expected.report
    np.testing.assert_array_equal(head.probabilities(vectors), expected.probabilities(vectors))
    assert head.report["accuracy"] > 0.85


@pytest.mark.parametrize("mode", MODES)
def test_bundles_and_workers_change_neither_head_nor_predictions(
    new_pipeline: NewPipeline, tmp_path: Path, mode: str
) -> None:
    vectors, labels = corpus()
    options = HeadOptions(max_rows=300)
    expected = fitted(hidden=4, options=options)
    blocks = blocks_of(vectors, labels, 13)
    random.Random(mode).shuffle(blocks)
    folder = str(tmp_path / "head")
    with new_pipeline(mode) as p:
        rows = p | beam.Create(blocks).with_output_types(Block) | beam.Reshuffle()
        head = rows | FitHead("label", hidden=4, path=folder, options=options)
        predicted = rows | ApplyHead(head, of="spam")
        found = predicted | beam.FlatMap(lambda block: block.column("prediction").to_pylist())
        chances = expected.probabilities(vectors)[:, 1].tolist()
        assert_that(found, equal_to(chances))
    restored = load_head(folder)
    assert restored.description() == expected.description()
    for one, other in zip(restored.layers, expected.layers, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert sorted(path.name for path in Path(folder).iterdir()) == ["head.json", "head.safetensors"]
    about = json.loads(Path(folder, "head.json").read_text())
    assert about == {"format": FORMAT, **expected.description()}


def test_rows_get_their_class_its_score_and_all_probabilities() -> None:
    head = fitted()
    vectors, _ = corpus(20, 1)
    rows = [{"id": i, "embedding": vector, "x": {i}} for i, vector in enumerate(vectors)]
    found = rows | ApplyHead(head, "topic", score_column="sure", probabilities_column="all")
    expected = head.probabilities(vectors)
    for row, chances in zip(sorted(found, key=lambda row: row["id"]), expected, strict=True):
        assert row["topic"] == head.classes[int(chances.argmax())]
        assert row["sure"] == chances.max()
        assert row["all"] == chances.tolist()
        assert row["x"] == {row["id"]}


def test_numbers_are_predicted_and_booleans_are_classes() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((600, 4)).astype(np.float32)
    stars = (vectors @ [1, 2, 0, -1] + 3).round(3)
    rows = [
        {"id": f"r{i}", "embedding": v, "stars": float(s), "good": bool(s > 3)}
        for i, (v, s) in enumerate(zip(vectors, stars, strict=True))
    ]
    (number,) = rows | FitHead("stars", "regression")
    assert number.report["r2"] > 0.99
    predicted = {row["id"]: row["stars?"] for row in rows | ApplyHead(number, "stars?")}
    assert predicted["r0"] == pytest.approx(stars[0], abs=0.1)
    (good,) = rows | FitHead("good")
    assert good.classes == (False, True)
    found = rows[:5] | ApplyHead(good, "is_good", of=True)
    assert {type(row["is_good"]) for row in found} == {float}
    assert [row["is_good"] > 0.5 for row in sorted(found, key=lambda row: row["id"])] == [
        row["good"] for row in rows[:5]
    ]


def test_texts_are_embedded_and_rows_that_cannot_be_used_are_left_out_and_counted(
    new_pipeline: NewPipeline,
) -> None:
    texts = ["a cat sat", "the cat ran", "stocks fell", "markets fell"] * 5
    labels = ["pets", "pets", "money", "money"] * 5
    rows: list[dict] = [
        {"id": i, "text": text, "label": label}
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    rows += [
        {"id": 20, "text": "a cat", "label": None},
        {"id": 21, "text": "", "label": "pets"},
        {"id": None, "text": "a cat", "label": "pets"},
    ]
    p = new_pipeline()
    head = p | beam.Create(rows) | FitHead("label", model=WordEncoder())
    assert_that(
        head | beam.Map(lambda one: one.report["rows_by_class"]),
        equal_to([{"money": 10, "pets": 10}]),
    )
    assert counters(p.run())["rows_not_fitted"] == 3


def test_the_best_of_each_group_of_duplicates_is_kept_by_a_head(
    new_pipeline: NewPipeline,
) -> None:
    """A head scores rows by their first coordinate; a deduplication keeps the highest score."""
    rng = np.random.default_rng(0)
    vectors = unit(np.abs(rng.standard_normal((300, 4))))
    labeled = [{"id": i, "embedding": v, "quality": float(v[0])} for i, v in enumerate(vectors)]
    (head,) = labeled | FitHead("quality", "regression")
    pair = unit(np.array([[1.0, 0.9, 0.0, 0.0], [1.0, 1.1, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]))
    rows = [{"id": f"r{i}", "embedding": v} for i, v in enumerate(pair[[1, 0, 2]])]
    with new_pipeline() as p:
        scored = p | beam.Create(rows) | ApplyHead(head, "quality")
        result = scored | DeduplicateSemantic(0.9, keep="quality desc")
        assert_that(result.kept | beam.Map(lambda row: row["id"]), equal_to(["r1", "r2"]))
        removed = result.removed | "Removed" >> beam.Map(
            lambda row: (row["id"], row["duplicate_of"])
        )
        assert_that(removed, equal_to([("r0", "r1")]), "removed")


def test_a_stream_is_classified_row_by_row(tmp_path: Path) -> None:
    folder = str(tmp_path)
    head = save_fitted(fitted(), folder, "head")
    vectors, _ = corpus(6, 2)
    rows = [{"id": i, "embedding": vector} for i, vector in enumerate(vectors)]
    stream = (
        test_stream.TestStream()
        .add_elements(rows[:3])
        .advance_watermark_to(9)
        .add_elements(rows[3:])
    )
    with beam.Pipeline(options=beam.options.pipeline_options.PipelineOptions(["--streaming"])) as p:
        found = p | stream.advance_watermark_to_infinity() | ApplyHead(folder, "topic")
        topics = head.probabilities(vectors).argmax(axis=1)
        expected = [(i, head.classes[topic]) for i, topic in enumerate(topics)]
        assert_that(found | beam.Map(lambda row: (row["id"], row["topic"])), equal_to(expected))


def test_rows_without_a_vector_of_the_head_s_length_are_rejected() -> None:
    head = fitted()
    good = corpus(1)[0][0].tolist()
    rows = [
        {"id": 0, "embedding": good},
        {"id": 1, "embedding": [1.0, 2.0]},
        {"id": 2, "embedding": None},
        {"id": 3, "embedding": [float("nan")] * 8},
    ]
    table = pa.Table.from_pylist(rows)
    found, rejects = table | ApplyHead(head).with_exception_handling()
    assert found["id"].to_pylist() == [0]
    assert rejects.select(["id", "reject_reason"]).to_pylist() == [
        {"id": 1, "reject_reason": "embedding has 2 dimensions, the head takes 8"},
        {"id": 2, "reject_reason": "embedding is null"},
        {"id": 3, "reject_reason": "embedding has a value that is not finite"},
    ]
    with pytest.raises(Exception, match="ApplyHead: row with id 1: embedding has 2 dimensions"):
        _ = table | ApplyHead(head)
    other = blocks_of(np.ones((2, 3), np.float32), ["a", "b"], 2, None)
    _, rejects = other[0] | ApplyHead(head).with_exception_handling()
    assert {row["reject_reason"] for row in pa.table(rejects).to_pylist()} == {
        "embedding has 3 dimensions, the head takes 8"
    }


def test_vectors_of_another_model_are_refused() -> None:
    head = fitted()
    vectors, labels = corpus(2)
    other = dataclasses.replace(METADATA, fingerprint="other")
    with pytest.raises(
        Exception, match="ApplyHead: rows and head: vectors of fingerprints other and print"
    ):
        _ = blocks_of(vectors, labels, 2, other) | ApplyHead(head)
    mixed = blocks_of(vectors, labels, 1) + blocks_of(vectors, labels, 2, other)
    with pytest.raises(Exception, match="FitHead: vectors of two models in one collection"):
        _ = mixed | FitHead("label")
    short = blocks_of(vectors[:, :3], labels, 2, None)
    with pytest.raises(Exception, match="FitHead: vectors of 3 and 8 dimensions"):
        _ = [*blocks_of(vectors, labels, 2), *short] | FitHead("label")


def test_an_empty_collection_gives_no_head(new_pipeline: NewPipeline) -> None:
    with new_pipeline() as p:
        none = p | beam.Create([]).with_output_types(Block)
        head = none | FitHead("label")
        assert_that(head, is_empty(), "head")
        assert_that(none | ApplyHead(head), is_empty(), "rows")
    p = new_pipeline()
    head = p | "None" >> beam.Create([]).with_output_types(Block) | FitHead("label")
    p | "Some" >> beam.Create(blocks_of(*corpus(2), 2)) | ApplyHead(head)
    with pytest.raises(Exception, match="ApplyHead: FitHead saw no rows; fit labeled rows"):
        p.run().wait_until_finish()
    unlabeled = blocks_of(corpus(2)[0], [None, None], 2)
    with pytest.raises(
        Exception, match="FitHead: no row has an id, a label in 'label' and a vector"
    ):
        _ = unlabeled | FitHead("label")


def test_wrong_settings_are_refused_before_anything_runs(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    head = fitted()
    vectors = corpus()[0]
    (number,) = [
        {"id": i, "embedding": v, "y": float(v[0])} for i, v in enumerate(vectors)
    ] | FitHead("y", "regression")
    for make, message in (
        (lambda: FitHead("y", "ranking"), "kind 'ranking': choose classification or regression"),
        (lambda: FitHead("y", hidden=-1), "hidden is -1; use 0 for a linear head"),
        (lambda: FitHead("y", path=""), "path is empty; name a folder, or leave it out"),
        (lambda: ApplyHead(5), "head 5: give the output of FitHead"),
        (lambda: ApplyHead(str(tmp_path)), "head.safetensors: no such file; write it by FitHead"),
        (lambda: ApplyHead(head, of="ham"), "of is 'ham'; the head knows 'news', 'spam', 'talk'"),
        (lambda: ApplyHead(number, of="ham"), "with a regression, which has no classes"),
        (lambda: ApplyHead(head, "x", score_column="x"), "two columns the name 'x'"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    windowed = (
        new_pipeline()
        | beam.Create(blocks_of(*corpus(2), 2))
        | beam.WindowInto(beam.window.FixedWindows(5))
    )
    with pytest.raises(InputError, match="FitHead: all labeled rows are fitted at once"):
        windowed | FitHead("label")
    for label, kind, message in (
        ([0.5, 1.5], "classification", 'booleans, or use kind="regression"'),
        (["a", "b"], "regression", 'give numbers, or use kind="classification"'),
        ([[1], [2]], "classification", "convert it to strings, integers or booleans"),
    ):
        with pytest.raises(Exception, match=f"FitHead: column 'label' is .*{message}"):
            _ = blocks_of(vectors[:2], label, 2) | FitHead("label", kind)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(b"something else")
    with pytest.raises(InputError, match="head.safetensors: not a head that FitHead wrote"):
        load_head(str(tmp_path))
    with pytest.raises(InputError, match="none/head.safetensors cannot be read; give the folder"):
        load_head(str(tmp_path / "none"))


def test_a_head_is_applied_without_torch(tmp_path: Path) -> None:
    save_fitted(fitted(), str(tmp_path), "head")
    code = (
        "import sys\n"
        "sys.modules['torch'] = None  # an import fails\n"
        "from beam_gpte import ApplyHead\n"
        f"rows = [{{'id': 1, 'embedding': [1.0] * 8}}] | ApplyHead({str(tmp_path)!r})\n"
        "print(rows[0]['prediction'], 'scipy.optimize' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] in ("news", "spam", "talk")
    assert done.stdout.split()[1] == "False"
