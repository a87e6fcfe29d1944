"""EmbedImages with reuse: an image is known again by its content, never by its path."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest

from beam_gpte import (
    Block,
    EmbedImages,
    EmbedText,
    EncoderConfig,
    ImageStorage,
    InputError,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.embedding.images.previous_images import PreviousImages
from tests.core.images.tiny_towers import draw, encoded, make_clip
from tests.embedding.reused import read, reasons, run_blocks
from tests.examples import keep, kept

NewPipeline = Callable[..., beam.Pipeline]
HASHED = ImageStorage(sha256=True)
NO_MODEL = "not reused: the previous vectors are of another model or settings"
NO_KEY = "not reused: the previous run has the paths of images, without their image_sha256"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_clip(tmp_path_factory.mktemp("model") / "clip"))


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    kinds = ("PNG", "JPEG", "WEBP")
    return [encoded(draw(seed), kinds[seed % len(kinds)]) for seed in range(6)]


def run(
    pipeline: beam.Pipeline, images: dict[str, Any], out: Path, embed: Any
) -> tuple[dict[str, int], pa.Table]:
    """Embed images, one to a block, so that the bits of a vector depend on its image alone."""
    kind = pa.binary() if isinstance(next(iter(images.values())), bytes) else pa.string()
    blocks = [
        Block.from_pydict({"id": [id_], "image": pa.array([image], kind)})
        for id_, image in images.items()
    ]
    return run_blocks(pipeline, blocks, out, embed)


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_images_as_bytes_are_known_by_their_bytes(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], tmp_path: Path, mode: str
) -> None:
    before = {"a": files[0], "b": files[1], "c": files[2], "gone": files[3]}
    after = {"c": files[0], "a": files[0], "b": files[4], "d": files[2]}
    run(new_pipeline(), before, tmp_path / "a", EmbedImages(folder))
    again = EmbedImages(folder, reuse=str(tmp_path / "a"))
    count, found = run(new_pipeline(mode), after, tmp_path / "b", again)
    _, expected = run(new_pipeline(), after, tmp_path / "c", EmbedImages(folder))
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.equals(expected)
    names = ("images", "vectors", "images_reused", "vectors_reused")
    assert [count[name] for name in names] == [1, 1, 3, 3]
    assert not reasons(count)


def written(place: Path, contents: list[bytes]) -> list[str]:
    place.mkdir(exist_ok=True)
    for i, content in enumerate(contents):
        (place / f"{i}.img").write_bytes(content)
    return [str(place / f"{i}.img") for i in range(len(contents))]


def test_images_by_path_are_known_by_the_hash_of_what_is_there_now(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], tmp_path: Path
) -> None:
    embed = EmbedImages(folder, storage=HASHED)
    paths = written(tmp_path / "images", files[:3])
    _, before = run(new_pipeline(), dict(zip("abc", paths, strict=True)), tmp_path / "a", embed)
    hashes = [hashlib.sha256(content).hexdigest() for content in files[:3]]
    assert before.column("image_sha256").to_pylist() == hashes
    # a has another image now, b has moved, c is as it was, d is new with the image of b
    changed = written(tmp_path / "images", [files[5]])
    moved = written(tmp_path / "elsewhere", [files[1], files[1]])
    after = {"a": changed[0], "b": moved[0], "c": paths[2], "d": moved[1]}
    again = EmbedImages(folder, reuse=str(tmp_path / "a"), storage=HASHED)
    count, found = run(new_pipeline(), after, tmp_path / "b", again)
    _, expected = run(new_pipeline(), after, tmp_path / "c", embed)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.equals(expected)
    assert (count["images"], count["images_reused"], reasons(count)) == (1, 3, {})
    # that run can be reused as well, and where no hashes are asked for there are none
    plain = EmbedImages(folder, reuse=str(tmp_path / "b"))
    count, found = run(new_pipeline(), after, tmp_path / "d", plain)
    assert (count["images"], count["images_reused"]) == (0, 4)
    assert found.equals(expected.drop_columns(["image_sha256"]))


def test_paths_without_hashes_are_counted_and_never_trusted(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], tmp_path: Path
) -> None:
    paths = dict(zip("ab", written(tmp_path / "images", files[:2]), strict=True))
    run(new_pipeline(), paths, tmp_path / "a", EmbedImages(folder))
    again = EmbedImages(folder, reuse=str(tmp_path / "a"))
    count, _ = run(new_pipeline(), paths, tmp_path / "b", again)
    assert (count["images"], reasons(count)) == (2, {NO_KEY: 2})
    run(new_pipeline(), paths, tmp_path / "c", EmbedImages(folder, keep_images=False))
    with pytest.raises(InputError, match="reuse: no column 'image' in .*; it has id, embedding"):
        run(new_pipeline(), paths, tmp_path / "d", EmbedImages(folder, reuse=str(tmp_path / "c")))


def test_images_that_were_left_out_are_known_by_their_hashes(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"keep_images": False, "storage": HASHED}
    images = dict(zip("abc", files, strict=False))
    names = {"rename": {"image_sha256": "sha"}}
    run(new_pipeline(), images, tmp_path / "a", EmbedImages(folder, **settings, **names))
    again = EmbedImages(folder, reuse=str(tmp_path / "a"), **settings, **names)
    p = new_pipeline()
    rows = [{"id": i, "image": image, "n": 1} for i, image in enumerate([*files[:4], files[0]])]
    good, rejects = (
        p
        | beam.Create([*rows, {"id": 9, "image": b"no"}, {"id": 8, "image": None}])
        | again.with_exception_handling()
    )
    good | "Keep" >> beam.Map(keep, str(tmp_path), "good")
    rejects | "KeepBad" >> beam.Map(keep, str(tmp_path), "bad")
    result = p.run()
    result.wait_until_finish()
    count = counters(result)
    assert (count["images"], count["images_reused"], count["rejects"]) == (1, 4, 2)
    vectors = dict(zip("abc", read(tmp_path / "a").column("embedding").to_pylist(), strict=True))
    found = {row["id"]: row for row in kept(str(tmp_path), "good")}
    for id_, name in enumerate("abc"):
        assert np.asarray(found[id_]["embedding"]).tolist() == vectors[name]
    assert found[4]["sha"] == found[0]["sha"] == hashlib.sha256(files[0]).hexdigest()
    assert {row["id"] for row in kept(str(tmp_path), "bad")} == {8, 9}


def test_previous_images_of_datasets_are_known_by_their_bytes_alone() -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "b"}, None], kind)
    columns = PreviousImages("image", "id", ("embedding",), hashes="image_sha256")
    hashed = hashlib.sha256(b"x").hexdigest()
    assert columns.read_keys(images).to_pylist() == [hashed, None, None]
    assert columns.read_keys(pa.array(["a", "b"])).to_pylist() == [None, None]
    assert columns.read_keys(pa.array([b"x"]).dictionary_encode()).to_pylist() == [hashed]


def test_a_hash_of_another_column_of_images_says_nothing(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], tmp_path: Path
) -> None:
    """A previous row has two images, and the hash of the first one."""
    block = Block.from_pydict({"id": [1], "front": [files[0]], "back": [files[1]]})
    p = new_pipeline()
    both = (
        p
        | beam.Create([block]).with_output_types(Block)
        | EmbedImages(folder, "front", embedding_column="f", storage=HASHED)
        | "Back" >> EmbedImages(folder, "back", embedding_column="b")
    )
    both | WriteVectorsToParquet(str(tmp_path / "a"))
    p.run().wait_until_finish()
    p = new_pipeline()
    block = Block.from_pydict({"id": [1], "back": [files[0]]})
    rows = p | beam.Create([block]).with_output_types(Block)
    back = EmbedImages(folder, "back", embedding_column="b", reuse=str(tmp_path / "a"))
    rows | back | WriteVectorsToParquet(str(tmp_path / "b"))
    result = p.run()
    result.wait_until_finish()
    count = counters(result)
    assert (count["images"], count.get("images_reused", 0)) == (1, 0)
    vectors = read(tmp_path / "b").column("b").to_pylist()
    np.testing.assert_allclose(vectors, read(tmp_path / "a").column("f").to_pylist(), atol=1e-5)


def test_an_image_above_max_pixels_is_rejected_as_without_reuse(
    new_pipeline: NewPipeline, folder: str, tmp_path: Path
) -> None:
    images = {"small": encoded(draw(1, 20, 20)), "large": encoded(draw(2, 60, 60))}
    run(new_pipeline(), images, tmp_path / "a", EmbedImages(folder))
    again = EmbedImages(folder, max_pixels=1000, reuse=str(tmp_path / "a"))
    p = new_pipeline()
    rows = p | beam.Create([{"id": id_, "image": image} for id_, image in images.items()])
    good, rejects = rows | again.with_exception_handling()
    good | "Keep" >> beam.Map(keep, str(tmp_path), "good")
    rejects | "KeepBad" >> beam.Map(keep, str(tmp_path), "bad")
    p.run().wait_until_finish()
    assert [row["id"] for row in kept(str(tmp_path), "good")] == ["small"]
    (bad,) = kept(str(tmp_path), "bad")
    assert bad["id"] == "large"
    assert bad["reject_reason"].startswith("image has too many pixels: 60 x 60")


def test_vectors_of_texts_are_not_those_of_images_and_other_settings_are_counted(
    new_pipeline: NewPipeline, folder: str, files: list[bytes], tmp_path: Path
) -> None:
    """Both towers of a model have one fingerprint."""
    block = Block.from_pydict({"id": [1], "text": ["a cat"], "image": [files[0]]})

    def embed(embed: Any, out: str) -> tuple[dict[str, int], pa.Table]:
        p = new_pipeline()
        rows = p | beam.Create([block]).with_output_types(Block)
        rows | embed | WriteVectorsToParquet(str(tmp_path / out))
        result = p.run()
        result.wait_until_finish()
        return counters(result), read(tmp_path / out)

    _, texts = embed(EmbedText(folder), "texts")
    _, images = embed(EmbedImages(folder), "images")
    for transform, other, expected in (
        (EmbedImages, "texts", images),
        (EmbedText, "images", texts),
    ):
        count, found = embed(transform(folder, reuse=str(tmp_path / other)), f"from {other}")
        assert reasons(count) == {NO_MODEL: 1}
        assert found.column("embedding").equals(expected.column("embedding"))
    shorter = EncoderConfig(folder, truncate_dim=8)
    count, _ = embed(EmbedImages(shorter, reuse=str(tmp_path / "images")), "shorter")
    assert (count["images"], reasons(count)) == (1, {NO_MODEL: 1})
