"""EmbedSparse and EmbedTokens with reuse: what a previous run has is taken, or counters say why."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows

from beam_gpte import (
    Block,
    EmbedSparse,
    EmbedText,
    EmbedTokens,
    EncoderConfig,
    InputError,
    SparseSettings,
    TokenStorage,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from tests.core.multi_vectors import tiny_models
from tests.core.sparse.models import inference_free
from tests.embedding.reused import one_to_a_block, read, reasons, rewrite, run_blocks
from tests.examples import LengthEncoder, keep, kept

NewPipeline = Callable[..., beam.Pipeline]

TEXTS = {"a": "the cat sat", "b": "w1 w2 w3", "c": "on the mat, w9", "d": "w7", "e": "the cat sat"}
# b has changed, c has another id, d is gone
CHANGED = {"e": TEXTS["e"], "a": TEXTS["a"], "b": "w1 w2 w4 year", "f": TEXTS["c"]}
NO_MODEL = "not reused: the previous vectors are of another model or settings"
NO_QUANTIZATION = "not reused: the previous vectors are quantized in another way"
DAMAGED = "not reused: the previous vectors have values that no model makes"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A transform that makes columns of a model, with its counter of what they hold."""

    make: Callable[..., Any]
    model: str
    columns: tuple[str, ...]
    counter: str

    def embed(self, config: dict[str, Any] | None = None, **settings: Any) -> Any:
        given = EncoderConfig(self.model, device="cpu", **(config or {}))
        return self.make(given, **settings)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    root = tmp_path_factory.mktemp("models")
    (root / "tokens").mkdir()
    sparse = inference_free(root / "sparse", prompts={"query": "the "})
    names = ("sparse_indices", "sparse_values")
    return {
        "sparse": Kind(EmbedSparse, sparse, names, "terms"),
        "tokens": Kind(
            EmbedTokens, tiny_models.pylate(root / "tokens"), ("token_embeddings",), "token_vectors"
        ),
    }


@pytest.fixture(scope="module")
def previous(kinds: dict[str, Kind], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a run of each kind."""
    root = tmp_path_factory.mktemp("previous")
    for name, kind in kinds.items():
        p = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
        run(p, TEXTS, root / name, kind.embed())
    return {name: root / name for name in kinds}


@pytest.fixture(params=["sparse", "tokens"])
def kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    return kinds[request.param]


@pytest.fixture
def before(kind: Kind, kinds: dict[str, Kind], previous: dict[str, Path]) -> Path:
    """The folder of a run of this kind."""
    (name,) = (name for name, one in kinds.items() if one == kind)
    return previous[name]


@pytest.fixture
def changeable(before: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(before, tmp_path / "previous"))


def run(
    pipeline: beam.Pipeline, documents: dict[str, str], out: Path, embed: Any
) -> tuple[dict[str, int], pa.Table]:
    return run_blocks(pipeline, one_to_a_block(documents), out, embed)


def sizes(table: pa.Table, column: str, ids: str) -> int:
    kept = table.filter(pc.is_in(table.column("id"), pa.array(list(ids))))
    return pc.sum(pc.list_value_length(kept.column(column))).as_py()


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_a_run_with_reuse_writes_what_a_new_one_would(
    new_pipeline: NewPipeline, kind: Kind, before: Path, tmp_path: Path, mode: str
) -> None:
    again = kind.embed(reuse=str(before))
    count, found = run(new_pipeline(mode), CHANGED, tmp_path / "b", again)
    fresh, expected = run(new_pipeline(), CHANGED, tmp_path / "c", kind.embed())
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.equals(expected)
    assert (count["texts"], count["texts_reused"]) == (1, 3)
    assert (fresh["texts"], fresh.get("texts_reused", 0)) == (4, 0)
    assert count[f"{kind.counter}_reused"] == sizes(expected, kind.columns[0], "aef")
    assert count[kind.counter] == sizes(expected, kind.columns[0], "b")
    assert not reasons(count)


def test_the_model_runs_over_nothing_where_all_texts_are_known_whatever_the_blocks(
    new_pipeline: NewPipeline, kind: Kind, before: Path, tmp_path: Path
) -> None:
    block = Block.from_pydict({"id": list(TEXTS)[::-1], "text": list(TEXTS.values())[::-1]})
    for name, blocks in (("one", [block]), ("two", [block.slice(0, 2), block.slice(2)])):
        p = new_pipeline()
        rows = p | beam.Create(blocks).with_output_types(Block)
        rows | kind.embed(reuse=str(before)) | WriteVectorsToParquet(str(tmp_path / name))
        result = p.run()
        result.wait_until_finish()
        count = counters(result)
        assert (count["texts"], count["tokens_computed"], count["texts_reused"]) == (0, 0, 5)
        assert read(tmp_path / name).equals(read(before))


OTHERS: dict[str, list[tuple[dict[str, Any], dict[str, Any], str]]] = {
    "sparse": [
        ({"route": "query"}, {}, NO_MODEL),
        ({"prompt": "the mat "}, {}, NO_MODEL),
        ({"max_tokens": 30}, {}, NO_MODEL),
        ({}, {"sparse": SparseSettings(max_active=3)}, NO_MODEL),
        ({}, {"sparse": SparseSettings(min_weight=0.1)}, NO_MODEL),
    ],
    "tokens": [
        ({"route": "query"}, {}, NO_MODEL),
        ({"max_tokens": 30}, {}, NO_MODEL),
        ({}, {"storage": TokenStorage(pool_factor=2)}, NO_MODEL),
        ({}, {"storage": TokenStorage(quantization="int8")}, NO_QUANTIZATION),
    ],
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, i) for name, cases in OTHERS.items() for i in range(len(cases))]
)
def test_what_other_settings_made_is_counted_and_made_again(
    new_pipeline: NewPipeline,
    kinds: dict[str, Kind],
    previous: dict[str, Path],
    tmp_path: Path,
    name: str,
    case: int,
) -> None:
    kind, (config, settings, reason) = kinds[name], OTHERS[name][case]
    again = kind.embed(config, reuse=str(previous[name]), **settings)
    count, found = run(new_pipeline(), CHANGED, tmp_path / "b", again)
    assert (count["texts"], reasons(count)) == (4, {reason: 3})
    if case == 0:
        _, expected = run(new_pipeline(), CHANGED, tmp_path / "c", kind.embed(config, **settings))
        assert found.equals(expected)


def test_pooled_codes_of_int8_are_taken_as_they_are(
    new_pipeline: NewPipeline, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    storage = TokenStorage(pool_factor=2, quantization="int8")
    kind = kinds["tokens"]
    _, before = run(new_pipeline(), TEXTS, tmp_path / "a", kind.embed(storage=storage))
    again = kind.embed(storage=storage, reuse=str(tmp_path / "a"))
    count, after = run(new_pipeline(), TEXTS, tmp_path / "b", again)
    assert (count["texts"], count["texts_reused"]) == (0, 5)
    assert after.equals(before)


def test_another_model_of_the_same_name_is_noticed(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    for name, seed in (("x", 1), ("y", 2)):
        (tmp_path / name / "model").mkdir(parents=True)
        folder = Path(tiny_models.pylate(tmp_path / name / "model"))
        weights = folder / "1_Dense" / "model.safetensors"
        tiny_models.save_file(
            {"linear.weight": tiny_models.projection(32, tiny_models.DIM, seed)}, weights
        )
    run(new_pipeline(), TEXTS, tmp_path / "a", EmbedTokens(str(tmp_path / "x" / "model")))
    other = EmbedTokens(str(tmp_path / "y" / "model"), reuse=str(tmp_path / "a"))
    count, _ = run(new_pipeline(), TEXTS, tmp_path / "b", other)
    assert (count["texts"], reasons(count)) == (5, {NO_MODEL: 5})


def test_rows_without_a_text_and_with_the_same_text(
    new_pipeline: NewPipeline, kind: Kind, before: Path, tmp_path: Path
) -> None:
    known = {row["id"]: row for row in read(before).to_pylist()}
    texts = ["the cat sat", None, "w7", " ", "w7", "new w1", "new w1", 3]
    rows = [{"id": i, "text": text, "n": -i} for i, text in enumerate(texts)]
    p = new_pipeline()
    embed = kind.embed(reuse=str(before)).with_exception_handling()
    good, rejects = p | beam.Create(rows) | embed
    good | "Good" >> beam.Map(keep, str(tmp_path), "good")
    rejects | "Bad" >> beam.Map(keep, str(tmp_path), "bad")
    result = p.run()
    result.wait_until_finish()
    found = {row["id"]: row for row in kept(str(tmp_path), "good")}
    assert {id_: row["n"] for id_, row in found.items()} == {0: 0, 2: -2, 4: -4, 5: -5, 6: -6}
    for name in kind.columns:
        values = {id_: np.asarray(row[name]).tolist() for id_, row in found.items()}
        assert values[0] == known["a"][name]
        assert values[2] == values[4] == known["d"][name]
        assert values[5] == values[6]
    why = {row["id"]: row["reject_reason"] for row in kept(str(tmp_path), "bad")}
    assert why == {1: "text is null", 3: "text is blank", 7: "text is not a string: int"}
    count = counters(result)
    assert (count["texts"], count["texts_reused"], count["rejects"]) == (2, 3, 3)


def test_of_equal_texts_a_row_gets_what_its_own_id_had_else_the_first(
    new_pipeline: NewPipeline, kind: Kind, tmp_path: Path
) -> None:
    run(new_pipeline(), dict.fromkeys("abc", "w1 w2"), tmp_path / "a", kind.embed())
    last = kind.columns[-1]

    def mark(table: pa.Table) -> pa.Table:
        """Give each row values that tell whose they are."""
        field, at = table.schema.field(last), table.schema.get_field_index(last)
        values = table.column(last).to_pylist()
        ids = table.column("id").to_pylist()
        marked = [_filled(one, float(ord(id_))) for one, id_ in zip(values, ids, strict=True)]
        return table.set_column(at, field, pa.array(marked, field.type))

    rewrite(tmp_path / "a", mark)
    texts = dict.fromkeys("cxba", "w1 w2")
    _, found = run(new_pipeline(), texts, tmp_path / "b", kind.embed(reuse=str(tmp_path / "a")))
    values = [np.ravel(one)[0] for one in found.column(last).to_pylist()]
    (first, *_) = (
        table.column("id")[0].as_py()
        for table in map(pq.read_table, sorted((tmp_path / "a").glob("*.parquet")))
        if table.num_rows
    )
    assert values == [97.0, 98.0, 99.0, float(ord(first))]


def _filled(values: Any, number: float) -> Any:
    return [_filled(one, number) for one in values] if isinstance(values, list) else number


def test_files_of_another_kind_or_without_a_model_are_refused(
    new_pipeline: NewPipeline, kind: Kind, tmp_path: Path
) -> None:
    def refused(name: str, match: str, texts: dict[str, str] = TEXTS) -> None:
        embed = kind.embed(reuse=str(tmp_path / name), output_column="v")
        with pytest.raises(InputError, match=match):
            run(new_pipeline(), texts, tmp_path / "out", embed)

    last = "v_values" if kind.counter == "terms" else "v"
    first = "v_indices" if kind.counter == "terms" else "v"
    refused("nothing", "no file matches .*nothing/\\*.parquet'; check the path")
    dense = EmbedText(LengthEncoder(), embedding_column="dense")
    run(new_pipeline(), TEXTS, tmp_path / "dense", dense)
    refused("dense", f"reuse: no column '{first}' in .*parquet; it has id, text, dense")
    run(new_pipeline(), TEXTS, tmp_path / "same", EmbedText(LengthEncoder(), embedding_column="v"))

    def renamed(table: pa.Table) -> pa.Table:
        column = table.column("v")
        other = table.schema.field("v").with_name(last)
        names = [first, "text", "id"] if first == last else [first, last, "text", "id"]
        fields = [table.schema.field("v").with_name(first), other][: len(names) - 2]
        return pa.table(
            [*[column] * len(fields), table.column("text"), table.column("id")],
            schema=pa.schema([*fields, table.schema.field("text"), table.schema.field("id")]),
        )

    rewrite(tmp_path / "same", renamed)
    refused("same", f"reuse: column '{first}' of .* holds vectors of another transform; name a run")
    run(new_pipeline(), {"a": "w1"}, tmp_path / "bare", kind.embed(output_column="v"))
    shutil.copytree(tmp_path / "bare", tmp_path / "no texts")
    rewrite(tmp_path / "bare", lambda table: table.cast(_without_metadata(table.schema)))
    refused("bare", f"reuse: column '{first}' of .* does not name the model that made it")
    (path, *_) = (tmp_path / "bare").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-40])
    refused("bare", "bare/.*parquet")
    rewrite(tmp_path / "no texts", lambda table: table.drop_columns(["text"]))
    refused("no texts", "reuse: no column 'text' in ")


def test_a_later_format_is_refused(changeable: Path, kind: Kind, new_pipeline: NewPipeline) -> None:
    def later(table: pa.Table) -> pa.Table:
        fields = [
            field.with_metadata(
                {key: value.replace(b'"format": 1', b'"format": 9') for key, value in known.items()}
            )
            if (known := field.metadata)
            else field
            for field in table.schema
        ]
        return table.cast(pa.schema(fields))

    rewrite(changeable, later)
    embed = kind.embed(reuse=str(changeable))
    with pytest.raises(InputError, match="format 9 is of a later version of beam_gpte"):
        run(new_pipeline(), TEXTS, changeable / "out", embed)


def _without_metadata(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.remove_metadata() for field in schema])


def test_values_that_no_model_makes_are_counted_and_made_again(
    new_pipeline: NewPipeline, kind: Kind, before: Path, changeable: Path, tmp_path: Path
) -> None:
    last = kind.columns[-1]

    def damage(table: pa.Table) -> pa.Table:
        """Put a NaN into a, drop the values of b, drop the last index of d if there are indices."""
        for at, name in enumerate(table.schema.names):
            field, values = table.schema.field(name), table.column(name).to_pylist()
            for row, id_ in enumerate(table.column("id").to_pylist()):
                if name == last and id_ == "a":
                    values[row] = _filled(values[row], float("nan"))
                elif name == last and id_ == "b":
                    values[row] = []
                elif name == kind.columns[0] != last and id_ == "d":
                    values[row] = values[row][::-1]
            table = table.set_column(at, field, pa.array(values, field.type))
        return table

    rewrite(changeable, damage)
    count, after = run(new_pipeline(), TEXTS, tmp_path / "b", kind.embed(reuse=str(changeable)))
    assert after.equals(read(before))
    damaged = 3 if kind.counter == "terms" else 2
    assert reasons(count) == {DAMAGED: damaged}
    # e has the text of a
    assert (count["texts"], count["texts_reused"]) == (damaged - 1, 5 - damaged + 1)


def test_rows_that_a_previous_run_lacks_a_value_of_are_made_again(
    new_pipeline: NewPipeline, kind: Kind, before: Path, changeable: Path, tmp_path: Path
) -> None:
    last = kind.columns[-1]

    def null(table: pa.Table) -> pa.Table:
        at, field = table.schema.get_field_index(last), table.schema.field(last)
        return table.set_column(at, field, pa.nulls(len(table), field.type))

    rewrite(changeable, null)
    count, after = run(new_pipeline(), TEXTS, tmp_path / "b", kind.embed(reuse=str(changeable)))
    assert after.equals(read(before))
    assert (count["texts"], reasons(count)) == (5, {})


def test_a_reuse_that_cannot_be_meant_is_refused(kind: Kind, new_pipeline: NewPipeline) -> None:
    for wrong in (3, ""):
        with pytest.raises(InputError, match="name the Parquet files of a previous run"):
            kind.embed(reuse=wrong)
    rows = new_pipeline() | beam.Create([{"id": 1, "text": "w1"}])
    with pytest.raises(InputError, match="reuse: the whole corpus is compared"):
        _ = rows | beam.WindowInto(FixedWindows(5)) | kind.embed(reuse="previous")
