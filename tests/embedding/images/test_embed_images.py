"""EmbedImages: vectors of any kind of image, a broken one costs one row, texts find images."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.ml.rag.types import Content, EmbeddableItem
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    Block,
    DeduplicateSemantic,
    EmbedImages,
    EmbedText,
    EncoderConfig,
    FilterPairs,
    ImageEncoder,
    InputError,
    NearestNeighbors,
    PairOptions,
    TextEncoder,
    WriteRejects,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.core.metadata import vector_fields
from beam_gpte.embedding.images.read_images import read_images
from beam_gpte.sources.read_vectors import read_vectors
from tests.core.images.test_decode import png
from tests.core.images.tiny_towers import draw, encoded, make_clip

NewPipeline = Callable[..., beam.Pipeline]
ROWS = 12


class Photo(NamedTuple):
    id: int
    image: bytes
    caption: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_clip(tmp_path_factory.mktemp("model") / "clip"))


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    kinds = ("PNG", "JPEG", "WEBP", "GIF")
    return [encoded(draw(seed), kinds[seed % len(kinds)]) for seed in range(ROWS)]


@pytest.fixture(scope="module")
def vectors(folder: str, files: list[bytes]) -> np.ndarray:
    return ImageEncoder.load(folder).encode(files)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, files: list[bytes]) -> list[str]:
    root = tmp_path_factory.mktemp("images")
    for number, content in enumerate(files):
        (root / f"{number}.img").write_bytes(content)
    return [str(root / f"{number}.img") for number in range(len(files))]


def check_vectors(rows: beam.PCollection, vectors: np.ndarray, label: str = "Check") -> None:
    """Check the vector of each row, which has one dict's `id` and `embedding`."""
    near = rows | f"{label}Near" >> beam.Map(
        lambda row: (row["id"], bool(np.allclose(row["embedding"], vectors[row["id"]], atol=1e-5)))
    )
    assert_that(near, equal_to([(i, True) for i in range(len(vectors))]), label=label)


def as_struct(contents: list[bytes], paths: list[str]) -> pa.Array:
    """Images of Hugging Face's datasets: bytes, or where these are not, a path."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [
        {"bytes": content if i % 2 else None, "path": path}
        for i, (content, path) in enumerate(zip(contents, paths, strict=True))
    ]
    return pa.array(values, kind)


COLUMNS: dict[str, Callable[[list[bytes], list[str]], pa.Array]] = {
    "binary": lambda contents, _: pa.array(contents, pa.binary()),
    "large_binary": lambda contents, _: pa.array(contents, pa.large_binary()),
    "binary_view": lambda contents, _: pa.array(contents, pa.binary_view()),
    "string": lambda _, paths: pa.array(paths, pa.string()),
    "large_string": lambda _, paths: pa.array(paths, pa.large_string()),
    "dictionary": lambda _, paths: pa.array(paths).dictionary_encode(),
    "file URI": lambda _, paths: pa.array([f"file://{path}" for path in paths]),
    "struct": as_struct,
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_images_of_any_kind_get_their_vectors(
    new_pipeline: NewPipeline,
    folder: str,
    files: list[bytes],
    paths: list[str],
    vectors: np.ndarray,
    kind: str,
) -> None:
    block = Block.from_pydict({"id": list(range(ROWS)), "image": COLUMNS[kind](files, paths)})
    with new_pipeline() as p:
        made = p | beam.Create([block.slice(0, 5), block.slice(5)]).with_output_types(Block)
        found = made | EmbedImages(folder)
        rows = found | beam.FlatMap(lambda block: pa.Table.from_batches([block.batch]).to_pylist())
        check_vectors(rows, vectors)
        fields = found | "Fields" >> beam.Map(
            lambda block: vector_fields(block.schema)["embedding"].modality
        )
        assert_that(fields, equal_to(["image"] * 2), label="Modality")


def test_several_processes_give_the_encoders_own_vectors_and_collect_bad_rows(
    folder: str, files: list[bytes], vectors: np.ndarray
) -> None:
    rows = [{"id": i, "image": content, "caption": f"c{i}"} for i, content in enumerate(files)]
    bad = [{"id": 90, "image": b"no"}, {"id": 91, "image": None}, {"id": 92}]
    options = PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    with beam.Pipeline("FnApiRunner", options=options) as p:
        made = p | beam.Create([*rows, *bad]) | beam.Reshuffle()
        good, rejects = made | EmbedImages(folder).with_exception_handling()
        check_vectors(good, vectors)
        same = good | "Same" >> beam.Map(
            lambda row: (row["caption"], row["image"] == files[row["id"]])
        )
        assert_that(same, equal_to([(f"c{i}", True) for i in range(ROWS)]), label="Same columns")
        numbers = rejects | beam.Map(lambda row: (row["id"], row["reject_step"]))
        named = [(number, "EmbedImages") for number in (90, 91, 92)]
        assert_that(numbers, equal_to(named), label="Rejects")


def test_a_named_tuple_comes_back_as_a_row(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], vectors: np.ndarray
) -> None:
    with new_pipeline() as p:
        made = p | beam.Create([Photo(i, one, "x") for i, one in enumerate(files)])
        rows = made | EmbedImages(folder) | beam.Map(lambda row: row.as_dict())
        check_vectors(rows, vectors)


# name: the image, and how its reason begins
BAD: dict[str, tuple[Any, str]] = {
    "empty bytes": (b"", "image is empty"),
    "a text": (b"a caption", "image is not an image: it is none of AVIF, BMP, GIF, JPEG"),
    "a JPEG that is cut": (encoded(draw(), "JPEG")[:600], "image cannot be decoded: "),
    "no pixels": (png(0, 5), "image is not an image"),
    "30,000 pixels a side": (png(30_000, 30_000), "image has too many pixels"),
    "null": (None, "image is null"),
}
BAD_PATHS: dict[str, tuple[Any, str]] = {
    "no text": ("", "image is empty"),
    "no file": ("/no/such/image.png", "image is not there: no file '/no/such/image.png'"),
    "a folder": ("/", "image is a folder: '/'; name a file"),
    "a device": ("/dev/null", "image is not a file: '/dev/null'; name a file"),
    "an unknown scheme": ("ftp://host/a.png", "image cannot be read: no file system for 'ftp://"),
    "the web": ("https://host/a.png", "image cannot be read: no file system for 'https://"),
    "a NUL": ("a\0b", "image cannot be read: no file system for 'a\\x00b'"),
    "a name that is too long": ("x" * 5000, "image cannot be read: "),
    "null": (None, "image is null"),
}


@pytest.mark.parametrize("as_paths", [False, True], ids=["bytes", "paths"])
def test_a_broken_image_is_one_reject_and_all_others_survive(
    new_pipeline: NewPipeline,
    folder: str,
    files: list[bytes],
    paths: list[str],
    vectors: np.ndarray,
    tmp_path: Path,
    as_paths: bool,
) -> None:
    cases = BAD_PATHS if as_paths else BAD
    images = [*(paths if as_paths else files), *(value for value, _ in cases.values())]
    kind = pa.string() if as_paths else pa.binary()
    ids = list(range(ROWS)) + [100 + i for i in range(len(cases))]
    order = np.random.default_rng(0).permutation(len(ids))
    block = Block.from_pydict({"id": ids, "image": pa.array(images, kind)}).take(order)
    pipeline = new_pipeline()
    made = pipeline | beam.Create([block]).with_output_types(Block)
    good, rejects = made | EmbedImages(folder).with_exception_handling()
    rows = good | beam.FlatMap(lambda block: pa.Table.from_batches([block.batch]).to_pylist())
    check_vectors(rows, vectors)
    why = rejects | "Rows" >> beam.FlatMap(
        lambda block: pa.Table.from_batches([block.batch]).to_pylist()
    )
    wanted = {100 + i: reason for i, (_, reason) in enumerate(cases.values())}
    kept = dict(zip(ids, images, strict=True))

    def begins(row: dict[str, Any]) -> tuple[int, bool, bool]:
        known = row["reject_reason"].startswith(wanted[row["id"]])
        if not known:
            print(row["id"], row["reject_reason"])
        return row["id"], known, row["image"] == kept[row["id"]] and "embedding" not in row

    assert_that(why | beam.Map(begins), equal_to([(i, True, True) for i in wanted]), label="Why")
    rejects | WriteRejects(str(tmp_path / "rejects"))
    result = pipeline.run()
    result.wait_until_finish()
    counted = counters(result)
    assert (counted["images"], counted["rejects"]) == (ROWS, len(cases))
    assert len(list((tmp_path / "rejects").glob("*.jsonl"))) == 1


def test_without_exception_handling_a_broken_image_fails_the_job_by_the_name_of_its_row(
    new_pipeline: NewPipeline, folder: str, files: list[bytes]
) -> None:
    rows = [{"id": 7, "image": files[0]}, {"id": 8, "image": b"no"}]
    message = r"EmbedImages: row with id 8: image is not an image: .* fix the row, or collect"
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        p | beam.Create(rows) | EmbedImages(folder)
    with pytest.raises(Exception, match="row with id 9: image is null"), new_pipeline() as p:
        p | beam.Create([{"id": 9, "image": None}]) | EmbedImages(folder)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([1, 2]), "image is not an image: int64; give bytes, a path or a URI"),
        (pa.array([[1.0], [2.0]]), "image is not an image: list<"),
        (pa.array([{"a": 1}] * 2), "image is not an image: struct<a: int64>"),
        (pa.nulls(2), "image is null"),
    ],
)
def test_a_column_of_another_type_rejects_its_rows(
    new_pipeline: NewPipeline, folder: str, column: pa.Array, reason: str
) -> None:
    block = Block.from_pydict({"id": [1, 2], "image": column})
    with new_pipeline() as p:
        made = p | beam.Create([block]).with_output_types(Block)
        _, rejects = made | EmbedImages(folder).with_exception_handling()
        why = rejects | beam.FlatMap(lambda block: block.column("reject_reason").to_pylist())
        found = why | beam.Map(lambda text: text.startswith(reason))
        assert_that(found, equal_to([True, True]))


def test_null_ids_and_missing_columns_are_named(
    new_pipeline: NewPipeline, folder: str, files: list[bytes]
) -> None:
    block = Block.from_pydict({"id": [1, None], "image": files[:2]})
    with new_pipeline() as p:
        made = p | beam.Create([block]).with_output_types(Block)
        _, rejects = made | EmbedImages(folder).with_exception_handling()
        why = rejects | beam.FlatMap(lambda block: block.column("reject_reason").to_pylist())
        assert_that(why, equal_to(["id is null"]))
    message = "EmbedImages: no column 'photo' among id, image"
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        p | beam.Create([block]).with_output_types(Block) | EmbedImages(folder, "photo")


def test_paths_beside_bytes_are_one_collection(
    new_pipeline: NewPipeline,
    folder: str,
    files: list[bytes],
    paths: list[str],
    vectors: np.ndarray,
) -> None:
    rows = [{"id": i, "image": files[i] if i % 3 else paths[i]} for i in range(ROWS)]
    with new_pipeline() as p:
        check_vectors(p | beam.Create(rows) | EmbedImages(folder), vectors)


def test_images_are_left_out_where_they_are_not_to_be_kept(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], vectors: np.ndarray
) -> None:
    embed = EmbedImages(folder, keep_images=False).with_exception_handling()
    rows = [{"id": i, "image": content} for i, content in enumerate(files)]
    block = Block.from_pydict({"id": [0, 1], "image": [files[0], b"no"]})
    with new_pipeline() as p:
        good, rejects = p | beam.Create([*rows, {"id": 50, "image": b"no"}]) | embed
        check_vectors(good, vectors)
        gone = good | beam.Map(lambda row: row["image"])
        assert_that(gone, equal_to([None] * ROWS), label="Gone")
        kept = rejects | beam.Map(lambda row: (row["id"], row["image"]))
        assert_that(kept, equal_to([(50, b"no")]), label="Kept")
        made = p | "Block" >> beam.Create([block]).with_output_types(Block)
        good, rejects = made | "OfBlocks" >> embed
        names = good | "Names" >> beam.Map(lambda block: block.schema.names)
        assert_that(names, equal_to([["id", "embedding"]]), label="Dropped")
        kept = rejects | "KeptBlock" >> beam.Map(lambda block: block.column("image").to_pylist())
        assert_that(kept, equal_to([[b"no"]]), label="In rejects")


def test_items_of_beams_rag_package_are_filled(
    new_pipeline: NewPipeline,
    folder: str,
    files: list[bytes],
    paths: list[str],
    vectors: np.ndarray,
) -> None:
    items = [
        EmbeddableItem.from_image(files[i] if i % 2 else paths[i], id=str(i), metadata={"n": i})
        for i in range(ROWS)
    ]
    captions = EmbeddableItem(Content(text="a cat", image=files[0]), id="both")
    no_image = EmbeddableItem.from_text("a cat", id="none")
    with new_pipeline() as p:
        made = p | beam.Create([*items, captions, no_image])
        good, rejects = made | EmbedImages(folder).with_exception_handling()
        filled = good | beam.Map(
            lambda item: (
                item.id,
                item.metadata.get("n"),
                bool(
                    np.allclose(
                        item.dense_embedding, vectors[int(item.metadata.get("n", 0))], atol=1e-5
                    )
                ),
                item.content.image is not None,
            )
        )
        wanted = [(str(i), i, True, True) for i in range(ROWS)]
        assert_that(filled, equal_to([*wanted, ("both", None, True, True)]), label="Filled")
        why = rejects | beam.Map(lambda item: (item.id, item.metadata["reject_reason"]))
        assert_that(why, equal_to([("none", "no column 'image'")]), label="Rejects")


def test_texts_find_images(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], vectors: np.ndarray
) -> None:
    texts = ["a cat", "two dogs"]
    config = EncoderConfig(folder, template="a photo of {text}")
    scores = TextEncoder.load(config).encode(texts) @ vectors.T
    best = [(i, int(row.argmax())) for i, row in enumerate(scores)]
    with new_pipeline() as p:
        documents = (
            p
            | "Images" >> beam.Create([{"id": i, "image": one} for i, one in enumerate(files)])
            | EmbedImages(folder)
        )
        queries = (
            p
            | "Texts" >> beam.Create([{"id": i, "text": text} for i, text in enumerate(texts)])
            | EmbedText(config)
        )
        pairs = {"queries": queries, "documents": documents} | NearestNeighbors(k=1)
        found = pairs | beam.Map(lambda pair: (pair["query_id"], pair["document_id"]))
        assert_that(found, equal_to(best))


def test_equal_and_near_equal_images_are_deduplicated(
    new_pipeline: NewPipeline, folder: str, files: list[bytes]
) -> None:
    again = encoded(draw(0, 47, 40), "JPEG", quality=90)  # the first one, a bit smaller
    rows = [{"id": i, "image": one} for i, one in enumerate([*files[:4], files[1], again])]
    with new_pipeline() as p:
        result = p | beam.Create(rows) | EmbedImages(folder) | DeduplicateSemantic(threshold=0.995)
        removed = result.removed | beam.Map(lambda row: (row["id"], row["duplicate_of"]))
        assert_that(removed, equal_to([(4, 1), (5, 0)]))


def test_captions_are_filtered_by_their_images(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], vectors: np.ndarray
) -> None:
    texts = ["a cat", "two dogs", "numbers 1 2 3"]
    scores = TextEncoder.load(folder).encode(texts) @ vectors[:3].T
    ranks = (scores > scores.diagonal()[:, None]).sum(axis=1) + 1
    with new_pipeline() as p:
        images = (
            p
            | "Images" >> beam.Create([{"id": i, "image": one} for i, one in enumerate(files[:3])])
            | EmbedImages(folder)
        )
        captions = (
            p
            | "Captions" >> beam.Create([{"id": i, "text": text} for i, text in enumerate(texts)])
            | EmbedText(folder)
        )
        pairs = p | "Pairs" >> beam.Create([{"query_id": i, "document_id": i} for i in range(3)])
        sides = {"queries": captions, "documents": images, "pairs": pairs}
        result = sides | FilterPairs(k=1, pairs=PairOptions(deduplicate=False))
        for name, wanted in (("kept", ranks == 1), ("removed", ranks > 1)):
            found = getattr(result, name) | f"Of{name}" >> beam.Map(
                lambda row: (row["query_id"], row["rank"], round(float(row["score"]), 4))
            )
            expected = [
                (i, int(ranks[i]), round(float(scores[i, i]), 4)) for i in np.flatnonzero(wanted)
            ]
            assert_that(found, equal_to(expected), label=name)


def test_vectors_of_images_are_written_with_what_they_are(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], tmp_path: Path
) -> None:
    with new_pipeline() as p:
        rows = p | beam.Create([{"id": i, "image": one} for i, one in enumerate(files)])
        vectors = rows | EmbedImages(folder, keep_images=False)
        vectors | WriteVectorsToParquet(str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out")
    blocks = list(read_vectors(str(tmp_path / "out")))
    assert sum(map(len, blocks)) == ROWS


def test_images_of_a_store_are_read_ahead_in_order(tmp_path: Path) -> None:
    from apache_beam.io.filesystems import FileSystems

    from beam_gpte.embedding.images import read_images as module

    contents = [bytes([i]) * 10 for i in range(40)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.img").write_bytes(content)
    assert FileSystems.get_scheme("gs://b/x") == "gs"
    names = pa.array([str(tmp_path / f"{i}.img") for i in range(40)])
    with pytest.MonkeyPatch.context() as patch:  # local files, as if they were elsewhere
        patch.setattr(module, "is_remote", lambda path: True)
        patch.setattr(module, "open_plain", lambda path: io.BytesIO(Path(path).read_bytes()))
        assert list(read_images(names)) == contents


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"model": 3}, "model 3: give a name, a folder or an EncoderConfig"),
    ({"image_column": "id"}, "image_column and id_column are both 'id'"),
    ({"embedding_column": "image"}, "embedding_column 'image' is the image or id column"),
    ({"max_pixels": 0}, "max_pixels is 0; use 1 to 178,956,970"),
    ({"model": EncoderConfig("m", precision="int8")}, "precision 'int8': images are"),
    ({"rename": {"tokens": "x"}}, "rename has 'tokens'; EmbedImages adds embedding"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_mistakes_in_settings_are_found_at_construction(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        EmbedImages(**{"model": "some/model", **settings})
    assert message in str(caught.value)


def test_a_model_of_texts_is_refused_by_the_name_of_the_transform(
    new_pipeline: NewPipeline, minilm: str, files: list[bytes]
) -> None:
    message = "EmbedImages: model .* takes no images; use one with an image tower"
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        p | beam.Create([{"id": 1, "image": files[0]}]) | EmbedImages(minilm)
