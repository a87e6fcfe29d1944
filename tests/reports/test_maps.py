"""Maps: near vectors are near, the same vectors lie in the same places, regions have names."""

import numpy as np
import pytest

from beam_gpte.reports.maps import (
    ELSEWHERE,
    REGION,
    find_regions,
    name_regions,
    positions,
    vector_map,
)

TOPICS = (
    ("the cat sat on the warm sofa", "a cat sleeps", "cat and kitten"),
    ("stocks fell on monday", "stocks and bonds rose", "the price of stocks"),
    ("rain in the north", "rain and snow", "heavy rain fell"),
)


def clusters(rows: int = 90, dim: int = 32) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Three well separated groups of vectors, their numbers, and texts of one topic each."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(3, dim)) * 3
    group = np.arange(rows) % 3
    vectors = centers[group] + random.normal(size=(rows, dim)) * 0.3
    texts = [TOPICS[g][i // 3 % 3] for i, g in enumerate(group)]
    return vectors, group, texts


def test_near_vectors_are_near_on_the_map() -> None:
    vectors, group, _ = clusters()
    xy = positions(vectors)
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(axis=1)] == group).all()
    same = group[:, None] == group[None]
    assert distances[same & np.isfinite(distances)].max() < distances[~same].min()


def test_equal_vectors_are_laid_out_equally_whatever_ran_before() -> None:
    vectors, *_ = clusters()
    first = positions(vectors)
    np.random.default_rng(1).normal(size=10)
    np.random.seed(7)
    assert (positions(vectors.copy()) == first).all()
    assert (positions(vectors.astype(np.float32).astype(np.float64)) - first).shape == (90, 2)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9])
def test_few_and_equal_vectors_have_places_too(rows: int) -> None:
    for vectors in (np.eye(rows, 4), np.ones((rows, 4)), np.zeros((rows, 1))):
        xy = positions(vectors)
        assert xy.shape == (rows, 2)
        assert np.isfinite(xy).all()
    chart = vector_map(np.eye(rows, 4), range(rows), ["a"] * rows, {"n": [1] * rows})
    assert len(chart.data()["x"]) == rows


def test_regions_are_named_by_the_words_frequent_in_them() -> None:
    vectors, group, texts = clusters()
    regions = find_regions(positions(vectors))
    names = np.array(name_regions(regions, texts))
    inside = regions >= 0
    assert inside.mean() > 0.8
    for number, word in enumerate(("cat", "stocks", "rain")):
        (name,) = set(names[inside & (group == number)])
        assert name.split(", ")[0] == word
    assert set(names[~inside]) <= {ELSEWHERE}


def test_regions_without_words_are_numbered_and_few_points_have_none() -> None:
    assert name_regions(np.array([0, 1, -1]), ["1 2", "...", ""]) == [
        "region 1",
        "region 2",
        ELSEWHERE,
    ]
    chart = vector_map(np.eye(4), "abcd", ["one"] * 4, {"n": [1, 2, None, np.nan]})
    assert REGION not in chart.columns
    (column,) = chart.data()["columns"]
    assert column == {"name": "n", "kind": "number", "values": [1.0, 2.0, None, None]}


def test_a_column_colors_points_if_it_has_few_names() -> None:
    columns = {"few": ["a", None, True], "many": [f"v{i}" for i in range(3)], "whole": [1, 2, 3]}
    found = vector_map(np.eye(3), "abc", "xyz", columns).data()["columns"]
    assert [(one["name"], one["kind"]) for one in found] == [
        ("few", "names"),
        ("many", "names"),
        ("whole", "number"),
    ]
    assert found[0]["values"] == ["a", "–", "yes"]
    rows = 100
    many = {"id": [f"v{i}" for i in range(rows)]}
    chart = vector_map(
        np.random.default_rng(0).normal(size=(rows, 4)), range(rows), ["t"] * rows, many
    )
    assert chart.data()["columns"][-1]["kind"] == "words"
