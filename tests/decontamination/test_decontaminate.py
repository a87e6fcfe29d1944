"""Items of benchmarks are found in documents by words and by meaning, and removed."""

import random
import re
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, cast

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block, Columns, Contamination, Decontaminate, InputError
from beam_gpte.core.text.passages import passages_of
from beam_gpte.decontamination import findings
from beam_gpte.decontamination.decide import cut_spans
from tests.examples import BagEncoder, keep, kept

NewPipeline = Callable[..., beam.Pipeline]
Rows = list[dict[str, Any]]

COPY = "the quick brown fox jumps over the lazy dog that sleeps near an old wooden fence"
MIXED = "near an old wooden fence sleeps the lazy dog that the quick brown fox jumps over"
SHORT = "a cat sat on one mat"
ITEMS: Rows = [
    {"id": "fox", "text": COPY, "benchmark": "animals"},
    {"id": "cat", "text": SHORT, "benchmark": "animals"},
    {
        "id": "cat",
        "text": "bread is baked at two hundred degrees for one hour",
        "benchmark": "food",
    },
    {
        "id": "soup",
        "text": "soup is cooked slowly with seven sorts of fresh beans",
        "benchmark": "food",
    },
]


def clean_text(number: int) -> str:
    words = random.Random(number)
    return " ".join(
        " ".join(f"word{words.randrange(4000)}" for _ in range(9)).capitalize() + "."
        for _ in range(3)
    )


CLEAN: Rows = [{"id": f"clean{i}", "text": clean_text(i)} for i in range(60)]
DIRTY: Rows = [
    {"id": "copied", "text": f"{clean_text(100)} {COPY.upper()}! {clean_text(101)}"},
    {"id": "mixed", "text": f"{clean_text(102)} {MIXED.capitalize()}. {clean_text(103)}"},
    {"id": "cats", "text": f"One cat sat on a mat. {clean_text(104)}"},
    {"id": "whole", "text": "Bread is baked at two hundred degrees, for one hour"},
]


def outputs(
    new_pipeline: NewPipeline,
    transform: Decontaminate,
    corpus: list,
    benchmarks: list,
    mode: str = "in memory",
    clean: list | None = None,
) -> dict[str, Any]:
    """Return the elements of every output by its name."""
    with TemporaryDirectory() as folder:
        p = new_pipeline(mode)
        given = {"corpus": corpus, "benchmarks": benchmarks, "clean": clean}
        inputs = {
            name: p | name >> beam.Create(rows) for name, rows in given.items() if rows is not None
        }
        result = (inputs | transform)._asdict()
        for name, output in result.items():
            output | f"keep {name}" >> beam.Map(keep, folder, name)
        p.run().wait_until_finish()
        return {name: kept(folder, name) for name in result}


def findings_of(matches: Rows) -> list[tuple]:
    names = ("document_id", "benchmark", "item_id", "found_by", "start", "end")
    return sorted(tuple(row[name] for name in names) for row in matches)


def test_copies_are_found_by_words_and_paraphrases_by_meaning(new_pipeline: NewPipeline) -> None:
    found = outputs(new_pipeline, Decontaminate(BagEncoder()), CLEAN + DIRTY, ITEMS)
    assert {(row["document_id"], row["item_id"], row["found_by"]) for row in found["matches"]} == {
        ("copied", "fox", "ngram"),
        ("copied", "fox", "meaning"),
        ("mixed", "fox", "meaning"),
        ("cats", "cat", "meaning"),
        ("whole", "cat", "ngram"),
        ("whole", "cat", "meaning"),
    }
    assert sorted(row["id"] for row in found["kept"]) == sorted(row["id"] for row in CLEAN)
    assert found["rejects"] == []
    texts = {row["id"]: row["text"] for row in DIRTY}
    for row in found["matches"]:
        assert row["passage"] == texts[row["document_id"]][row["start"] : row["end"]]
    removed = {row["id"]: row for row in found["removed"]}
    assert removed["copied"]["found_by"] == "ngram"
    assert removed["copied"]["score"] == 1
    assert removed["copied"]["text"][removed["copied"]["start"] :].startswith(COPY.upper())
    assert removed["whole"]["benchmark"] == "food"
    assert removed["mixed"]["score"] > 0.9


def test_the_report_has_a_table_by_benchmark_and_what_was_measured(
    new_pipeline: NewPipeline,
) -> None:
    (report,) = outputs(new_pipeline, Decontaminate(BagEncoder()), CLEAN + DIRTY, ITEMS)["report"]
    table = {row.pop("benchmark"): row for row in report["benchmarks"]}
    assert table["animals"] == {
        "items": 2,
        "found": 2,
        "found_by_ngram": 1,
        "found_by_meaning": 2,
        "found_by_both": 1,
        "too_short_for_ngrams": 1,
        "documents": 3,
    }
    assert (table["food"]["items"], table["food"]["found"], table["food"]["documents"]) == (2, 1, 1)
    assert (report["documents"], report["removed"], report["kept"]) == (64, 4, 60)
    assert report["threshold_from"] == "corpus"
    assert (report["copies"], report["recall_of_copies"], report["search_recall"]) == (2, 1, 1)
    assert sum(count for _, count in report["best_scores"]) == report["passages"]


def test_spans_are_cut_and_the_rest_is_kept(new_pipeline: NewPipeline) -> None:
    transform = Decontaminate(BagEncoder(), remove="spans")
    found = outputs(new_pipeline, transform, CLEAN + DIRTY, ITEMS)
    left = {row["id"]: row for row in found["kept"]}
    assert left["cats"] == {"id": "cats", "text": f" {clean_text(104)}"}
    assert left["mixed"]["text"] == f"{clean_text(102)}  {clean_text(103)}"
    assert COPY.upper() not in left["copied"]["text"]
    assert left["clean3"]["text"] == clean_text(3)
    (removed,) = found["removed"]
    assert (removed["id"], removed["text"]) == ("whole", DIRTY[3]["text"])
    (report,) = found["report"]
    assert (report["removed"], report["cut"], report["kept"]) == (1, 3, 63)


def brute_force(
    corpus: Rows, items: Rows, n: int, threshold: float, sentences: tuple[int, ...]
) -> set[tuple]:
    """Compare every document with every item, without offsets."""
    encode = BagEncoder().encode
    found = set()
    for row in corpus:
        words = re.findall(r"\w+", row["text"].lower())
        grams = {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
        spans = passages_of(row["text"], sentences, "en").tolist()
        vectors = np.array([encode([row["text"][a:b]])[0] for a, b in spans])
        for item in items:
            name = row["id"], item["benchmark"], item["id"]
            of = re.findall(r"\w+", item["text"].lower())
            if grams & {tuple(of[i : i + n]) for i in range(len(of) - n + 1)}:
                found.add((*name, "ngram"))
            (vector,) = encode([item["text"]])
            for other in vectors:
                lengths = np.linalg.norm(other) * np.linalg.norm(vector)
                if other @ vector / lengths >= threshold:
                    found.add((*name, "meaning"))
    return found


NUMBERS = ["one", "two", "three", "four", "five", "six"]
WORDS = st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=7)
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(
    lambda lines: " ".join(" ".join(line).capitalize() + "." for line in lines)
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(TEXTS, max_size=5),
    st.lists(TEXTS, min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from([0.55, 0.83, 0.991]),
    st.sampled_from([(1,), (1, 3), (2,)]),
)
def test_odd_corpora_equal_brute_force(
    texts: list[str], items: list[str], n: int, threshold: float, sentences: tuple[int, ...]
) -> None:
    corpus = [{"id": i, "text": text} for i, text in enumerate(texts)]
    benchmark = [
        {"id": i % 2, "text": text, "benchmark": f"b{i % 3}"} for i, text in enumerate(items)
    ]
    options = Contamination(min_words=n, sentences=sentences)
    transform = Decontaminate(BagEncoder(), n, threshold, contamination=options)
    found = outputs(lambda mode: beam.Pipeline("FnApiRunner"), transform, corpus, benchmark)
    expected = brute_force(corpus, benchmark, n, threshold, sentences)
    assert {one[:4] for one in findings_of(found["matches"])} == expected
    dirty = {one[0] for one in expected}
    assert sorted(row["id"] for row in found["removed"]) == sorted(dirty)
    assert sorted(row["id"] for row in found["kept"]) == sorted(set(range(len(texts))) - dirty)


def test_the_result_does_not_depend_on_processes_order_or_blocks(new_pipeline: NewPipeline) -> None:
    rows = pl.DataFrame(CLEAN + DIRTY)
    shuffled = rows.sample(fraction=1, shuffle=True, seed=1)
    results = []
    for frame, parts, mode in ((rows, 1, "in memory"), (shuffled, 5, "two processes")):
        blocks = [Block.from_table(frame[i::parts].to_arrow()) for i in range(parts)]
        transform = Decontaminate(BagEncoder())
        found = outputs(
            new_pipeline, transform, blocks, random.Random(parts).sample(ITEMS, 4), mode
        )
        matches = [row for block in found["matches"] for row in block.batch.to_pylist()]
        removed = [row for block in found["removed"] for row in block.batch.to_pylist()]
        results.append((found["report"], sorted(map(str, matches)), sorted(map(str, removed))))
    assert results[0] == results[1]
    assert len(results[0][1]) == 6


def test_with_a_scope_only_items_of_the_same_value_are_compared(new_pipeline: NewPipeline) -> None:
    corpus = [{**row, "lang": lang, "id": f"{row['id']}-{lang}"} for row in DIRTY for lang in "xy"]
    items = [{**item, "lang": "x"} for item in ITEMS]
    transform = Decontaminate(BagEncoder(), threshold=0.7, scope="lang")
    found = outputs(new_pipeline, transform, corpus, items)
    assert sorted(row["id"] for row in found["removed"]) == sorted(
        f"{row['id']}-x" for row in DIRTY
    )
    assert {row["document_id"][-1] for row in found["matches"]} == {"x"}


def test_words_alone_need_no_model_and_meaning_alone_no_n_grams(new_pipeline: NewPipeline) -> None:
    by_words = outputs(new_pipeline, Decontaminate(), CLEAN + DIRTY, ITEMS)
    assert {row["document_id"] for row in by_words["matches"]} == {"copied", "whole"}
    assert "threshold" not in by_words["report"][0]
    alone = Decontaminate(BagEncoder(), ngrams=None)
    by_meaning = outputs(new_pipeline, alone, CLEAN + DIRTY, ITEMS)
    assert {row["found_by"] for row in by_meaning["matches"]} == {"meaning"}
    assert len(by_meaning["removed"]) == 4


def test_documents_known_to_be_clean_choose_the_threshold(new_pipeline: NewPipeline) -> None:
    clean = [{"text": f"Word{i} word{i + 1} cat sat on mat."} for i in range(200)]
    found = outputs(new_pipeline, Decontaminate(BagEncoder()), DIRTY, ITEMS, clean=clean)
    (report,) = found["report"]
    assert report["threshold_from"] == "clean"
    item, near = BagEncoder().encode([SHORT, clean[0]["text"]])
    assert report["threshold"] > item @ near / np.linalg.norm(item) / np.linalg.norm(near)
    assert {row["id"] for row in found["removed"]} == {"copied", "mixed", "cats", "whole"}


def test_bad_rows_are_rejects_and_cost_no_other_row(new_pipeline: NewPipeline) -> None:
    bad = [
        {"id": None, "text": "no id"},
        {"id": "blank", "text": " "},
        {"id": "clean0", "text": clean_text(0)},
        {"id": "refused", "text": "We refuse this. And not this."},
    ]
    bad_items = [
        {"id": "x", "text": None, "benchmark": "food"},
        {"id": "y", "text": "an item", "benchmark": None},
        {"id": "z", "text": "we refuse it", "benchmark": "food"},
    ]
    transform = Decontaminate(BagEncoder()).with_exception_handling()
    clean = [{"text": ""}, *CLEAN]
    found = outputs(new_pipeline, transform, CLEAN + DIRTY + bad, ITEMS + bad_items, clean=clean)
    assert len(found["kept"]) == 60
    assert len(found["removed"]) == 4
    reasons = sorted((row["reject_step"], row["reject_reason"]) for row in found["rejects"])
    assert [(step, reason.split(":")[0]) for step, reason in reasons] == [
        ("Decontaminate", "duplicate id"),
        ("Decontaminate", "id is null"),
        ("Decontaminate", "text is blank"),
        ("Decontaminate", "the model cannot take it"),
        ("Decontaminate benchmarks", "benchmark is null"),
        ("Decontaminate benchmarks", "text is null"),
        ("Decontaminate benchmarks", "the model cannot take it"),
        ("Decontaminate clean", "text is empty"),
    ]


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint64(), pa.string(), pa.large_string()], ids=str)
def test_ids_keep_their_type(new_pipeline: NewPipeline, kind: pa.DataType) -> None:
    ids = pa.array(range(4)).cast(kind)
    corpus = Block.from_pydict({"id": ids, "text": [row["text"] for row in DIRTY]})
    items = Block.from_pydict(
        {"id": ids, "text": [row["text"] for row in ITEMS], "benchmark": ["b"] * 4}
    )
    found = outputs(new_pipeline, Decontaminate(), [corpus], [items])
    for block in found["matches"]:
        assert block.schema.field("document_id").type == kind
        assert block.schema.field("item_id").type == kind
    for block in found["removed"]:
        assert block.schema.field("id").type == kind
        assert block.schema.field("item_id").type == kind


def test_frames_give_frames() -> None:
    inputs = {"corpus": pl.DataFrame(CLEAN + DIRTY), "benchmarks": pl.DataFrame(ITEMS)}
    found = inputs | Decontaminate(BagEncoder())
    assert set(found.removed["id"]) == {"copied", "mixed", "cats", "whole"}
    assert found.kept.columns == ["id", "text"]
    assert len(found.kept) == 60


def test_a_passage_names_its_nearest_items_only(
    new_pipeline: NewPipeline, monkeypatch: Any
) -> None:
    monkeypatch.setattr(findings, "PER_PASSAGE", 2)
    items = [{"id": i, "text": SHORT, "benchmark": "b"} for i in range(5)]
    transform = Decontaminate(BagEncoder(), threshold=0.9)
    found = outputs(new_pipeline, transform, [{"id": 1, "text": SHORT}], items)
    assert [row["item_id"] for row in found["matches"]] == [0, 1]


def test_spans_are_cut_out_of_texts() -> None:
    assert cut_spans("one two three", [(4, 7)]) == "one  three"
    assert cut_spans("one,two,three", [(3, 8)]) == "one three"
    assert cut_spans("one two", [(0, 4), (2, 7)]) == ""
    assert cut_spans("one two", []) == "one two"


MISTAKES: dict[str, Callable[[], Any]] = {
    "model and ngrams are None": lambda: Decontaminate(ngrams=None),
    "ngrams is 0": lambda: Decontaminate(ngrams=0),
    "remove is 'items'": lambda: Decontaminate(remove=cast(Any, "items")),
    "threshold without a model": lambda: Decontaminate(threshold=0.5),
    "threshold is 2": lambda: Decontaminate(BagEncoder(), threshold=2),
    "min_words is 0": lambda: Contamination(min_words=0),
    "min_containment is 2": lambda: Contamination(min_containment=2),
    "sentences is 3": lambda: Contamination(sentences=cast(Any, 3)),
    "sentences has 0": lambda: Contamination(sentences=(1, 0)),
    "language is 'xx'": lambda: Contamination(language="xx"),
    "false_alarms is 1": lambda: Contamination(false_alarms=1),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_refused_when_the_transform_is_made(message: str) -> None:
    with pytest.raises(InputError, match=message):
        MISTAKES[message]()


def test_missing_columns_and_items_are_named(new_pipeline: NewPipeline) -> None:
    of_sets = Decontaminate(benchmark_column="set")
    with pytest.raises(InputError, match="Decontaminate benchmarks: no column 'set'"):
        outputs(new_pipeline, of_sets, CLEAN, ITEMS)
    with pytest.raises(InputError, match="Decontaminate benchmarks: there are no items"):
        outputs(new_pipeline, Decontaminate(), CLEAN, [])
    of_words = Decontaminate(columns=Columns(text="words"))
    with pytest.raises(InputError, match="no column 'words'|words is null"):  # of either side
        outputs(new_pipeline, of_words, CLEAN, ITEMS)
