"""Beam YAML: every public transform by its name, rows with a schema, errors as YAML users expect.

A settings object is a mapping, with the same checks, documentation and errors as a transform.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("docstring_parser", reason="the extra yaml is not installed")
from apache_beam.yaml import main, yaml_provider

import beam_gpte
from beam_gpte.core.metadata import vector_fields
from beam_gpte.interop import yaml_transforms
from beam_gpte.interop.yaml_config import configure, settings_of
from beam_gpte.sources.read_vectors import read_vectors
from tests.conftest import MODES

ROOT = Path(__file__).resolve().parents[2]
PROVIDERS = ROOT / "transforms" / "providers.yaml"
TRANSFORMS = sorted(
    name
    for name, value in vars(beam_gpte).items()
    if isinstance(value, type) and issubclass(value, beam.PTransform)
)


@pytest.fixture(scope="module", autouse=True)
def beams_own_transforms() -> Iterator[None]:
    """Load them without sentence-transformers, which is unused here and takes 5 s to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            sys.modules, "sentence_transformers", sys.modules.get("sentence_transformers")
        )
        yaml_provider.standard_providers()
    return


def run_file(path: Path, **variables: Any) -> None:
    main.run(
        [
            "--runner=FnApiRunner",
            f"--yaml_pipeline_file={path}",
            f"--jinja_variables={json.dumps(variables)}",
        ]
    )


def run_steps(steps: str, mode: str = "in memory") -> None:
    """Run the transforms of a pipeline that includes the catalog."""
    indented = "\n".join(f"    {line}" for line in steps.splitlines())
    spec = f"providers:\n  - include: {PROVIDERS}\npipeline:\n  transforms:\n{indented}\n"
    options, construct = main.build_pipeline_components_from_yaml(
        spec, ["--runner=FnApiRunner", *MODES[mode]]
    )
    with beam.Pipeline(options=options) as p:
        construct(p)


# As on a launching machine without them: importing either fails.
WITHOUT_TORCH = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
# Examples without a model run by Beam's command; those with a model need torch to run.
RUN_EXAMPLES = """
import json, runpy, sys, traceback
import apache_beam as beam
from apache_beam.yaml import main

found = {}
for path, variables in json.loads(sys.argv[1]):
    variables_json = json.dumps(variables)
    sys.argv = ["main", f"--yaml_pipeline_file={path}", f"--jinja_variables={variables_json}"]
    try:
        if "model" in variables:
            options, construct, _ = main.build_pipeline_components_from_argv(sys.argv[1:])
            construct(beam.Pipeline(options=options))
        else:
            runpy.run_module("apache_beam.yaml.main", run_name="__main__")
        found[path] = None
    except Exception:
        found[path] = traceback.format_exc()
print(json.dumps([found, [name for name in ("torch", "transformers") if name in sys.modules]]))
"""
EXAMPLES = {
    path.name: path for path in sorted((ROOT / "transforms").glob("*.yaml")) if path != PROVIDERS
}


def run_without_torch(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python where neither torch nor transformers can be imported."""
    (folder / "sitecustomize.py").write_text(WITHOUT_TORCH)
    env = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


WRITES_VECTORS = "write_vectors_to_parquet.yaml"  # which other examples read


def chosen(request: pytest.FixtureRequest) -> list[str]:
    """Name the examples that this session tests without torch, and the one that they may read."""
    test = test_every_example_is_built_without_torch_and_runs_if_it_needs_no_model
    items = [one for one in request.session.items if getattr(one, "function", None) is test]
    return sorted({WRITES_VECTORS, *(item.callspec.params["example"] for item in items)})


@pytest.fixture(scope="module")
def run_without(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str | None]:
    """Run the chosen examples in one process without torch, and return the errors.

    Examples with a model are only built there.
    """
    folder, jobs = tmp_path_factory.mktemp("without_torch"), []
    for name in chosen(request):
        path = EXAMPLES[name]
        text, written = path.read_text(), str(folder / WRITES_VECTORS)
        named = {"model": "some/model", "output": str(folder / name), "vectors": written}
        jobs.append(
            (str(path), {key: value for key, value in named.items() if f"{{{{ {key} }}}}" in text})
        )
    jobs.sort(key=lambda job: "vectors" in job[1])  # these read what another one writes
    done = run_without_torch(folder, "-c", RUN_EXAMPLES, json.dumps(jobs))
    assert done.returncode == 0, done.stderr
    assert "Running pipeline..." in done.stdout, done.stderr
    found, loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded == []
    return {Path(path).name: error for path, error in found.items()}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_built_without_torch_and_runs_if_it_needs_no_model(
    example: str, run_without: dict[str, str | None]
) -> None:
    assert run_without[example] is None, run_without[example]


@pytest.mark.parametrize(
    "example", [name for name, path in EXAMPLES.items() if "{{ model }}" in path.read_text()]
)
def test_every_example_with_a_model_runs(example: str, minilm: str, tmp_path: Path) -> None:
    run_file(
        EXAMPLES[example],
        model=SMALL[example](tmp_path) if example in SMALL else minilm,
        output=str(tmp_path / "output"),
    )


def tiny_cross_encoder(folder: Path) -> str:
    """Save a random one, which knows no words; no package has the weights of a real one."""
    from tests.embedding.test_rerank import save

    return save(folder / "model", "bert")


def tiny_static_model(folder: Path) -> str:
    """Save one, as a teacher whose vocabulary takes no time."""
    from tests.core.static.models import bert, static_embedding, token_vectors

    tokenizer = bert()
    return static_embedding(folder / "model", tokenizer, token_vectors(tokenizer))


def tiny_estimator(folder: Path) -> str:
    """Save a random one in the layout of CometKiwi."""
    from tests.core.scorers.tiny_estimators import save

    return save(folder / "model")


def tiny_sparse_model(folder: Path) -> str:
    """Save a random masked language model; no package has the weights of a sparse one."""
    from tests.core.sparse.models import plain

    return plain(folder / "model")


def tiny_clip(folder: Path) -> str:
    """Save a random CLIP; no package has the weights of a real one."""
    from tests.core.images.tiny_towers import make_clip

    return str(make_clip(folder / "model"))


def tiny_token_model(folder: Path) -> str:
    """Save a random one as PyLate does."""
    from tests.core.multi_vectors.tiny_models import pylate

    (folder / "model").mkdir()
    return pylate(folder / "model")


SMALL = {
    "embed_images.yaml": tiny_clip,
    "embed_sparse.yaml": tiny_sparse_model,
    "embed_tokens.yaml": tiny_token_model,
    "rerank.yaml": tiny_cross_encoder,
    "distill_static.yaml": tiny_static_model,
    "score_translations.yaml": tiny_estimator,
}


def test_every_public_transform_is_in_the_catalog() -> None:
    provided = {
        name
        for provider in yaml_provider.load_providers(str(PROVIDERS))
        for name in provider.provided_transforms()
    }
    examples = {
        suffix: "".join(p.read_text() for p in (ROOT / "transforms").glob(f"*.{suffix}"))
        for suffix in ("py", "yaml")
    }
    missing = []
    for name in TRANSFORMS:
        if not hasattr(yaml_transforms, name):
            missing.append(
                f"{name} = in_yaml(beam_gpte.{name}, ...) in beam_gpte/interop/yaml_transforms.py"
            )
        if name not in provided:
            missing.append(
                f"{name}: beam_gpte.interop.yaml_transforms.{name} in transforms/providers.yaml"
            )
        if not re.search(rf"type: {name}\b", examples["yaml"]):
            missing.append(f"an example transforms/*.yaml with type: {name}")
        if not re.search(rf"\b{name}\(", examples["py"]):
            missing.append(f"an example transforms/*.py with {name}(...)")
    assert not missing, "add\n" + "\n".join(missing)
    assert not provided - set(TRANSFORMS)


def undocumented(path: str, schema: Any) -> Iterator[str]:
    """Find the settings without a description, also those of settings objects."""
    for field in schema.fields:
        if not field.description:
            yield f"{path}.{field.name}"
        if field.name != "error_handling":  # Beam's own
            yield from undocumented(f"{path}.{field.name}", field.type.row_type.schema)


def test_every_setting_is_typed_and_documented() -> None:
    (provider,) = yaml_provider.load_providers(str(PROVIDERS))
    bare = []
    for name in provider.provided_transforms():
        schema = provider.config_schema(name)
        assert provider.description(name), name
        assert {"error_handling"} <= {field.name for field in schema.fields} or not hasattr(
            getattr(beam_gpte, name), "with_exception_handling"
        )
        bare += undocumented(name, schema)
        assert "reference" not in {field.name for field in schema.fields}  # an input
    assert not bare, f"describe in the docstring's Attributes: {', '.join(bare)}"
    types = {field.name: field.type for field in provider.config_schema("DeduplicateExact").fields}
    assert types["key_columns"].array_type.element_type.atomic_type  # a list of strings
    assert types["error_handling"].row_type.schema.fields[0].name == "output"
    columns = types["columns"].row_type.schema.fields  # a settings object
    assert [field.name for field in columns] == ["id", "text", "embedding"]
    (language,) = (
        field for field in provider.config_schema("ChunkText").fields if field.name == "language"
    )
    assert "; in YAML also a mapping of what FromColumn takes: {name: ...}" in language.description


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        (
            "WriteVectorsToParquet",
            {"path": "p", "partition_by": "a", "num_shards": 2, "mode": "append"},
            {},
        ),
        (
            "WriteVectorsToParquet",
            {"path": "p", "partition_by": ["a", "b"]},
            {"partition_by": ("a", "b")},
        ),
        (
            "WriteVectorsToDuckDB",
            {"path": "p", "mode": "insert", "run": None, "options": {"index": True}},
            {"options": beam_gpte.DuckDBOptions(index=True)},
        ),
        (
            "DeduplicateSemantic",
            {"scope": "site", "options": {"report_thresholds": [0.95, 1]}, "columns": {"id": "n"}},
            {
                "options": beam_gpte.SemanticOptions(report_thresholds=(0.95, 1)),
                "columns": beam_gpte.Columns(id="n"),
            },
        ),
        (
            "DeduplicateLexical",
            {"minhash": {"num_perm": 64}, "columns": {}},
            {"minhash": beam_gpte.MinHash(num_perm=64), "columns": beam_gpte.Columns()},
        ),
        ("DeduplicateLexical", {"similarity": "containment", "keep": None}, {}),
        (
            "Deduplicate",
            {"steps": [{"type": "DeduplicateExact", "columns": {"id": "n"}}], "scratch": "s"},
            {"steps": ANY},
        ),
        (
            "DeduplicateStream",
            {"cells": {"cells": 8, "probes": 2}},
            {"cells": beam_gpte.StreamCells(cells=8, probes=2)},
        ),
        (
            "MineBitext",
            {
                "comparison": {"search": "cells", "center": False},
                "thresholding": {"target_precision": 0.9},
                "output": {"emit": "pairs", "max_length_ratio": None},
                "scope": "site",
                "mine_unmatched": True,
                "threshold": "posterior",
            },
            {
                "comparison": beam_gpte.Comparison(center=False, search="cells"),
                "thresholding": beam_gpte.Thresholding(target_precision=0.9),
                "output": beam_gpte.BitextOutput(emit="pairs", max_length_ratio=None),
            },
        ),
        ("ChunkText", {"by": "markdown", "size": 9, "model": None}, {}),
        ("ChunkText", {"by": "sentences", "size": 9, "language": "de"}, {}),
        (
            "ChunkText",
            {"by": "sentences", "size": 9, "language": {"name": "lang"}},
            {"language": beam_gpte.FromColumn("lang")},
        ),
        (
            "WatchCorpus",
            {"pattern": ["a", "b"], "columns": {"n": "int64"}, "polling": {"interval": 1}},
            {
                "pattern": ("a", "b"),
                "columns": {"n": pa.int64()},
                "polling": beam_gpte.Polling(interval=1),
            },
        ),
        (
            "EmbedText",
            {"model": {"model": "m", "normalize": False}, "runtime": {"threads": 2}},
            {
                "model": beam_gpte.EncoderConfig("m", normalize=False),
                "runtime": beam_gpte.ModelRuntime(threads=2),
            },
        ),
        (
            "EmbedText",
            {
                "model": {
                    "url": "https://models.example/v1",
                    "model": "m",
                    "headers": {"Authorization": "Bearer ${KEY}"},
                    "parameters": {"truncate": True},
                    "requests_per_second": 5,
                }
            },
            {
                "model": beam_gpte.EndpointConfig(
                    "https://models.example/v1",
                    "m",
                    headers={"Authorization": "Bearer ${KEY}"},
                    parameters={"truncate": True},
                    requests_per_second=5,
                )
            },
        ),
        (
            "Rerank",
            {"model": {"url": "http://localhost:8080", "model": "m", "api": "tei"}},
            {"model": beam_gpte.EndpointConfig("http://localhost:8080", "m", "tei")},
        ),
        (
            "DeduplicateSemantic",
            {"model": {"url": "http://localhost:8080", "model": "m"}},
            {"model": beam_gpte.EndpointConfig("http://localhost:8080", "m")},
        ),
        ("EmbedText", {"model": "m", "reuse": "a"}, {"model": "m"}),
        ("EmbedSparse", {"model": "m", "reuse": "a"}, {"model": "m"}),
        ("EmbedTokens", {"model": "m", "reuse": "a"}, {"model": "m"}),
        (
            "EmbedImages",
            {"model": "m", "reuse": "a", "storage": {"sha256": True}},
            {"storage": beam_gpte.ImageStorage(sha256=True)},
        ),
        (
            "EmbedText",
            {"model": "m", "reuse": {"path": "a", "quantized": "int8", "int8_limit": 0.2}},
            {"reuse": beam_gpte.Reuse("a", "int8", 0.2)},
        ),
        (
            "MineHardNegatives",
            {
                "model": "m",
                "ranks": [2, 5],
                "pairs": {"query_model": {"model": "m", "prompt_name": "query"}},
            },
            {
                "ranks": (2, 5),
                "pairs": beam_gpte.PairOptions(
                    query_model=beam_gpte.EncoderConfig("m", prompt_name="query")
                ),
            },
        ),
    ],
)
def test_settings_are_what_the_transforms_take(name: str, config: dict, expected: dict) -> None:
    transform = getattr(beam_gpte, name)
    arguments = configure(name, settings_of(transform), config)
    assert arguments == {**config, **expected}
    transform(**arguments)  # which checks them


TABLE_HEAD = "| transform | takes | gives | YAML | example |"


def table_of(path: Path) -> dict[str, str]:
    """The rows of the table of transforms, by name."""
    text = path.read_text(encoding="utf-8")
    assert TABLE_HEAD in text, f"{path.name} has no table {TABLE_HEAD}"
    lines = text.split(TABLE_HEAD)[1].splitlines()[2:]
    return {row.split("`")[1]: row for row in lines[: lines.index("")]}


def test_the_catalog_lists_every_public_transform_and_its_examples() -> None:
    shown = table_of(ROOT / "transforms" / "README.md")
    missing = [f"add a row for {name}" for name in TRANSFORMS if name not in shown]
    assert not missing
    for name, row in shown.items():
        _, _, takes, gives, yaml_name, examples, _ = row.split("|")
        assert takes.strip(), row
        assert gives.strip(), row
        assert yaml_name.strip() == f"`{name}`", row
        assert hasattr(yaml_transforms, name), row
        files = [part.split(")")[0] for part in examples.split("(")[1:]]
        assert sorted(Path(file).suffix for file in files) == [".py", ".yaml"], row
        assert all((ROOT / "transforms" / file).exists() for file in files), row
        for file in files:
            text = (ROOT / "transforms" / file).read_text(encoding="utf-8")
            assert name in text, f"{file} does not use {name}"
    listed = "".join(shown.values())
    unlisted = [
        p.name
        for p in (ROOT / "transforms").glob("*.*")
        if p.suffix in (".py", ".yaml") and p.name not in listed
    ]
    assert sorted(unlisted) == ["embed_by_endpoint.py", "providers.yaml"]


def test_rows_keep_their_types_on_other_processes() -> None:
    run_steps(
        """
- type: Create
  config:
    elements:
      - {id: 1, text: one, n: 0.5, embedding: [1.0, 0.0]}
      - {id: 2, text: two, n: 1.5, embedding: [1.0, 0.0]}
      - {id: 2, text: two, n: 1.5, embedding: [1.0, 0.0]}
- {type: RejectDuplicateIds, input: Create, config: {error_handling: {output: twice}}}
- {type: QuantizeVectors, input: RejectDuplicateIds, config: {to: float16}}
- {type: Reshuffle, input: QuantizeVectors}
- type: MapToFields
  name: Kept
  input: Reshuffle
  config:
    language: python
    append: true
    drop: [embedding]
    fields: {more: id + 1, first: "embedding[0] + embedding[1]"}
- type: AssertEqual
  name: AssertKept
  input: Kept
  config:
    elements:
      - {id: 1, text: one, n: 0.5, more: 2, first: 1.0}
      - {id: 2, text: two, n: 1.5, more: 3, first: 1.0}
- {type: StripErrorMetadata, input: RejectDuplicateIds.twice}
- type: AssertEqual
  input: StripErrorMetadata
  config:
    elements:
      - {id: 2, text: two, n: 1.5, embedding: [1.0, 0.0]}
""",
        "two processes",
    )


def test_rejects_of_several_steps_are_written_whole(tmp_path: Path) -> None:
    run_steps(
        f"""
- type: Create
  config:
    elements:
      - {{id: 1, text: 5}}
      - {{id: 1, text: 5}}
      - {{id: 2, text: 6}}
- {{type: RejectDuplicateIds, input: Create, config: {{error_handling: {{output: twice}}}}}}
- type: IdentifyLanguage
  input: RejectDuplicateIds
  config: {{keep: [de], error_handling: {{output: others}}}}
- {{type: LogForTesting, input: IdentifyLanguage}}
- type: WriteRejects
  input: [RejectDuplicateIds.twice, IdentifyLanguage.others]
  config: {{path: {tmp_path}}}
"""
    )
    rejects = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.open()]
    assert sorted((row["id"], str(row["text"]), row["reject_step"]) for row in rejects) == [
        (1, "5", "IdentifyLanguage"),
        (1, "5", "RejectDuplicateIds"),
        (2, "6", "IdentifyLanguage"),
    ]


def test_ids_of_rows_are_integers_in_every_file(tmp_path: Path) -> None:
    """Steps compare them as strings; files get the type that the rows have."""
    run_steps(
        f"""
- {{type: Create, config: {{elements: [{{id: 1, text: one}}, {{id: 2, text: One}}]}}}}
- {{type: DeduplicateExact, input: Create}}
- type: WriteVectorsToParquet
  name: A
  input: DeduplicateExact.removed
  config: {{path: {tmp_path}/removed}}
- type: WriteVectorsToParquet
  name: B
  input: DeduplicateExact.pairs
  config: {{path: {tmp_path}/pairs}}
"""
    )
    (removed,), (pair,) = (read_table(tmp_path / name).to_pylist() for name in ("removed", "pairs"))
    assert (removed["id"], removed["duplicate_of"], pair["first_id"], pair["second_id"]) == (
        2,
        1,
        1,
        2,
    )


def test_chunks_have_the_fields_that_they_gain(minilm: str) -> None:
    parent = hashlib.blake2b(b"one two three four five", digest_size=16).hexdigest()
    run_steps(
        f"""
- {{type: Create, config: {{elements: [{{id: 7, text: one two three four five, n: 1}}]}}}}
- type: EmbedText
  input: Create
  config:
    model: {{model: {minilm}, long_text: chunks, chunk_tokens: 3, truncate_dim: 8}}
    token_columns: true
- type: MapToFields
  input: EmbedText
  config:
    language: python
    append: true
    drop: [embedding]
    fields: {{dimensions: len(embedding)}}
- type: AssertEqual
  input: MapToFields
  config:
    elements:
      - {{id: "7#0", text: one two three, n: 1, parent_id: 7, chunk_index: 0, chunk_start: 0,
         parent_hash: "{parent}", chunk_end: 13, tokens: 3, tokens_dropped: 0, dimensions: 8}}
      - {{id: "7#1", text: four five, n: 1, parent_id: 7, chunk_index: 1, chunk_start: 14,
         parent_hash: "{parent}", chunk_end: 23, tokens: 2, tokens_dropped: 0, dimensions: 8}}
"""
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "{type: EmbedText, input: Create, config: {modle: m}}",
            "EmbedText: there is no 'modle'; it takes model, text_column",
        ),
        ("{type: EmbedText, input: Create}", "EmbedText: model is missing: a hub name"),
        (
            "{type: EmbedText, input: Create, config: {model: {model: m, pooling: best}}}",
            "pooling 'best': choose",
        ),
        (
            "{type: DeduplicateLexical, input: Create, config: {threshold: high}}",
            "threshold is 'high'; use a number",
        ),
        (
            "{type: DeduplicateLexical, input: Create, config: {threshold: 2}}",
            "threshold is 2; use",
        ),
        (
            "{type: DeduplicateExact, input: Create, config: {key_columns: [1]}}",
            r"key_columns is \[1\]; use a list of strings",
        ),
        (
            "{type: Deduplicate, input: Create, config: {steps: [{type: Exact}]}}",
            "a step of type 'Exact'; use DeduplicateExact,",
        ),
        (
            "{type: WatchCorpus, config: {pattern: p}}",
            r"columns is missing.* \{stars: int64\}, or \{\} for nothing",
        ),
        (
            "{type: WatchCorpus, config: {pattern: p, columns: {n: int63}}}",
            "no type 'int63'; use int64",
        ),
        ("{type: ReadVectors, config: {path: no/such/folder}}", "no file matches"),
        (
            "{type: ScoreBitext, input: {source: Create, target: Create}}",
            "inputs source, target; it takes pairs, source, targ",
        ),
        (
            "{type: MineBitext, input: {source: Create}}",
            "MineBitext: inputs input; it takes source, target, decoys",
        ),
        (
            "{type: DeduplicateExact, input: {input: Create, refrence: Create}}",
            "inputs input, refrence; it takes input, refer",
        ),
        (
            "{type: RejectDuplicateIds, input: Create, "
            "config: {error_handling: {output: x, more: 1}}}",
            "use {output: NAME}",
        ),
        (
            "{type: DeduplicateSemantic, input: Create, config: {options: {foo: 1}}}",
            "DeduplicateSemantic: options: there is no 'foo'; it takes report_thresholds, max_nei",
        ),
        (
            "{type: DeduplicateSemantic, input: Create, config: {options: exact}}",
            "DeduplicateSemantic: options is 'exact'; use a mapping of what SemanticOptions takes",
        ),
        (
            "{type: Deduplicate, input: Create, config: {steps: [{type: DeduplicateExact, "
            "columns: {ids: n}}]}}",
            "Deduplicate: DeduplicateExact: columns: there is no 'ids'; it takes id, text, embed",
        ),
        (
            "{type: MineBitext, input: {source: Create, target: Create}, "
            "config: {comparison: {search: best}}}",
            "MineBitext: comparison: search is 'best'; use auto",
        ),
        (
            "{type: ChunkText, input: Create, config: {by: sentences, language: {column: lang}}}",
            "ChunkText: language: there is no 'column'; it takes name",
        ),
        (
            "{type: ChunkText, input: Create, config: {by: sentences, language: {}}}",
            "ChunkText: language: name is missing",
        ),
        (
            "{type: ChunkText, input: Create, config: {by: sentences, language: 7}}",
            "language is 7; use a string or a mapping of what FromColumn takes or null",
        ),
        (
            "{type: WriteRejects, input: Create, config: {path: p, error_handling: {output: x}}}",
            "no 'error_handling'",
        ),
        ("{type: ApplyPostprocess, input: Create}", "postprocess is missing; give it as an input"),
        ("{type: ReadCorpus, config: {pattern: no/such/file.jsonl}}", "no file matches"),
    ],
)
def test_mistakes_name_the_step_and_the_repair_before_anything_runs(
    step: str, message: str
) -> None:
    name = step.split(",")[0].removeprefix("{type: ")
    steps = f"- {{type: Create, config: {{elements: [{{id: 1, text: a}}]}}}}\n- {step}\n"
    errors = (
        f"- {{type: LogForTesting, input: {name}.x}}" if "error_handling" in step else ""
    )  # an output that is not used is an error
    with pytest.raises(ValueError, match=message):
        run_steps(steps + errors)


def test_pairs_of_two_corpora_are_scored_beside_their_own_columns() -> None:
    run_steps(
        """
- type: Create
  name: Source
  config:
    elements:
      - {id: 1, text: eins, embedding: [1.0, 0.0]}
      - {id: 2, text: zwei, embedding: [0.0, 1.0]}
- type: Create
  name: Target
  config:
    elements:
      - {id: 5, text: one, embedding: [0.8, 0.6]}
      - {id: 6, text: two, embedding: [0.6, 0.8]}
- {type: Create, name: Pairs, config: {elements: [{source_id: 1, target_id: 6, n: 7}]}}
- type: ScoreBitext
  input: {pairs: Pairs, source: Source, target: Target}
  config: {comparison: {center: false}, k: 1}
- type: MapToFields
  input: ScoreBitext.pairs
  config:
    language: python
    fields:
      {source_id: source_id, target_id: target_id, n: n, source_text: source_text,
       target_text: target_text, cosine: "round(cosine, 3)", forward_rank: forward_rank}
- type: AssertEqual
  input: MapToFields
  config:
    elements:
      - {source_id: 1, target_id: 6, n: 7, source_text: eins, target_text: two, cosine: 0.6,
         forward_rank: null}
"""
    )


def test_pairs_within_and_across_scopes_are_marked() -> None:
    run_steps(
        """
- type: Create
  name: Source
  config:
    elements:
      - {id: 1, text: eins, page: a, embedding: [1.0, 0.0]}
      - {id: 2, text: zwei, page: b, embedding: [0.0, 1.0]}
- type: Create
  name: Target
  config:
    elements:
      - {id: 5, text: one, page: a, embedding: [0.8, 0.6]}
      - {id: 6, text: two, page: c, embedding: [0.6, 0.8]}
- type: MineBitext
  input: {source: Source, target: Target}
  config:
    scope: page
    mine_unmatched: true
    k: 1
    margin: absolute
    threshold: 0.1
    comparison: {center: false}
- type: MapToFields
  input: MineBitext.pairs
  config:
    fields: {source_id: source_id, target_id: target_id, found_in: found_in}
- type: AssertEqual
  input: MapToFields
  config:
    elements:
      - {source_id: 1, target_id: 5, found_in: scope}
      - {source_id: 2, target_id: 6, found_in: all}
"""
    )


def test_decoys_are_an_optional_input() -> None:
    steps = """
- {type: Create, name: Source, config: {elements: [{id: 1, text: eins, embedding: [1.0, 0.0]}]}}
- {type: Create, name: Target, config: {elements: [{id: 5, text: one, embedding: [0.8, 0.6]}]}}
- {type: Create, name: Noise, config: {elements: [{id: 9, text: neun, embedding: [0.0, 1.0]}]}}
- type: MineBitext
  input: {source: Source, target: Target, decoys: Noise}
  config: {k: 1, margin: absolute, thresholding: {target_precision: 0.5}}
- {type: LogForTesting, input: MineBitext.pairs}
"""
    with pytest.raises(Exception, match=r"no threshold has a precision of 0.5: .* more decoys"):
        run_steps(steps)
    with pytest.raises(ValueError, match="decoys"):
        run_steps(steps.replace(", decoys: Noise", ""))


def test_rows_without_a_schema_are_refused() -> None:
    with pytest.raises(ValueError, match="its input has no schema; put MapToFields before it"):
        run_steps(
            "- {type: PyTransform, config: {constructor: apache_beam.Create, args: [[1]]}, "
            "input: {}}\n- {type: RejectDuplicateIds, input: PyTransform}"
        )


def test_a_column_that_comes_late_is_named_and_not_lost(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": f"t{i}", **({"late": 1} if i > 5000 else {})}) for i in range(6000)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(
        Exception,
        match="columns late are not in the first rows of any file; name what to read by columns",
    ):
        run_steps(f"- {{type: ReadCorpus, config: {{pattern: '{tmp_path}/*.jsonl'}}}}")


def read_table(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def read_rejects(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("rejects/*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]


def test_a_corpus_is_embedded_as_by_the_program(tmp_path: Path, minilm: str) -> None:
    lines = [
        '{"id": 1, "text": "a cat"}',
        '{"id": 2, "text": ""}',
        "no JSON",
        '{"id": 3, "text": "a dog"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    run_file(
        ROOT / "pipelines/embed_corpus.yaml",
        input=f"{tmp_path}/*.jsonl",
        output=f"{tmp_path}/out",
        model={"model": minilm, "truncate_dim": 64},
        id_column="id",
        duckdb=f"{tmp_path}/v.duckdb",
    )
    table = read_table(tmp_path / "out").sort_by("id")
    assert table.select(["id", "text"]).to_pylist() == [
        {"id": 1, "text": "a cat"},
        {"id": 3, "text": "a dog"},
    ]
    # the metadata of the model are kept, though rows have none
    about = vector_fields(table.schema)["embedding"]
    assert (about.model, about.dim, about.pooling) == (Path(minilm).name, 64, "mean")
    assert {
        (row["reject_step"], row["reject_reason"].split(":")[0])
        for row in read_rejects(tmp_path / "out")
    } == {
        ("ReadCorpus", "broken JSON"),
        ("EmbedText", "text is empty"),
    }
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == {
        "texts": 3,
        "vectors": 2,
        "unreadable": 1,
        "refused": 1,
        "reasons": {"broken JSON": 1, "text is empty": 1},
    }
    with duckdb.connect(f"{tmp_path}/v.duckdb", read_only=True) as connection:
        assert connection.execute(
            "SELECT count(*), sum(len(embedding)) FROM vectors"
        ).fetchone() == (2, 128)


def test_nothing_is_written_but_rejects_if_they_are_too_many_for_a_yaml_run(
    tmp_path: Path, minilm: str, jsonl: Callable[[list[dict]], str]
) -> None:
    rows = jsonl([{"id": i, "text": text} for i, text in enumerate(["a cat", "", None])])
    named = {
        "input": rows,
        "output": f"{tmp_path}/out",
        "model": minilm,
        "id_column": "id",
        "max_rejects": 1,
    }
    with pytest.raises(Exception, match="2 rows rejected, more than max_rejects 1"):
        run_file(ROOT / "pipelines/embed_corpus.yaml", **named)
    assert {row["id"] for row in read_rejects(tmp_path / "out")} == {1, 2}
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["rejects"]


def test_a_corpus_loses_its_duplicates_as_by_the_program(
    tmp_path: Path, minilm: str, jsonl: Callable[[list[dict]], str]
) -> None:
    texts = [
        "How do I open a file?",
        "how do I open a  file?",
        "How can I open a file?",
        "Stock prices fell.",
        None,
    ]
    rows = jsonl([{"id": f"r{i}", "text": text, "n": i} for i, text in enumerate(texts)])
    out = tmp_path / "clean"
    named = {
        "input": rows,
        "output": str(out),
        "model": minilm,
        "id_column": "id",
        "by": ["exact", "semantic"],
    }
    run_file(ROOT / "pipelines/deduplicate_corpus.yaml", **named)
    kept = read_table(out / "kept")
    assert {row["id"] for row in kept.to_pylist()} == {"r0", "r3"}
    assert vector_fields(kept.schema)["embedding"].model == Path(minilm).name
    removed = {
        row["id"]: (row["duplicate_of"], row["found_by"], row["n"])
        for row in read_table(out / "removed").to_pylist()
    }
    assert removed == {"r1": ("r0", "exact", 1), "r2": ("r0", "semantic", 2)}
    assert read_table(out / "pairs").num_rows == 2
    assert [(row["id"], row["reject_reason"]) for row in read_rejects(out)] == [
        ("r4", "text is null")
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rows"], summary["kept"], summary["removed"], summary["refused"]) == (
        5,
        2,
        2,
        1,
    )
    assert [(step["step"], step["removed"]) for step in summary["steps"]] == [
        ("exact", 1),
        ("semantic", 1),
    ]


def test_yaml_keeps_the_previous_output_unless_rows_were_read_and_all_removed(
    tmp_path: Path, jsonl: Callable[[list[dict]], str]
) -> None:
    out, by = tmp_path / "clean", ["exact"]
    named = {"output": str(out), "model": "none", "id_column": "id", "by": by}
    program = ROOT / "pipelines/deduplicate_corpus.yaml"
    good = [{"id": f"r{i}", "text": text, "embedding": [0.5]} for i, text in enumerate("aab")]

    def ids() -> tuple[set, set]:
        kept, removed = (
            {row["id"] for file in (out / name).glob("*.parquet") for row in read(file)}
            for name in ("kept", "removed")
        )
        return kept, removed

    def read(file: Path) -> list[dict]:
        return pq.read_table(file).to_pylist()

    run_file(program, input=jsonl(good), **named)
    assert ids() == ({"r0", "r2"}, {"r1"})
    bad = jsonl([{**row, "text": None} for row in good])
    with pytest.raises(Exception, match="no row is usable: 3 were rejected, see their reasons"):
        run_file(program, input=bad, **named)
    assert ids() == ({"r0", "r2"}, {"r1"})
    assert {row["reject_reason"] for row in read_rejects(out)} == {"text is null"}

    known = tmp_path / "known.parquet"
    pq.write_table(pa.table({"id": ["k0", "k1"], "text": ["a", "b"]}), known)
    run_file(program, input=jsonl(good), reference=str(known), **named)
    assert ids() == (set(), {"r0", "r1", "r2"})


def test_a_bitext_is_mined_as_by_the_program(tmp_path: Path) -> None:
    from tests.cli.test_programs import bitext_sides

    source, target = bitext_sides(tmp_path)
    out = tmp_path / "mined"
    run_file(
        ROOT / "pipelines/mine_bitext.yaml",
        source=str(source),
        target=str(target),
        output=str(out),
        id_column="id",
    )
    found = read_table(out / "bitext")
    expected = {(f'source,"{i}"\t{i:02}', f'target,"{i}"\t{i:02}') for i in range(40)}
    assert {(row["source_id"], row["target_id"]) for row in found.to_pylist()} == expected
    assert (
        json.loads(found.schema.field("margin").metadata[b"beam_gpte.bitext"])["retrieval"]
        == "intersection"
    )
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["source"], summary["target"], summary["pairs"]) == (60, 60, 40)
    assert [(report["source_rows"], report["pairs"]) for report in summary["report"]] == [(60, 40)]


def test_a_stream_is_embedded_until_it_is_stopped_as_by_the_program(
    tmp_path: Path, minilm: str
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a cat", "n": 1}\nno JSON\n{"text": ""}')
    (tmp_path / "stop").touch()
    named: dict[str, Any] = {
        "duckdb": f"{tmp_path}/v.duckdb",
        "rejects": f"{tmp_path}/rejects",
        "stop": f"{tmp_path}/stop",
        "model": minilm,
    }
    named |= {"input": f"{tmp_path}/*.jsonl", "columns": {"n": "int64"}}
    for _ in range(2):  # as after a crash
        main.run(
            [
                f"--yaml_pipeline_file={ROOT / 'pipelines/embed_stream.yaml'}",
                f"--jinja_variables={json.dumps(named)}",
            ]
        )
    with duckdb.connect(f"{tmp_path}/v.duckdb", read_only=True) as connection:
        found = connection.execute("SELECT id, text, n, len(embedding) FROM vectors").fetchall()
    assert found == [("a.jsonl:1", "a cat", 1, 384)]
    assert {row["reject_step"] for row in read_rejects(tmp_path)} == {"WatchCorpus", "EmbedText"}


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        (
            "DeduplicateExact",
            "keep: stars desc",
            "DeduplicateExact: row with id 1: no column 'stars'; fix ",
        ),
        (
            "DeduplicateSemantic",
            "threshold: 0.9",
            "DeduplicateSemantic: row with id 1: embedding is ",
        ),
        ("ChunkText", "{by: sentences, size: 9}", "ChunkText: row with id 1: text is null; fix "),
        ("QuantizeVectors", "to: int8", "QuantizeVectors: row with id 1: embedding is null; "),
    ],
)
def test_an_error_names_the_type_of_the_yaml_step(kind: str, config: str, said: str) -> None:
    rows = '{id: 1, text: null}, {id: 2, text: "b"}'
    steps = (
        f"- {{type: Create, config: {{elements: [{rows}]}}}}\n"
        f"- {{type: {kind}, input: Create, config: {{{config.strip('{}')}}}}}"
    )
    with pytest.raises(Exception, match=re.escape(said)) as failed:
        run_steps(steps)
    assert "collect such rows with .with_exception_handling() (error_handling in YAML)" in str(
        failed.value
    )


@pytest.mark.parametrize("name", ["__gpte_row", "__gpte_anything"])
def test_a_hidden_name_gets_in_by_no_step_of_yaml(name: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1"], "text": ["a"], name: [b""]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "text": "a", name: "x"}))
    reads = [
        f"type: ReadCorpus, config: {{pattern: {tmp_path}/a.{kind}, id_column: id, columns: {of}}}"
        for kind in ("parquet", "jsonl")
        for of in (f"[{name}]", "null")
    ]
    reads.append(f"type: ReadFromParquet, config: {{file_pattern: {tmp_path}/a.parquet}}")
    reads.append(f"type: Create, config: {{elements: [{{id: 1, text: b, {name}: 3}}]}}")
    for read in reads:
        with pytest.raises(ValueError, match=f"'{name}'"):
            run_steps(f"- {{name: In, {read}}}\n- {{type: DeduplicateExact, input: In}}")


SYNC = """
- type: Create
  name: Rows
  config:
    elements: [{id: a, n: 1}, {id: b, n: 3}, {id: b, n: 3}]
- type: RejectDuplicateIds
  input: Rows
  config: {error_handling: {output: repeated}}
- type: LogForTesting
  input: RejectDuplicateIds.repeated
- type: Sink
  input: {input: RejectDuplicateIds, rejects: Gone}
  config: {path: PATH, mode: sync, replacing: {allow_empty: true}}
- type: Create
  name: Gone
  config:
    elements: [{id: c, reject_reason: too long}]
"""


@pytest.mark.parametrize("sink", ["WriteVectorsToParquet", "WriteVectorsToDuckDB"])
def test_rejects_of_a_sync_are_a_named_input(sink: str, tmp_path: Path) -> None:
    path = str(tmp_path / "out.duckdb") if sink.endswith("DuckDB") else str(tmp_path / "out")
    rows = [{"id": name, "n": 2} for name in "bcd"]
    with beam.Pipeline("FnApiRunner") as p:
        _ = p | beam.Create(rows) | getattr(beam_gpte, sink)(path)
    run_steps(SYNC.replace("Sink", sink).replace("PATH", path))
    found = [row for block in read_vectors(path) for row in block.batch.to_pylist()]
    assert sorted(row["id"] for row in found) == ["a", "b", "c"]  # c was rejected, d is gone
    (changed,) = (row["n"] for row in found if row["id"] == "b")
    assert changed == 3


def test_a_deletion_takes_rows_of_yaml(tmp_path: Path) -> None:
    with beam.Pipeline("FnApiRunner") as p:
        rows = [{"id": 1, "n": 2}, {"id": 2, "n": 3}]
        _ = p | beam.Create(rows) | beam_gpte.WriteVectorsToParquet(str(tmp_path))
    run_steps(f"""
- type: Create
  config:
    elements: [{{id: 2, why: withdrawn}}]
- type: DeleteVectors
  input: Create
  config: {{path: {tmp_path}}}
""")
    assert [block.batch["id"].to_pylist() for block in read_vectors(str(tmp_path))] == [[1]]
