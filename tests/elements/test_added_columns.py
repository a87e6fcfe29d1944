"""Columns that are there already are refused, and added ones get the names that users want."""

from collections.abc import Callable
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    Block,
    ChunkText,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateStream,
    EmbedImages,
    EmbedSparse,
    EmbedText,
    EmbedTokens,
    FilterPairs,
    IdentifyLanguage,
    InputError,
    Rerank,
    RerankTokens,
    ScoreBitext,
    ScoreTranslations,
    SplitSentences,
)
from tests.examples import LengthEncoder

NewPipeline = Callable[..., beam.Pipeline]


class Scored(NamedTuple):
    id: int
    text: str
    score: float


class Open(NamedTuple):
    id: int
    text: str
    language: str | None
    language_score: float | None


TEXT = {"id": 1, "text": "Das ist ein Satz."}
# of each transform, our name of each column that it adds
ADDED: list[tuple[Any, tuple[str, ...]]] = [
    (DeduplicateExact(), ("duplicate_of", "score", "found_by")),
    (DeduplicateLexical(), ("duplicate_of", "score", "found_by")),
    (Deduplicate((DeduplicateExact(),)), ("duplicate_of", "score", "found_by")),
    (DeduplicateStream(), ("duplicate_of", "score")),
    (IdentifyLanguage(), ("language", "language_score")),
    (SplitSentences("de"), ("parent_id", "chunk_index", "chunk_start", "chunk_end")),
    (ChunkText("sentences", 40), ("parent_id", "chunk_index", "chunk_start", "chunk_end")),
    (EmbedText(LengthEncoder(), token_columns=True), ("embedding", "tokens", "tokens_dropped")),
    (EmbedSparse("some/model"), ("sparse_indices", "sparse_values")),
    (FilterPairs(), ("score", "rank", "margin", "reject_reason")),
    (ScoreBitext(), ("margin", "cosine", "forward_rank", "posterior", "length_ratio")),
    (EmbedImages("some/model", "text"), ("embedding",)),
    (EmbedTokens("some/model"), ("token_embeddings",)),
    (Rerank("some/model"), ("rerank_score",)),
    (RerankTokens(), ("rerank_score",)),
    (ScoreTranslations("some/model"), ("quality",)),
]
CASES = [(transform, name) for transform, names in ADDED for name in names]
OF_PAIRS = FilterPairs | ScoreBitext | ScoreTranslations | Rerank | RerankTokens
ON_ROWS = [case for case in CASES if not isinstance(case[0], OF_PAIRS)]


def label(value: Any) -> str:
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("transform", "name"), CASES, ids=label)
def test_a_column_that_is_there_is_named_with_the_repair(transform: Any, name: str) -> None:
    with pytest.raises(InputError) as refused:
        transform.added().check(["id", name])
    step = type(transform).__name__
    assert str(refused.value) == (
        f"{step}: a column {name!r} is there already; name the added one by "
        f'rename={{"{name}": "..."}}'
    )
    transform.rename = {name: "another"}
    transform.added().check(["id", name])
    with pytest.raises(InputError, match="a column 'another' is there already"):
        transform.added().check(["another"])
    transform.rename = {}


@pytest.mark.sampled(24)
@pytest.mark.parametrize("kind", ["mappings", "rows", "table", "blocks"])
@pytest.mark.parametrize(("transform", "name"), ON_ROWS, ids=label)
def test_rows_of_any_kind_that_have_it_fail_the_job_even_with_exception_handling(
    new_pipeline: NewPipeline, transform: Any, name: str, kind: str
) -> None:
    row = {**TEXT, "embedding": [1.0, 0.0], name: 7}
    if kind == "rows":
        rows: list[Any] = [beam.Row(**row)]
    else:
        table = pa.Table.from_pylist([row])
        rows = {"mappings": [row], "table": [table], "blocks": [Block.from_table(table)]}[kind]
    with (
        pytest.raises(Exception, match=f"a column '.*{name}.* is there already"),
        new_pipeline() as p,
    ):
        _ = p | beam.Create(rows) | transform.with_exception_handling()


def test_a_type_that_tells_its_fields_is_refused_while_the_graph_is_built() -> None:
    p = beam.Pipeline()
    rows = p | beam.Create([Scored(1, "a", 0.5)]).with_output_types(Scored)
    with pytest.raises(InputError, match="a column 'score' is there already"):
        _ = rows | DeduplicateExact()
    row = p | "Rows" >> beam.Create([0]) | beam.Select(id=lambda i: i, text=str, language=str)
    with pytest.raises(InputError, match="a column 'language' is there already"):
        _ = row | IdentifyLanguage()


def test_a_field_that_may_be_none_is_filled_in(new_pipeline: NewPipeline) -> None:
    with new_pipeline() as p:
        rows = p | beam.Create([Open(1, "Das ist ein Satz.", None, None)]).with_output_types(Open)
        languages = rows | IdentifyLanguage() | beam.Map(lambda row: row.language)
        assert_that(languages, equal_to(["de"]))


def test_the_second_of_two_equal_steps_is_refused(new_pipeline: NewPipeline) -> None:
    with pytest.raises(Exception, match='rename={"language": ".*"'), new_pipeline() as p:
        _ = p | beam.Create([TEXT]) | IdentifyLanguage() | "Again" >> IdentifyLanguage()


def test_the_users_column_stays_beside_the_added_one(new_pipeline: NewPipeline) -> None:
    rows = [{"id": i, "text": "a b c d e f", "score": i, "found_by": "me"} for i in (7, 8, 9)]
    rename = {"score": "similarity", "found_by": "step", "duplicate_of": "of"}
    steps = (DeduplicateExact(keep="score desc"), DeduplicateLexical(keep="score desc"))
    with new_pipeline() as p:
        result = p | beam.Create(rows) | Deduplicate(steps, rename=rename)
        added = {"of": 9, "similarity": 1.0, "step": "exact"}
        assert_that(result.kept, equal_to([rows[2]]), "Kept")
        assert_that(result.removed, equal_to([{**row, **added} for row in rows[:2]]), "Removed")


def test_a_later_step_repoints_renamed_columns(new_pipeline: NewPipeline) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    rows = [
        {"id": i, "text": t, "n": n} for i, t, n in ((1, text, 2), (2, text, 3), (3, text + "!", 9))
    ]
    steps = (DeduplicateExact(), DeduplicateLexical(keep="n desc"))
    with new_pipeline() as p:
        removed = (p | beam.Create(rows) | Deduplicate(steps, rename={"score": "s"})).removed
        found = removed | beam.Map(lambda row: (row["id"], row["duplicate_of"], row["s"] is None))
        assert_that(found, equal_to([(1, 3, False), (2, 3, True)]))


def test_chunks_of_rows_get_the_names(new_pipeline: NewPipeline) -> None:
    rename = {"parent_id": "page", "chunk_index": "n"}
    with new_pipeline() as p:
        parts = p | beam.Create([{"id": 3, "text": "Eins. Zwei.", "chunk_index": "mine"}])
        parts = parts | SplitSentences("de", rename=rename)
        read = parts | beam.Map(lambda row: [row[k] for k in ("id", "page", "n", "chunk_index")])
        assert_that(read, equal_to([["3#0", 3, 0, "mine"], ["3#1", 3, 1, "mine"]]))


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (
            {"margin": "m"},
            "rename has 'margin'; DeduplicateExact adds duplicate_of, score, found_by",
        ),
        ({"score": "found_by"}, "rename gives two columns the name 'found_by'"),
        ({"score": ""}, "rename gives 'score' the name ''"),
        ({"score": "__gpte_x"}, "rename gives 'score' the name '__gpte_x'"),
        ("score", "rename is 'score'; use a mapping"),
    ],
)
def test_new_names_are_checked_at_once(rename: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeduplicateExact(rename=rename)


def test_steps_of_several_leave_names_to_the_whole() -> None:
    with pytest.raises(InputError, match="DeduplicateExact has a rename; give it to Deduplicate"):
        Deduplicate((DeduplicateExact(rename={"score": "s"}),))


@pytest.mark.parametrize("name", ["reject_step", "reject_reason"])
def test_columns_of_rejects_are_refused_where_rows_may_be_rejected(
    new_pipeline: NewPipeline, name: str
) -> None:
    rows = [{**TEXT, name: "mine"}]
    with new_pipeline() as p:
        assert_that((p | beam.Create(rows) | DeduplicateExact()).kept, equal_to(rows))
    with pytest.raises(Exception, match=f"a column '{name}' is there already"), new_pipeline() as p:
        _ = p | beam.Create(rows) | DeduplicateExact().with_exception_handling()
