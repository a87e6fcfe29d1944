"""DistillStatic: a static model of a teacher, the same for any bundles, with its loss measured."""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that

from beam_gpte import (
    Block,
    Distilled,
    DistillStatic,
    EmbedText,
    EncoderConfig,
    InputError,
    StaticEncoder,
)
from beam_gpte.core.static import distill
from beam_gpte.core.static.distill import measure_loss, sum_texts
from beam_gpte.core.static.static_encoder import NO_TOKEN
from beam_gpte.core.static.static_tokenizer import TextIds
from tests.core.static.models import bert, model2vec, token_vectors
from tests.examples import BagEncoder, WordEncoder

WORDS = [f"{a}{b}" for a in ("cat", "mat", "sat", "the", "on", "na", "gro") for b in "abcdefgh"]


def texts_of(count: int) -> list[str]:
    random = np.random.default_rng(3)
    topics = [WORDS[start : start + 8] for start in range(0, len(WORDS), 8)]
    texts = []
    for i in range(count):
        topic = topics[int(random.integers(len(topics)))]
        texts.append(" ".join([*random.choice(topic, 4), *random.choice(WORDS, 2), str(i % 10)]))
    return texts


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model whose tokenizer is used."""
    tokenizer = bert(tuple(WORDS))
    folder = tmp_path_factory.mktemp("vocabulary") / "model"
    return model2vec(folder, tokenizer, {"embeddings": token_vectors(tokenizer)})


def distilled(
    new_pipeline: Callable[..., beam.Pipeline],
    rows: list,
    settings: DistillStatic,
    mode: str = "in memory",
) -> None:
    def check(found: list[Distilled]) -> None:
        assert [one.path for one in found] == [settings.path]

    with new_pipeline(mode) as p:
        assert_that(p | beam.Create(rows) | settings, check)


def report(folder: Path) -> dict:
    return json.loads((folder / "distill.json").read_text(encoding="utf-8"))


def test_a_model_is_near_to_its_teacher_and_loads_everywhere(
    new_pipeline: Callable[..., beam.Pipeline], vocabulary: str, tmp_path: Path
) -> None:
    texts, folder = texts_of(1500), tmp_path / "static"
    rows = [{"id": i, "text": text} for i, text in enumerate([*texts, "", None])]
    settings = DistillStatic(BagEncoder(), str(folder), dim=64, held_out=0.2, tokenizer=vocabulary)
    distilled(new_pipeline, rows, settings)
    about = report(folder)
    assert about["dim"] == 64
    assert about["vocabulary"] == 93 + len(WORDS)
    assert 200 < about["compared"] < 400
    assert about["spearman"] > 0.65
    assert about["neighbors"] > 0.6  # 0.04 by chance
    encoder = StaticEncoder.load(str(folder))
    ours = encoder.encode(texts[:20])

    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts[:20])
    assert np.abs(ours - theirs).max() < 1e-6
    # what was measured is what a user can measure
    held = [text for text in texts if is_held(text, 0.2)]
    assert len(held) == about["compared"]
    loss = measure_loss(unit(BagEncoder().encode(held)), encoder.encode(held))
    assert abs(loss.spearman - about["spearman"]) < 1e-3
    with new_pipeline() as p:
        rows_ = p | beam.Create([{"id": 1, "text": "catb matc"}]) | EmbedText(str(folder))
        assert_that(rows_, lambda found: np.testing.assert_equal(len(found[0]["embedding"]), 64))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def is_held(text: str, share: float) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int(np.frombuffer(digest, np.uint64)[0]) % 10_000 < share * 10_000


def test_a_model_does_not_depend_on_order_blocks_or_workers(
    new_pipeline: Callable[..., beam.Pipeline], vocabulary: str, tmp_path: Path, is_local: bool
) -> None:
    texts = texts_of(300)
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    blocks = [Block.from_pydict({"id": [i], "text": [text]}) for i, text in enumerate(texts)]
    inputs = {"one": (rows, "in memory"), "other": (blocks[::-1], "two threads")}
    if is_local:
        inputs["processes"] = (rows[::-1], "two processes")
    for name, (given, mode) in inputs.items():
        settings = DistillStatic(BagEncoder(), str(tmp_path / name), dim=8, tokenizer=vocabulary)
        distilled(new_pipeline, given, settings, mode)
    files = [[(tmp_path / name / "model.safetensors").read_bytes() for name in inputs]]
    assert all(len(set(found)) == 1 for found in files)


def test_vectors_that_rows_have_are_used_and_those_of_another_model_refused(
    new_pipeline: Callable[..., beam.Pipeline], vocabulary: str, tmp_path: Path
) -> None:
    texts = texts_of(200)
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    plain = DistillStatic(BagEncoder(), str(tmp_path / "plain"), dim=8, tokenizer=vocabulary)
    distilled(new_pipeline, rows, plain)
    with new_pipeline() as p:
        made = p | beam.Create([Block.from_pydict({"id": list(range(200)), "text": texts})])
        embedded = made | EmbedText(BagEncoder())
        settings = DistillStatic(BagEncoder(), str(tmp_path / "given"), dim=8, tokenizer=vocabulary)
        embedded | settings
    names = ("plain", "given")
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in names}) == 1
    p = new_pipeline()
    made = p | beam.Create([Block.from_pydict({"id": [1, 2], "text": texts[:2]})])
    embedded = made | EmbedText(WordEncoder())
    embedded | DistillStatic(BagEncoder(), str(tmp_path / "other"), tokenizer=vocabulary)
    with pytest.raises(Exception, match="vectors of 8 and 64 dim|vectors of two models"):
        p.run()


def test_without_the_whole_vocabulary_other_words_have_no_vector(
    new_pipeline: Callable[..., beam.Pipeline], vocabulary: str, tmp_path: Path
) -> None:
    rows = [{"id": i, "text": f"{a} {b}"} for i, (a, b) in enumerate(itertools.pairwise(WORDS[:8]))]
    folder = str(tmp_path / "model")
    small = {"dim": 4, "tokenizer": vocabulary, "whole_vocabulary": False}
    distilled(new_pipeline, rows, DistillStatic(BagEncoder(), folder, **small))
    found = StaticEncoder.load(folder).encode_with_counts([WORDS[0], WORDS[-1]])
    assert found.failed == {1: NO_TOKEN}


def test_nothing_is_written_without_rows(
    new_pipeline: Callable[..., beam.Pipeline], vocabulary: str, tmp_path: Path
) -> None:
    settings = DistillStatic(BagEncoder(), str(tmp_path / "model"), tokenizer=vocabulary)
    with new_pipeline() as p:
        found = p | beam.Create([{"id": 1, "text": " "}]) | settings
        assert_that(found, lambda made: np.testing.assert_equal(len(made), 0))
    assert not (tmp_path / "model").exists()


def test_sums_are_those_of_a_loop_in_any_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "TEXTS", 3)
    monkeypatch.setattr(distill, "NUMBERS", 8)
    random = np.random.default_rng(0)
    counts = random.integers(0, 6, 20)
    ids = random.integers(0, 9, int(counts.sum())).astype(np.int32)
    vectors = unit(random.standard_normal((20, 4))).astype(np.float32)
    whole = sum_texts(TextIds(ids, counts, np.zeros_like(counts)), vectors)
    expected: dict[int, list] = {}
    for own, vector in zip(np.split(ids, np.cumsum(counts)[:-1]), vectors, strict=True):
        for token in set(own.tolist()):
            count = int((own == token).sum())
            share = int(np.rint(count * 4096 / len(own)))
            found = expected.setdefault(token, [0, 0, np.zeros(4, np.int64)])
            found[0] += count
            found[1] += share
            found[2] += share * np.rint(vector.astype(np.float64) * (1 << 20)).astype(np.int64)
    assert whole.tokens.tolist() == sorted(expected)
    for i, token in enumerate(whole.tokens.tolist()):
        assert [whole.counts[i], whole.shares[i]] == expected[token][:2]
        assert np.array_equal(whole.sums[i], expected[token][2])
    parts = [part for _, part in whole.parts()]
    assert len(parts) == 5
    again = distill.add_up(parts[::-1])
    assert again is not None
    assert np.array_equal(again.sums, whole.sums)


def test_a_loss_of_nothing_and_of_all() -> None:
    random = np.random.default_rng(0)
    vectors = unit(random.standard_normal((300, 8)))
    same = measure_loss(vectors, vectors)
    assert (round(same.spearman, 9), same.neighbors, same.texts) == (1.0, 1.0, 300)
    other = measure_loss(vectors, unit(random.standard_normal((300, 8))))
    assert abs(other.spearman) < 0.05
    assert abs(other.neighbors - 10 / 299) < 0.02
    assert np.isnan(measure_loss(vectors[:2], vectors[:2]).spearman)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, "path is empty"),
        ({"dim": 0}, "dim 0: give a positive"),
        ({"sif": -1.0}, "sif -1.0: give a number"),
        ({"held_out": 0.9}, "held_out 0.9: give a share"),
        ({"tokenizer": None}, "model BagEncoder has no tokenizer"),
        ({"model": EncoderConfig("m", long_text="chunks")}, "several rows of one"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    given = {"model": BagEncoder(), "path": "folder", "tokenizer": "some/model", **settings}
    with pytest.raises(InputError, match=message):
        DistillStatic(**given)
