"""Postprocessing: one fit of the whole corpus, checked against numpy on the full matrix."""

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, InputError, TextEncoder, WriteVectorsToParquet
from beam_gpte.cli.runtime import counters
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.vectors.postprocess import METHODS, Moments, fit
from beam_gpte.embedding.postprocess import (
    ApplyPostprocess,
    FitPostprocess,
    load_postprocess,
    postprocessed,
    save_postprocess,
)
from tests.conftest import MODES
from tests.embedding.test_quantize_vectors import UNIT, unit_vectors, vector_block


def cone(n: int = 200, dim: int = 6, seed: int = 0) -> np.ndarray:
    """Make unit vectors that share a direction, with another variance along every axis."""
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((n, dim)) * np.arange(1, dim + 1) + 4).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def mean_cosine(vectors: np.ndarray) -> float:
    total = vectors.sum(axis=0, dtype=np.float64)
    return (total @ total - len(vectors)) / (len(vectors) * (len(vectors) - 1))


def moments_of(vectors: np.ndarray, groups: list[str] | None = None) -> Moments:
    moments = Moments()
    moments.add(vectors, groups, second=True)
    return moments


def grouped_block(vectors: np.ndarray, groups: list, start: int = 0) -> Block:
    block = vector_block(vectors, start=start)
    return block.with_column(pa.field("language", pa.string()), pa.array(groups, pa.string()))


def by_numpy(vectors: np.ndarray, method: str, k: int) -> np.ndarray:
    """Apply the definition to the whole matrix, by singular values."""
    around = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, singular, axes = np.linalg.svd(around, full_matrices=False)
    if method == "center":
        return unit(around)
    if method == "all_but_the_top":
        return unit(around - around @ axes[:k].T @ axes[:k])
    return unit(around @ axes[:k].T / singular[:k])


def test_centering_by_hand() -> None:
    # the mean of (1, 0) and (0, 1) is (1/2, 1/2), and what is left points either way
    fitted = fit(moments_of(np.eye(2, dtype=np.float32)), "center")
    half = np.float32(np.sqrt(0.5))
    assert fitted.apply(np.eye(2)).tolist() == [[half, -half], [-half, half]]
    assert fitted.apply(np.array([[0.5, 0.5]])).tolist() == [
        [0, 0]
    ]  # the mean itself has no direction


@pytest.mark.parametrize(
    ("method", "k"), [("center", None), ("all_but_the_top", 2), ("whiten", None), ("whiten", 3)]
)
def test_every_method_is_what_numpy_gives_on_the_full_matrix(method: str, k: int | None) -> None:
    vectors = cone()
    parts = [moments_of(part) for part in np.array_split(vectors, 7)]
    merged = Moments()
    for part in parts:
        merged.merge(part)
    found, expected = fit(merged, method, k).apply(vectors), by_numpy(vectors, method, k or 6)
    assert np.abs(found @ found.T - expected @ expected.T).max() < 1e-5  # up to the sign of an axis
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(200), abs=1e-6)


def test_whitened_dimensions_are_uncorrelated_and_equal() -> None:
    vectors = cone()
    fitted = fit(moments_of(vectors), "whiten")
    white = (vectors - fitted.means) @ fitted.matrix
    assert np.abs(white.T @ white / 200 - np.eye(6)).max() < 1e-6


def test_a_dimension_that_is_always_zero_stays_so() -> None:
    vectors = np.hstack([cone(dim=5), np.zeros((200, 1), np.float32)])
    fitted = fit(moments_of(vectors), "whiten")
    assert np.isfinite(fitted.matrix).all()
    assert np.abs(fitted.apply(vectors)[:, 5]).max() == 0


def test_each_group_has_a_mean_and_shares_the_rest() -> None:
    vectors = cone(100)
    groups = ["de", "en", "en", "fr"] * 25
    around = vectors.astype(np.float64)
    for name in set(groups):
        where = np.array(groups) == name
        around[where] -= around[where].mean(axis=0)
    found = fit(moments_of(vectors, groups), "center").apply(vectors, groups)
    assert np.abs(found - unit(around)).max() < 1e-6
    white = fit(moments_of(vectors, groups), "whiten")
    assert white.groups == ("de", "en", "fr")
    assert white.counts == (25, 50, 25)
    means = white.means[[white.groups.index(name) for name in groups]]
    both = (vectors - means) @ white.matrix
    assert np.abs(both.T @ both / 100 - np.eye(6)).max() < 1e-6


def test_the_fit_is_the_same_in_any_order() -> None:
    vectors = cone(500)
    rng = np.random.default_rng(1)
    for method in METHODS:
        fits = []
        for parts in (1, 5, 90):
            merged = Moments()
            for part in np.array_split(vectors[rng.permutation(500)], parts):
                merged.merge(moments_of(part))
            fits.append(fit(merged, method))
        assert len({one.fingerprint for one in fits}) == 1
        assert max(np.abs(one.apply(vectors) - fits[0].apply(vectors)).max() for one in fits) < 1e-6


def test_a_fit_survives_its_file_and_pickle(tmp_path: Path) -> None:
    for groups in (None, ["a", "ü"] * 100):
        for method in METHODS:
            fitted = fit(moments_of(cone(), groups), method)
            save_postprocess(fitted, f"{tmp_path}/fit.npz")
            for restored in (
                load_postprocess(f"{tmp_path}/fit.npz"),
                pickle.loads(pickle.dumps(fitted)),
            ):
                assert restored.fingerprint == fitted.fingerprint
                assert restored.description == fitted.description
                assert np.array_equal(restored.apply(cone(), groups), fitted.apply(cone(), groups))
    assert [path.name for path in tmp_path.iterdir()] == ["fit.npz"]
    (tmp_path / "other.npz").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"other.npz: not a file that FitPostprocess wrote"):
        load_postprocess(f"{tmp_path}/other.npz")


def test_every_fit_has_another_fingerprint() -> None:
    vectors = cone()
    fits = [
        fit(moments_of(vectors), *args)
        for args in (("center",), ("whiten",), ("whiten", 3), ("all_but_the_top", 3))
    ]
    fits += [
        fit(moments_of(vectors[1:]), "center"),
        fit(moments_of(vectors, ["a"] * 200), "center"),
    ]
    assert len({one.fingerprint for one in fits}) == 6


def test_what_is_no_number_is_neither_fitted_nor_corrected() -> None:
    vectors = cone()
    fitted = fit(moments_of(vectors), "center")
    vectors[3, 2] = np.nan
    with pytest.raises(InputError, match="a vector has a value that is not finite"):
        fit(moments_of(vectors), "center")
    with pytest.raises(InputError, match="vector 3 has a value that is not finite"):
        fitted.apply(vectors)


def test_large_vectors_are_corrected_as_small_ones_are() -> None:
    """Squares of values above 1e19 overflow float32."""
    small, large = (np.array([[1.0, 0.0], [0.0, 1.0]], np.float32) * size for size in (1, 1e25))
    found = [fit(moments_of(each), "center").apply(each) for each in (small, large)]
    assert np.abs(found[0] - found[1]).max() < 1e-6


def test_what_cannot_be_fitted_is_refused_with_a_repair() -> None:
    few = moments_of(cone(6))
    with pytest.raises(
        InputError,
        match="whiten with 6 components needs more vectors than 6; give fewer components",
    ):
        fit(few, "whiten")
    assert fit(few, "whiten", 5).dim == 5
    with pytest.raises(InputError, match="components 7: the vectors have 6 dimensions"):
        fit(moments_of(cone()), "whiten", 7)
    with pytest.raises(InputError, match="vectors of 6 and 5 dimensions in one corpus"):
        few.merge(moments_of(cone(dim=5)))
    with pytest.raises(
        InputError, match="vectors of 5 dimensions, but the corpus was fitted with 6"
    ):
        fit(few, "center").apply(cone(dim=5))
    with pytest.raises(InputError, match="fitted without groups; leave the group column out"):
        fit(few, "center").apply(cone(2), ["a", "b"])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["center", "whiten"])
def test_one_pipeline_fits_applies_and_records_it(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path, mode: str, method: str
) -> None:
    vectors = cone(60)
    with new_pipeline(mode) as p:
        blocks = (
            p
            | beam.Create([vector_block(vectors[i : i + 7], start=i) for i in range(0, 60, 7)])
            | beam.Reshuffle()
        )
        fitted = blocks | FitPostprocess(method, path=f"{tmp_path}/fit.npz")
        blocks | ApplyPostprocess(fitted) | WriteVectorsToParquet(f"{tmp_path}/out")
    table = pa.concat_tables(
        [pq.read_table(path) for path in (tmp_path / "out").glob("*.parquet")]
    ).sort_by("id")
    expected = fit(moments_of(vectors), method)
    found = np.array(table.column("embedding").to_pylist())
    assert np.abs(found - expected.apply(vectors)).max() < 1e-6
    metadata = vector_metadata(table.schema.field("embedding"))
    assert metadata == dataclasses.replace(postprocessed(UNIT, expected), dim=6)
    assert metadata.postprocess == {"center": "center", "whiten": "whiten 6"}[method]
    assert load_postprocess(f"{tmp_path}/fit.npz").fingerprint == expected.fingerprint


def test_a_second_corpus_and_rows_use_the_same_fit(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    fitted = fit(moments_of(cone()), "center")
    save_postprocess(fitted, f"{tmp_path}/fit.npz")
    rows = [{"id": i, "embedding": vector} for i, vector in enumerate(unit_vectors(3, 6))]
    for postprocess in (fitted, f"{tmp_path}/fit.npz"):
        with new_pipeline() as p:
            found = (
                p
                | beam.Create(rows)
                | ApplyPostprocess(postprocess)
                | beam.Map(lambda row: row["embedding"].tolist())
            )
            assert_that(found, equal_to(fitted.apply(unit_vectors(3, 6)).tolist()))


def test_rows_are_fitted_by_one_of_their_columns(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    rows = [
        {"id": i, "embedding": v.tolist(), "lang": "ab"[i % 2], "x": {1}}
        for i, v in enumerate(cone(10))
    ]
    expected = fit(moments_of(cone(10), list("ab" * 5)), "center").apply(cone(10), list("ab" * 5))
    with new_pipeline() as p:
        corpus = p | beam.Create(rows)
        fitted = corpus | FitPostprocess("center", group_column="lang")
        found = corpus | ApplyPostprocess(fitted, group_column="lang")
        shown = found | beam.Map(
            lambda row: (row["id"], row["lang"], row["x"], np.round(row["embedding"], 4).tolist())
        )
        wanted = [(i, "ab"[i % 2], {1}, np.round(v, 4).tolist()) for i, v in enumerate(expected)]
        assert_that(shown, equal_to(wanted))


def test_a_row_that_cannot_be_corrected_costs_one_row(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    fitted = fit(moments_of(cone(), ["de", "en"] * 100), "center")
    vectors = np.concatenate([cone(3), fitted.means[:1].astype(np.float32)])
    languages = ["de", "fr", None, "de"]
    rows = [
        {"id": i, "embedding": vectors[i], "lang": language} for i, language in enumerate(languages)
    ]
    rows.append({"id": 4, "embedding": None, "lang": "de"})
    with new_pipeline() as p:
        good, bad = (
            p | beam.Create(rows) | ApplyPostprocess(fitted, "lang").with_exception_handling()
        )
        assert_that(good | beam.Map(lambda row: row["id"]), equal_to([0]), "good")
        expected = [
            (1, "lang was not in the corpus that was fitted: fr"),
            (2, "lang is null"),
            (3, "embedding is the mean of the corpus and has no direction"),
            (4, "embedding is null"),
        ]
        assert_that(
            bad | beam.Map(lambda row: (row["id"], row["reject_reason"])), equal_to(expected), "bad"
        )
    with pytest.raises(Exception, match="row with id 1: lang was not in"), new_pipeline() as p:
        p | beam.Create(rows) | ApplyPostprocess(fitted, "lang")
    with (
        pytest.raises(Exception, match="fitted by group; name the group column"),
        new_pipeline() as p,
    ):
        p | beam.Create(rows[:1]) | ApplyPostprocess(fitted)


def test_rows_without_a_vector_are_left_out_of_the_fit_and_counted(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    block = grouped_block(cone(4), ["a", None, "a", "a"])
    p = new_pipeline()
    fitted = p | beam.Create([block]) | FitPostprocess("center", group_column="language")
    assert_that(fitted | beam.Map(lambda one: (one.groups, one.counts)), equal_to([(("a",), (3,))]))
    assert counters(p.run())["vectors_not_fitted"] == 1


def test_an_empty_corpus_and_a_stream(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    with new_pipeline() as p:
        nothing = p | beam.Create([]).with_output_types(Block)
        fitted = nothing | FitPostprocess("whiten")
        assert_that(fitted, equal_to([]), "no fit")
        assert_that(nothing | ApplyPostprocess(fitted), equal_to([]), "nothing")
    p = new_pipeline()
    fitted = p | "None" >> beam.Create([]).with_output_types(Block) | FitPostprocess("whiten")
    p | "Some" >> beam.Create([vector_block(cone(2))]) | ApplyPostprocess(fitted)
    with pytest.raises(Exception, match="ApplyPostprocess: FitPostprocess saw no vectors"):
        p.run().wait_until_finish()
    windowed = (
        new_pipeline()
        | beam.Create([vector_block(cone(2))])
        | beam.WindowInto(beam.window.FixedWindows(5))
    )
    with pytest.raises(InputError, match="fit a sample in a batch job with path"):
        windowed | FitPostprocess("center")


def test_wrong_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method 'pca': choose center, all_but_the_top or whiten"):
        FitPostprocess("pca")
    with pytest.raises(InputError, match="components with method 'center'"):
        FitPostprocess("center", 3)
    with pytest.raises(InputError, match="components 0: give a positive whole number"):
        FitPostprocess("whiten", 0)
    with pytest.raises(InputError, match="no such file; write it by FitPostprocess"):
        ApplyPostprocess(f"{tmp_path}/none.npz")
    with pytest.raises(InputError, match="postprocess 5: give the output of FitPostprocess"):
        ApplyPostprocess(5)


def test_real_vectors_leave_their_cone(encoder: TextEncoder, data: Path) -> None:
    """German sentences share a direction, English ones another; without them translations match."""
    sides = {}
    for language in ("deu", "eng"):
        lines = (
            (data / "tatoeba" / f"tatoeba.deu-eng.{language}")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        sides[language] = encoder.encode(lines[:200])
    german, english = sides.values()
    assert mean_cosine(german) > 0.3
    groups = ["de"] * 200 + ["en"] * 200
    fitted = fit(moments_of(np.concatenate([german, english]), groups), "center")
    after = fitted.apply(german, ["de"] * 200), fitted.apply(english, ["en"] * 200)
    assert abs(mean_cosine(after[0])) < 0.01

    def found(german: np.ndarray, english: np.ndarray) -> float:
        return np.mean(np.argmax(german @ english.T, axis=1) == np.arange(200))

    assert found(*after) > 1.3 * found(german, english)
