"""Nothing that a user gives reaches the hidden columns of a transform."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import beam_gpte as bg
from beam_gpte import Block, InputError
from beam_gpte.core import columns as names
from beam_gpte.elements.block import BlockCoder, hidden_block, with_hidden
from tests.conftest import MODES
from tests.core.static.models import bert, static_embedding, token_vectors
from tests.examples import WordEncoder, keep, kept

HIDDEN = sorted(
    value
    for value in vars(names).values()
    if isinstance(value, str) and value.startswith(names.HIDDEN) and value != names.HIDDEN
) + [*names.MARKS, "__gpte_anything"]
Row = dict[str, Any]


class Evil:
    """Make a file as soon as it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def batch(hidden: str, value: Any = None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"id": ["1"], "text": ["a text"], hidden: [value]})


def refused(words: str, build: Callable[[beam.Pipeline], Any]) -> None:
    """Check that a pipeline fails with a message of one line that has these words."""

    def run() -> None:
        with beam.Pipeline() as p:
            build(p)

    with pytest.raises((InputError, RuntimeError), match=words):
        run()


def same(element: Any, argument: Any) -> Any:
    """Return the element: a step of a user, which has no type of its result."""
    return element


@pytest.mark.parametrize("hidden", HIDDEN)
def test_no_block_is_made_with_a_hidden_name(hidden: str) -> None:
    rows, block = batch(hidden), Block.from_pydict({"id": ["1"]})
    makers: list[Callable[[], Any]] = [
        lambda: Block(rows),
        lambda: Block.from_pydict({hidden: [1]}),
        lambda: Block.from_table(pa.Table.from_batches([rows])),
        lambda: Block.from_ipc(hidden_block(rows).to_ipc()),
        lambda: block.with_column(pa.field(hidden, pa.int64()), pa.array([1])),
    ]
    for make in makers:
        with pytest.raises(InputError, match=f"a column is named '{hidden}'"):
            make()


def test_the_rows_of_a_block_are_not_replaced() -> None:
    with pytest.raises(AttributeError):
        Block.from_pydict({"id": ["1"]}).batch = batch("__gpte_row")  # type: ignore[misc]


def test_metadata_of_a_schema_do_not_turn_a_block_into_a_table() -> None:
    rows = pa.RecordBatch.from_pydict({"id": ["1"]})
    with pytest.raises(InputError, match=r"metadata 'beam_gpte\.kind'"):
        Block(rows.replace_schema_metadata({names.KIND: b"table"}))


def test_hidden_columns_travel_to_other_workers() -> None:
    block = with_hidden(
        Block.from_pydict({"id": ["1"]}), pa.field("__gpte_x", pa.int64()), pa.array([1])
    )
    assert BlockCoder().decode(BlockCoder().encode(block)) == block
    assert pickle.loads(pickle.dumps(block)) == block


def rows_of_any_kind(hidden: str) -> list[Any]:
    """Give rows with a hidden name; Beam itself refuses Rows and NamedTuples of such names."""
    rows = batch(hidden)
    return [{"id": "1", "text": "a text", hidden: 1}, rows, pa.Table.from_batches([rows])]


def tokenizer(at: str) -> str:
    """Write a model beside a place, for its tokenizer."""
    made, folder = bert(), Path(f"{at}-tokenizer")
    return str(folder) if folder.exists() else static_embedding(folder, made, token_vectors(made))


TRANSFORMS: dict[str, Callable[[str], Any]] = {
    "EmbedText": lambda at: bg.EmbedText(
        WordEncoder(), embedding_column="v"
    ).with_exception_handling(),
    "RejectDuplicateIds": lambda at: bg.RejectDuplicateIds().with_exception_handling(),
    "IdentifyLanguage": lambda at: bg.IdentifyLanguage().with_exception_handling(),
    "SplitSentences": lambda at: bg.SplitSentences("en").with_exception_handling(),
    "ChunkText": lambda at: bg.ChunkText("sentences", 9).with_exception_handling(),
    "DeduplicateExact": lambda at: bg.DeduplicateExact().with_exception_handling(),
    "DeduplicateStream": lambda at: bg.DeduplicateStream().with_exception_handling(),
    "DistillStatic": lambda at: bg.DistillStatic(
        WordEncoder(), at, tokenizer=tokenizer(at), columns=bg.Columns(embedding="v")
    ),
    "QuantizeVectors": lambda at: bg.QuantizeVectors("int8").with_exception_handling(),
    "ClusterVectors": lambda at: bg.ClusterVectors(2).with_exception_handling(),
    "FitHead": lambda at: bg.FitHead("id"),
    "FitPostprocess": lambda at: bg.FitPostprocess("center"),
    "WriteRejects": lambda at: bg.WriteRejects(at),
    "WriteVectorsToParquet": lambda at: bg.WriteVectorsToParquet(at),
    "WriteVectorsToDuckDB": lambda at: bg.WriteVectorsToDuckDB(f"{at}/v.duckdb"),
    "WriteSummary": lambda at: bg.WriteSummary(f"{at}/summary.json"),
    "WriteTmx": lambda at: bg.WriteTmx(f"{at}/x.tmx", "de", "en"),
    "WriteMoses": lambda at: bg.WriteMoses(f"{at}/x", "de", "en"),
}


@pytest.mark.sampled(15)
@pytest.mark.parametrize("step", TRANSFORMS)
@pytest.mark.parametrize("kind", range(3), ids=["mapping", "batch", "table"])
def test_rows_of_any_kind_fail_the_job_and_name_transform_and_column(
    step: str, kind: int, tmp_path: Path
) -> None:
    row = rows_of_any_kind("__gpte_reference")[kind]
    refused(
        f"{step}: a column is named '__gpte_reference'",
        lambda p: p | beam.Create([row]) | TRANSFORMS[step](str(tmp_path)),
    )


SIDES: dict[str, Callable[[], Any]] = {
    "AlignDocuments": lambda: bg.AlignDocuments("text", ("id",)),
    "PairDocuments": lambda: bg.PairDocuments("text"),
    "MineBitext": bg.MineBitext,
}


@pytest.mark.parametrize("step", SIDES)
def test_a_side_fails_the_job_and_is_named(step: str) -> None:
    rows = [{"id": "1", "text": "x", "embedding": [1.0], "__gpte_x": 1}]
    refused(
        f"{step} (source|target): a column is named '__gpte_x'",
        lambda p: {name: p | name >> beam.Create(rows) for name in names.SIDES} | SIDES[step](),
    )


READERS: dict[str, Callable[[str], Any]] = {
    "ReadCorpus": lambda path: bg.ReadCorpus(path, id_column="id"),
    "ReadVectors": bg.ReadVectors,
}


@pytest.mark.parametrize("hidden", ["__gpte_row", "__gpte_defect", "__gpte_file", "__gpte_target"])
@pytest.mark.parametrize("step", READERS)
def test_a_file_with_a_hidden_name_is_refused_with_its_path(
    hidden: str, step: str, tmp_path: Path
) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.Table.from_batches([batch(hidden)]), path)
    refused(f"{step}: .*part.*named '{hidden}'", lambda p: p | READERS[step](str(path)))


def test_a_line_of_json_with_a_hidden_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "1", "text": "a", "__gpte_defect": "mine"}\n')
    refused(
        "ReadCorpus: .*rows.*'__gpte_defect'",
        lambda p: p | bg.ReadCorpus(str(path), id_column="id"),
    )


@pytest.mark.parametrize("typed", [True, False])
def test_the_code_in_a_file_does_not_run_whatever_type_a_step_between_has(
    typed: bool, tmp_path: Path
) -> None:
    evil = pickle.dumps(Evil(str(tmp_path / "ran")))
    rows = pa.table({"text": ["hi"], "__gpte_row": [evil], "__gpte_timestamp": [0]})
    pq.write_table(rows, tmp_path / "evil.parquet")
    step = beam.Map(same, {"a": 1})
    between = step.with_output_types(object) if typed else step
    read = bg.ReadCorpus(str(tmp_path / "evil.parquet"))
    refused("'__gpte_row'", lambda p: p | read | between | bg.EmbedText(WordEncoder()))
    assert not (tmp_path / "ran").exists()


def test_no_setting_gives_a_hidden_name() -> None:
    for make in (
        lambda: bg.EmbedText(WordEncoder(), embedding_column="__gpte_vector"),
        lambda: bg.EmbedText(WordEncoder(), rename={"embedding": "__gpte_vector"}),
        lambda: bg.IdentifyLanguage(rename={"language": "__gpte_x"}),
    ):
        with pytest.raises(InputError, match="__gpte_"):
            make()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("typed", [True, False])
def test_rows_pass_several_transforms_with_and_without_types(
    typed: bool, mode: str, new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    rows: list[Row] = [{"id": "1", "text": "One. Two.", "extra": {"a": [1]}}, {"id": "2"}]
    step = beam.Map(same, None)
    with new_pipeline(mode) as p:
        good, bad = (
            p
            | beam.Create(rows)
            | bg.RejectDuplicateIds()
            | "Between" >> (step.with_output_types(dict) if typed else step)
            | bg.EmbedText(WordEncoder()).with_exception_handling()
        )
        sentences = good | "Again" >> beam.Map(same, 1) | bg.SplitSentences("en")
        sentences | "KeepGood" >> beam.Map(keep, str(tmp_path), "good")
        bad | "KeepBad" >> beam.Map(keep, str(tmp_path), "bad")
    assert [row["extra"] for row in kept(str(tmp_path), "good")] == [{"a": [1]}] * 2
    assert [row["id"] for row in kept(str(tmp_path), "bad")] == ["2"]


@pytest.mark.parametrize("step", [name for name in TRANSFORMS if not name.startswith("Write")])
def test_results_have_no_hidden_columns(step: str, tmp_path: Path) -> None:
    text = pa.array(["a text", None, "a text"])
    vectors = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2))
    block = Block.from_pydict({"id": ["1", "2", "2"], "text": text, "embedding": vectors})
    with beam.Pipeline() as p:
        found: Any = p | beam.Create([block]) | TRANSFORMS[step](str(tmp_path))
        parts = [found] if isinstance(found, beam.PCollection) else [*found]
        for number, part in enumerate(parts):
            if part is not None and part.element_type is Block:
                part | f"Keep{number}" >> beam.Map(keep, str(tmp_path), "blocks")
    found_names = [name for block in kept(str(tmp_path), "blocks") for name in block.schema.names]
    assert not any(map(names.is_hidden, found_names))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=8))
def test_a_name_is_hidden_by_its_beginning_alone(rest: str) -> None:
    rest = rest.encode(errors="ignore").decode()
    with pytest.raises(InputError):
        Block.from_pydict({f"{names.HIDDEN}{rest}": [1]})
    Block.from_pydict({f"{rest}{names.HIDDEN}" if rest else "x": [1]})
