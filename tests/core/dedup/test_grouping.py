"""The three rules agree with loops over rows and sets, whatever the order of ids."""

import random
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.columns import FIRST_ID, SCORE, SECOND_ID
from beam_gpte.core.dedup.grouping import (
    FIRST_ORDER,
    SECOND_ORDER,
    components,
    greedy_leader,
    semdedup,
    spanning_forest,
)

Pairs = list[tuple[int, int, float]]
Decisions = list[tuple[int, int, float | None]]

SCHEMA = {FIRST_ID: pl.Int64, SECOND_ID: pl.Int64, SCORE: pl.Float32}


def frame(pairs: Pairs) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema=SCHEMA, orient="row")


def random_pairs(rows: int, count: int, seed: int) -> tuple[Pairs, list[int]]:
    """Draw pairs, and the ids in a random order of keeping."""
    draw = random.Random(seed)
    order = draw.sample(range(rows), rows)
    places = {tuple(sorted(draw.sample(range(rows), 2))) for _ in range(count)}
    return [(order[a], order[b], draw.choice([0.75, 0.875, 1.0])) for a, b in sorted(places)], order


def leader_loop(pairs: Pairs, order: list[int]) -> Decisions:
    removed: dict[int, tuple[int, int, float | None]] = {}
    for row in order:
        before = [(-score, first) for first, second, score in pairs if second == row]
        kept = [(score, first) for score, first in before if first not in removed]
        if kept:
            removed[row] = (row, min(kept)[1], -min(kept)[0])
    return sorted(removed.values())


def semdedup_loop(pairs: Pairs, order: list[int]) -> Decisions:
    scores = {(first, second): score for first, second, score in pairs}
    nearest: dict[int, int] = {}
    for row in order:
        before = [(-score, first) for first, second, score in pairs if second == row]
        if before:
            nearest[row] = min(before)[1]
    decisions: Decisions = []
    for row in nearest:
        kept = row
        while kept in nearest:
            kept = nearest[kept]
        decisions.append((row, kept, scores.get((kept, row))))
    return sorted(decisions)


def components_loop(pairs: Pairs, rank: Callable[[int], object]) -> Decisions:
    """Decide by `rank`, which orders rows that have none before them."""
    scores = {(first, second): score for first, second, score in pairs}
    group = {row: {row} for pair in scores for row in pair}
    for first, second in scores:
        both = group[first] | group[second]
        group.update(dict.fromkeys(both, both))
    seconds = {second for _, second in scores}
    kept = {row: min(group[row] - seconds, key=rank) for row in group}  # type: ignore[type-var]
    return sorted(
        (row, kept[row], scores.get((kept[row], row))) for row in group if row != kept[row]
    )


graphs = st.builds(random_pairs, st.integers(2, 30), st.integers(0, 80), st.integers(0, 10**6))


@settings(max_examples=150, deadline=None)
@given(graphs)
def test_leaders_are_those_of_the_sequential_rule(graph: tuple[Pairs, list[int]]) -> None:
    pairs, order = graph
    found = greedy_leader(frame(pairs)).rows()
    assert found == leader_loop(pairs, order)
    removed = {row for row, _, _ in found}
    assert not [pair for pair in pairs if not removed & set(pair[:2])]  # no two kept rows are near
    assert {(kept, row, score) for row, kept, score in found} <= set(pairs)
    assert not removed & {kept for _, kept, _ in found}


@settings(max_examples=150, deadline=None)
@given(graphs)
def test_semdedup_removes_rows_near_to_any_row_before(graph: tuple[Pairs, list[int]]) -> None:
    pairs, order = graph
    assert semdedup(frame(pairs)).rows() == semdedup_loop(pairs, order)


@settings(max_examples=150, deadline=None)
@given(graphs, st.booleans())
def test_the_first_row_of_a_component_stays(
    graph: tuple[Pairs, list[int]], descending: bool
) -> None:
    pairs, order = graph
    place = {row: i for i, row in enumerate(order)}
    # two rows share a value, the last ones have none: then ids decide
    sign = -1 if descending else 1
    value = {row: None if i > 20 else sign * (i // 2) for row, i in place.items()}
    orders = {
        name: pl.Series([value[pair[i]] for pair in pairs], dtype=pl.Int64)
        for i, name in enumerate((FIRST_ORDER, SECOND_ORDER))
    }
    found = components(frame(pairs).with_columns(**orders), descending)

    def rank(row: int) -> tuple[bool, int, int]:
        return value[row] is None, abs(value[row] or 0), row

    assert found.rows() == components_loop(pairs, rank)
    assert components(frame(pairs)).rows() == components_loop(pairs, lambda row: row)


@settings(max_examples=150, deadline=None)
@given(graphs, st.integers(1, 5))
def test_forests_of_forests_give_the_same_components(
    graph: tuple[Pairs, list[int]], parts: int
) -> None:
    pairs, order = graph
    forest = pl.concat([spanning_forest(frame(pairs[i::parts])) for i in range(parts)])
    forest = spanning_forest(forest)
    assert len(forest) < len(order)
    decided = components(frame(pairs))["id", "duplicate_of"]
    assert components(forest)["id", "duplicate_of"].equals(decided)


def test_a_star_a_clique_and_a_chain_by_hand() -> None:
    star = frame([(9, leaf, 0.5) for leaf in range(9)])
    clique = frame([(a, b, 0.5) for b in range(9) for a in range(b)])
    for rule in (greedy_leader, components, semdedup):
        assert rule(star).rows() == [(leaf, 9, 0.5) for leaf in range(9)]
        assert rule(clique).rows() == [(row, 0, 0.5) for row in range(1, 9)]
    chain = frame([(1, 2, 0.5), (2, 3, 0.75), (3, 4, 0.5)])
    assert greedy_leader(chain).rows() == [(2, 1, 0.5), (4, 3, 0.5)]
    for rule in (components, semdedup):
        assert rule(chain).rows() == [(2, 1, 0.5), (3, 1, None), (4, 1, None)]


@pytest.mark.parametrize("rule", [greedy_leader, components, semdedup])
def test_a_long_chain_is_followed_to_its_end(rule: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Would take 50,000 rounds over all pairs."""
    ids = np.random.default_rng(0).permutation(100_001)
    scores = np.full(100_000, 0.5, np.float32)
    chain = pl.DataFrame({FIRST_ID: ids[:-1], SECOND_ID: ids[1:], SCORE: scores})
    assert len(rule(chain)) == (50_000 if rule is greedy_leader else 100_000)
    assert spanning_forest(chain).equals(chain)


@pytest.mark.parametrize("rule", [greedy_leader, components, semdedup])
def test_ids_may_be_strings_and_pairs_may_be_none(
    rule: Callable[[pl.DataFrame], pl.DataFrame],
) -> None:
    pairs = pl.DataFrame(
        {FIRST_ID: ["b", "ä"], SECOND_ID: ["ä", "a"], SCORE: [0.5, 0.75]},
        schema_overrides={SCORE: pl.Float32},
    )
    removed = rule(pairs)
    assert removed.schema == {"id": pl.String, "duplicate_of": pl.String, "score": pl.Float32}
    assert removed.row(-1) == ("ä", "b", 0.5)
    assert rule(pairs.clear()).equals(removed.clear())
    assert spanning_forest(pairs.clear()).equals(pairs.clear())
