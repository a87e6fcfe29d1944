"""Heads find what scikit-learn finds, are calibrated, and come back from their file."""

import dataclasses
import json
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.vectors.fit_head import (
    HeadOptions,
    LabeledVectors,
    calibration_error,
    fit_head,
    log_loss,
)
from beam_gpte.core.vectors.head import Head, softmax
from beam_gpte.shuffle.unique_ids import id_hashes
from tests.core.dedup.test_space import unit

METADATA = VectorMetadata("m", "print", "mean", "", 12, True)


def labeled(vectors: np.ndarray, labels: Any) -> LabeledVectors:
    hashes = id_hashes(pa.array(range(len(vectors))))
    return LabeledVectors(vectors, np.asarray(labels), hashes, METADATA)


def three_languages(rows: int, noise: float = 0.8, seed: int = 0) -> LabeledVectors:
    random = np.random.default_rng(seed)
    directions = random.standard_normal((3, 12))
    chosen = random.integers(0, 3, rows)
    vectors = unit(directions[chosen] + noise * random.standard_normal((rows, 12)))
    return labeled(vectors, np.array(["de", "en", "fr"], object)[chosen])


def test_a_linear_head_is_the_logistic_regression_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows = three_languages(600)
    decay = 1e-3
    head = fit_head(rows, "classification", 0, HeadOptions(holdout=0, decay=decay))
    inputs = rows.vectors - rows.vectors.mean(axis=0)
    inputs /= np.sqrt((inputs**2).mean())
    # theirs minimizes C x the sum of losses + half the squares
    theirs = linear_model.LogisticRegression(C=1 / (decay * 600), tol=1e-8, max_iter=1000)
    expected = theirs.fit(inputs, rows.labels.astype(str)).predict_proba(inputs)
    assert head.classes == ("de", "en", "fr")
    assert np.abs(head.probabilities(rows.vectors) - expected).max() < 2e-3


def test_a_linear_regression_is_that_of_the_normal_equations() -> None:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((300, 5)).astype(np.float32)
    labels = vectors @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + 7 + 0.1 * random.standard_normal(300)
    head = fit_head(labeled(vectors, labels), "regression", 0, HeadOptions(holdout=0, decay=0.0))
    design = np.hstack([vectors, np.ones((300, 1))])
    expected = design @ np.linalg.lstsq(design, labels, rcond=None)[0]
    assert head.values(vectors) == pytest.approx(expected, abs=1e-3)


def test_a_hidden_layer_learns_what_no_line_separates() -> None:
    """Whether two coordinates have the same sign."""
    random = np.random.default_rng(2)
    vectors = unit(random.standard_normal((2000, 3)))
    labels = (vectors[:, 0] > 0) == (vectors[:, 1] > 0)
    linear, deep = (
        fit_head(labeled(vectors, labels), "classification", hidden, HeadOptions()).report
        for hidden in (0, 16)
    )
    assert linear["accuracy"] < 0.65
    assert deep["accuracy"] > 0.9


def test_labels_may_be_strings_integers_or_booleans() -> None:
    rows = three_languages(200, 0.2)
    for labels in (
        rows.labels,
        np.array([{"de": 3, "en": 1, "fr": 2}[one] for one in rows.labels]),
        rows.labels == "de",
    ):
        head = fit_head(
            dataclasses.replace(rows, labels=labels), "classification", 0, HeadOptions()
        )
        restored = Head.from_bytes(head.to_bytes())
        assert restored.classes == tuple(sorted(set(labels.tolist())))
        assert [type(one) for one in restored.classes] == [type(one) for one in head.classes]
        predicted = np.array(restored.classes, object)[
            restored.probabilities(rows.vectors).argmax(axis=1)
        ]
        assert (predicted == labels).mean() > 0.98


def test_calibration_makes_a_sure_head_honest() -> None:
    """With almost no decay a head of many numbers and few rows is right less than it says."""
    random = np.random.default_rng(3)
    vectors = random.standard_normal((500, 60)).astype(np.float32)
    chance = 1 / (1 + np.exp(-2 * vectors[:, 0]))
    labels = random.random(500) < chance
    options = HeadOptions(holdout=0.5, decay=1e-6)
    report = fit_head(labeled(vectors, labels), "classification", 0, options).report
    assert report["calibration_error"] < 0.5 * report["calibration_error_before"]
    assert report["log_loss"] < report["log_loss_before"]


def test_a_balanced_head_finds_a_rare_class() -> None:
    random = np.random.default_rng(4)
    rare = np.arange(3000) % 30 == 0
    vectors = random.standard_normal((3000, 4)).astype(np.float32)
    vectors[rare, 0] += 2
    rows = labeled(vectors, np.where(rare, "bad", "good").astype(object))
    plain, balanced = (
        fit_head(rows, "classification", 0, HeadOptions(balanced=one)) for one in (False, True)
    )
    assert balanced.report["balanced_accuracy"] > plain.report["balanced_accuracy"] + 0.1
    assert plain.report["accuracy"] >= balanced.report["accuracy"]
    # as the rows are, one in 30 is bad; balanced, as if every second was
    assert plain.probabilities(vectors)[:, 0].mean() == pytest.approx(1 / 30, abs=0.02)


def test_the_decay_is_chosen_by_rows_that_are_not_fitted() -> None:
    random = np.random.default_rng(5)
    vectors = random.standard_normal((400, 100)).astype(np.float32)
    noise = labeled(vectors, random.random(400) < 0.5)
    assert fit_head(noise, "classification", 0, HeadOptions()).report["decay"] == 1e-2


def test_log_loss_and_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    targets = np.array([0, 1, 1, 1])
    expected = -(np.log(0.9) + np.log(0.1) + np.log(0.6) + np.log(0.8)) / 4
    assert log_loss(probabilities, targets) == pytest.approx(expected)
    # two rows at 0.9, one of which is right; one each at 0.6 and 0.8
    gap = (abs(1.8 - 1) + abs(0.6 - 1) + abs(0.8 - 1)) / 4
    assert calibration_error(probabilities, targets) == pytest.approx(gap)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 40),
    st.integers(1, 6),
    st.sampled_from(["classification", "regression"]),
    st.sampled_from([0, 3]),
    st.integers(0, 99),
)
def test_odd_rows_are_fitted_too(rows: int, dim: int, kind: str, hidden: int, seed: int) -> None:
    """Few, equal, or with a class of one row."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((random.integers(1, rows + 1), dim)).astype(np.float32)
    vectors = vectors[random.integers(0, len(vectors), rows)]
    labels: Any = random.integers(0, 3, rows)
    if kind == "regression":
        labels = labels.astype(float)
    else:
        labels[:2] = [0, 1]
    head = fit_head(labeled(vectors, labels), kind, hidden, HeadOptions())
    head.check()
    restored = Head.from_bytes(head.to_bytes())
    if kind == "regression":
        assert np.isfinite(head.values(vectors)).all()
        np.testing.assert_array_equal(restored.values(vectors), head.values(vectors))
    else:
        found = head.probabilities(vectors)
        assert found.sum(axis=1) == pytest.approx(np.ones(rows), abs=1e-5)
        np.testing.assert_array_equal(restored.probabilities(vectors), found)
    assert restored.report == head.report
    assert restored.metadata == METADATA


def test_what_cannot_be_fitted_is_refused_with_a_repair() -> None:
    rows = three_languages(20)
    one = dataclasses.replace(rows, labels=np.array(["de"] * 20, object))
    many = dataclasses.replace(three_languages(1200), labels=np.arange(1200))
    for wrong, message in (
        (one, "all labels are 'de'; a classification needs two or more"),
        (many, '1200 different labels, such as 0; use at most 1000, or kind="regression"'),
        (rows.take(np.array([0])), "1 labeled rows; give 2 or more"),
    ):
        with pytest.raises(InputError, match=message):
            fit_head(wrong, "classification", 0, HeadOptions())
    for given_options, message in (
        ({"holdout": 1.0}, "holdout is 1.0; use a share from 0 to 0.9"),
        ({"max_rows": 1}, "max_rows is 1; use 2 or more"),
        ({"decay": -1.0}, "decay is -1.0; use 0 or more, or None"),
    ):
        with pytest.raises(InputError, match=message):
            HeadOptions(**given_options)


def file_of(head: Head, bias: np.ndarray | None = None, **changes: Any) -> bytes:
    """The file of a linear head, with other biases or another description."""
    weights, known = head.layers[0]
    tensors = {"layer1.weight": weights, "layer1.bias": known if bias is None else bias}
    return save(tensors, {"head": json.dumps({**head.description(), **changes})})


def test_a_file_that_is_not_a_head_is_refused() -> None:
    head = fit_head(three_languages(50), "classification", 0, HeadOptions())
    data = head.to_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    assert Head.from_bytes(file_of(head)).report == head.report
    for wrong in (
        b"",
        b"something else",
        data[: 8 + size],
        save({"layer1.bias": head.layers[0][1]}),
        file_of(head, layers=2),
        file_of(head, layers=0),
        file_of(head, classes=["de"]),
        file_of(head, kind="other"),
        file_of(head, kind="regression"),
        file_of(head, scale=None),
        file_of(head, report=None),
        file_of(head, np.full(3, np.nan, np.float32)),
        file_of(head, np.zeros((3, 1), np.float32)),
    ):
        with pytest.raises(InputError, match="not a head that FitHead wrote"):
            Head.from_bytes(wrong)
    with pytest.raises(InputError, match="the head: format 99 is of a later version"):
        Head.from_bytes(file_of(head, format=99))


def test_a_row_has_the_same_prediction_alone() -> None:
    head = fit_head(three_languages(200), "classification", 8, HeadOptions())
    vectors = three_languages(300, seed=9).vectors
    together = head.probabilities(vectors)
    alone = np.concatenate([head.probabilities(vectors[i : i + 1]) for i in range(300)])
    np.testing.assert_array_equal(together, alone)


def test_no_rows_have_no_predictions() -> None:
    head = fit_head(three_languages(50), "classification", 0, HeadOptions())
    assert head.probabilities(np.zeros((0, 12), np.float32)).shape == (0, 3)
    assert softmax(np.array([[1000.0, 0.0]])).tolist() == [[1.0, 0.0]]
