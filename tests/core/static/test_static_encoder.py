"""A static model gives the vectors of the package that made it, the same in any batch."""

import dataclasses
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import EncoderConfig, InputError, StaticEncoder, TextEncoder
from beam_gpte.core.static import mean_tokens as means
from beam_gpte.core.static.load_encoder import check_encoder, count_whole, load_encoder
from beam_gpte.core.static.static_encoder import NO_TOKEN
from beam_gpte.core.text.chunking_tokens import TokenRuler
from beam_gpte.core.visible_text import EMPTY
from tests.core.static.models import (
    DIM,
    TEXTS,
    as_model2vec,
    model2vec,
    static_embedding,
    token_vectors,
    unigram,
)

MODEL2VEC: dict[str, tuple[Any, dict[str, Any]]] = {
    "as distilled": (lambda v, g: {"embeddings": v}, {}),
    "not of length 1": (lambda v, g: {"embeddings": v}, {"normalize": False}),
    "in float16": (lambda v, g: {"embeddings": v.astype(np.float16)}, {}),
    "in int8": (lambda v, g: {"embeddings": (40 * v).round().clip(-127, 127).astype(np.int8)}, {}),
    "of a quantized vocabulary": (
        lambda v, g: {
            "embeddings": v[:30],
            "mapping": g.integers(0, 30, len(v)),
            "weights": g.random(len(v)),
        },
        {"vocabulary_quantization": 30},
    ),
    "with weights in float32": (
        lambda v, g: {"embeddings": v, "weights": g.random(len(v), np.float32)},
        {},
    ),
    "that cuts nothing": (lambda v, g: {"embeddings": v}, {"max_length": None}),
    "that cuts early": (lambda v, g: {"embeddings": v}, {"max_length": 3}),
}


@pytest.mark.parametrize("name", MODEL2VEC)
def test_a_model_of_model2vec_gives_its_vectors(
    bert: tokenizers.Tokenizer, tmp_path: Path, name: str
) -> None:
    tensors, changed = MODEL2VEC[name]
    made = tensors(token_vectors(bert), np.random.default_rng(1))
    folder = model2vec(tmp_path / "model", bert, made, **changed)
    config = EncoderConfig(folder, normalize=changed.get("normalize", True))
    assert (
        np.abs(StaticEncoder.load(config).encode(TEXTS) - as_model2vec(folder, TEXTS)).max() < 1e-6
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_a_static_embedding_gives_the_vectors_of_sentence_transformers(
    bert: tokenizers.Tokenizer, tmp_path: Path, normalize: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = static_embedding(tmp_path / "model", bert, token_vectors(bert), normalize)
    theirs = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    ours = StaticEncoder.load(EncoderConfig(folder, normalize=False))
    assert np.abs(ours.encode(TEXTS) - theirs).max() < 1e-6
    assert ours.metadata.normalized == normalize
    cut = StaticEncoder.load(EncoderConfig(folder, normalize=False, truncate_dim=5))
    assert np.abs(cut.encode(TEXTS) - theirs[:, :5]).max() < 1e-6
    unit = StaticEncoder.load(EncoderConfig(folder, truncate_dim=5)).encode(TEXTS)
    assert (
        np.abs(unit - theirs[:, :5] / np.linalg.norm(theirs[:, :5], axis=1)[:, None]).max() < 1e-6
    )


def test_a_prompt_stands_before_each_text(two_packages: dict[str, Path]) -> None:
    folder = str(two_packages["StaticEmbedding"])
    plain = StaticEncoder.load(folder)
    by_name = StaticEncoder.load(EncoderConfig(folder, prompt_name="query"))
    by_text = StaticEncoder.load(EncoderConfig(folder, prompt="the "))
    expected = plain.encode(["the cat", "the mat"])
    assert np.array_equal(by_name.encode(["cat", "mat"]), expected)
    assert np.array_equal(by_text.encode(["cat", "mat"]), expected)
    assert by_name.fingerprint == by_text.fingerprint != plain.fingerprint
    # a prompt alone is not the vector of a text
    nothing = by_text.encode_with_counts(["\u00ad", "\u0301", "cat"])
    assert nothing.failed == {0: EMPTY, 1: NO_TOKEN}
    with pytest.raises(InputError, match="prompt_name 'passage'.*query"):
        StaticEncoder.load(EncoderConfig(folder, prompt_name="passage"))


def test_a_text_without_a_known_token_has_a_reason_and_no_vector(
    two_packages: dict[str, Path],
) -> None:
    encoder = StaticEncoder.load(str(two_packages["model2vec"]))
    texts = ["cat", "\U00010cfa \U00010cfa", " ", "", "\u200b", "cat"]
    found = encoder.encode_with_counts(texts)
    assert found.failed == {1: NO_TOKEN, 2: EMPTY, 3: EMPTY, 4: EMPTY}
    assert np.isnan(found.vectors[1:5]).all()
    assert np.isfinite(found.vectors[[0, 5]]).all()
    assert found.tokens.tolist() == [1, 0, 0, 0, 0, 1]
    assert found.distinct == 5
    with pytest.raises(InputError, match="text 1: text is empty: the model has no token"):
        encoder.encode(texts)
    # sentence-transformers has a vector for what is unknown
    theirs = StaticEncoder.load(str(two_packages["StaticEmbedding"]))
    assert theirs.encode_with_counts(texts).failed == {2: EMPTY, 3: EMPTY, 4: EMPTY}


def test_tokens_are_counted_where_they_are_cut(two_packages: dict[str, Path]) -> None:
    encoder = StaticEncoder.load(str(two_packages["model2vec"]))
    found = encoder.encode_with_counts(["1 " * 70, "cat mat", "cat \U00010cfa mat"])
    assert found.tokens.tolist() == [50, 2, 2]  # the first 50 tokens are used
    assert found.dropped.tolist() == [20, 0, 0]
    assert found.chars.tolist() == [[0, 140], [0, 7], [0, 9]]
    assert (found.needed, found.computed, found.retries) == (54, 54, 0)
    # half of a token is of three characters: 150 are read, 37 words and "ca", of two tokens
    long, count = "cat " * 70 + "mat", 71
    found = encoder.encode_with_counts([long])
    assert found.tokens.tolist() == [39]
    assert found.dropped.tolist() == [np.ceil(39 * (len(long) - 150) / 150)]
    whole = StaticEncoder.load(EncoderConfig(str(two_packages["StaticEmbedding"]), max_tokens=9))
    counted = whole.encode_with_counts([long])
    assert (counted.tokens.tolist(), counted.dropped.tolist()) == ([9], [count - 9])
    assert [part.tolist() for part in whole.count_tokens([long, "cat"])] == [
        [9, 1],
        [62, 0],
        [9, 1],
    ]


def test_nothing_and_not_a_list_of_texts(two_packages: dict[str, Path]) -> None:
    encoder = StaticEncoder.load(str(two_packages["model2vec"]))
    assert encoder.encode([]).shape == (0, DIM) == (0, encoder.dim)
    assert encoder.count_tokens([]).tokens.shape == (0,)
    with pytest.raises(InputError, match="one text, not a list"):
        encoder.encode("cat")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="text 1 is None"):
        encoder.encode(["cat", None])  # type: ignore[list-item]


def test_known_vectors_are_taken_and_others_added(two_packages: dict[str, Path]) -> None:
    class Known(dict):
        def find(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
            return {key: self[key] for key in keys if key in self}

        def add(self, key: bytes, vectors: np.ndarray) -> None:
            self[key] = vectors

    encoder, known = StaticEncoder.load(str(two_packages["model2vec"])), Known()
    first = encoder.encode_with_counts(["cat", "mat", " "], known)
    assert first.found.tolist() == [False] * 3
    assert len(known) == 2
    for key in known:
        known[key] = known[key] + 1
    again = encoder.encode_with_counts(["mat", "sat", "mat"], known)
    assert again.found.tolist() == [True, False, True]
    assert len(known) == 3
    assert np.array_equal(again.vectors[0], first.vectors[1] + 1)


REFUSED: dict[str, dict[str, Any]] = {
    "pooling": {"pooling": "cls"},
    "template": {"template": "{text} in one word:"},
    "pool_text_only": {"pool_text_only": True},
    "tail_tokens": {"tail_tokens": 2},
    "layers": {"layers": 2},
    "long_text": {"long_text": "windows"},
    "precision": {"precision": "bf16"},
    "token_budget": {"token_budget": 64},
    "device": {"device": "cuda"},
    "trust_remote_code": {"trust_remote_code": True},
    "adapter": {"adapter": "a/lora"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_of_language_models_are_refused(two_packages: dict[str, Path], name: str) -> None:
    config = EncoderConfig(str(two_packages["model2vec"]), **REFUSED[name])
    for load in (StaticEncoder.load, load_encoder, check_encoder):
        with pytest.raises(InputError, match=f"{name} .*: a static model supports only"):
            load(config)


def test_all_other_settings_are_read_and_what_changes_vectors_is_in_the_fingerprint(
    two_packages: dict[str, Path],
) -> None:
    folder = str(two_packages["StaticEmbedding"])
    fields = {field.name for field in dataclasses.fields(EncoderConfig)}
    changed = {
        "prompt": "the ",
        "normalize": False,
        "truncate_dim": 4,
        "max_tokens": 5,
    }
    same = {"precision": "auto", "device": "cpu", "revision": "main"}
    assert fields == {
        *REFUSED,
        *changed,
        *same,
        "model",
        "prompt_name",
        "route",
        "chunk_tokens",
        "overlap_tokens",
    }
    plain = StaticEncoder.load(folder).fingerprint
    found = {plain}
    for name, value in changed.items():
        found.add(StaticEncoder.load(EncoderConfig(folder, **{name: value})).fingerprint)
    assert len(found) == 1 + len(changed)
    for name, value in same.items():
        config = EncoderConfig(folder, **{name: value})  # type: ignore[arg-type]
        assert StaticEncoder.load(config).fingerprint == plain
    with pytest.raises(InputError, match="truncate_dim 17: model .* has 16 dimensions"):
        StaticEncoder.load(EncoderConfig(folder, truncate_dim=17))


def test_a_fingerprint_is_of_the_files_wherever_they_are(
    two_packages: dict[str, Path], tmp_path: Path
) -> None:
    for folder in two_packages.values():
        moved = tmp_path / folder.name
        shutil.copytree(folder, moved)
        here, there = StaticEncoder.load(str(folder)), StaticEncoder.load(str(moved))
        assert here.fingerprint == there.fingerprint
        assert here.metadata == dataclasses.replace(there.metadata, model=here.metadata.model)
        assert here.metadata.engine == "fp32 static"
        assert here.unpadded


def test_each_class_names_the_other_one(two_packages: dict[str, Path], whole: Path) -> None:
    for folder in two_packages.values():
        with pytest.raises(InputError, match="a static model, .* load it with StaticEncoder"):
            TextEncoder.load(str(folder))
        check_encoder(EncoderConfig(str(folder)))
        assert isinstance(load_encoder(EncoderConfig(str(folder))), StaticEncoder)
    with pytest.raises(InputError, match="load it with TextEncoder"):
        StaticEncoder.load(str(whole))
    assert isinstance(load_encoder(EncoderConfig(str(whole))), TextEncoder)
    (two_packages["model2vec"] / "modules.json").rename(two_packages["model2vec"] / "m.json")
    try:
        assert StaticEncoder.load(str(two_packages["model2vec"])).dim == DIM
    finally:
        (two_packages["model2vec"] / "m.json").rename(two_packages["model2vec"] / "modules.json")


def test_chunks_are_measured_in_the_tokens_of_a_static_model(
    two_packages: dict[str, Path],
) -> None:
    ruler = TokenRuler(EncoderConfig(str(two_packages["model2vec"])))
    assert ruler.room == 50
    counts, limit = count_whole(
        EncoderConfig(str(two_packages["StaticEmbedding"]), prompt_name="query"),
        ["cat " * 80, "mat"],
    )
    assert (counts.tolist(), limit) == ([81, 2], 60)


SMALL = st.lists(st.integers(0, 9), max_size=6) | st.lists(st.integers(0, 9), max_size=40)


@given(
    texts=st.lists(SMALL, min_size=1, max_size=12),
    dim=st.sampled_from([1, 2, 3, 8, 33]),
    wide=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60)
def test_a_mean_is_the_same_to_the_last_bit_in_any_batch(
    texts: list[list[int]], dim: int, wide: bool, data: st.DataObject
) -> None:
    vectors = np.random.default_rng(dim).standard_normal((10, dim)).astype(np.float32)
    sizes = {"PIECE": data.draw(st.sampled_from([1, 7, 512])), "GATHERED": 64}

    def mean(some: list[list[int]]) -> np.ndarray:
        flat = np.array([i for ids in some for i in ids], np.int32)
        counts = np.array([len(ids) for ids in some], np.int64)
        return means.mean_tokens(vectors, flat, counts, wide)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(means, name, value)
        together = mean(texts)
        alone = np.concatenate([mean([ids]) for ids in texts])
        order = data.draw(st.permutations(range(len(texts))))
        shuffled = mean([texts[i] for i in order])
    assert np.array_equal(together, alone, equal_nan=True)
    assert np.array_equal(shuffled, together[order], equal_nan=True)
    for ids, found in zip(texts, together, strict=True):
        exact = vectors[ids].astype(np.float64).mean(axis=0) if ids else np.full(dim, np.nan)
        assert np.allclose(found, exact, atol=1e-5, equal_nan=True)


def test_a_text_has_one_vector_among_thousands(two_packages: dict[str, Path]) -> None:
    encoder = StaticEncoder.load(str(two_packages["model2vec"]))
    texts = [f"{text} {i}" for i in range(500) for text in TEXTS]
    whole = encoder.encode(texts)
    assert np.array_equal(whole[::-1], encoder.encode(texts[::-1]))
    fresh = StaticEncoder.load(str(two_packages["model2vec"]))
    some = list(range(0, len(texts), 97))
    assert np.array_equal(whole[some], np.concatenate([fresh.encode([texts[i]]) for i in some]))


def test_a_unigram_model_and_its_unknown_token(tmp_path: Path) -> None:
    tokenizer = unigram()
    folder = model2vec(tmp_path / "model", tokenizer, {"embeddings": token_vectors(tokenizer)})
    ours = StaticEncoder.load(folder).encode(TEXTS)
    assert np.abs(ours - as_model2vec(folder, TEXTS)).max() < 1e-6


def test_no_torch_is_needed(two_packages: dict[str, Path]) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'scipy', 'apache_beam'): sys.modules[name] = None\n"
        "sys.modules['beam_gpte'] = package = type(sys)('beam_gpte')\n"
        f"package.__path__ = [{str(Path(means.__file__).parents[2])!r}]\n"
        "from beam_gpte.core.static.static_encoder import StaticEncoder\n"
        f"encoder = StaticEncoder.load({str(two_packages['model2vec'])!r})\n"
        "print(encoder.encode(['cat', 'mat']).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"(2, {DIM})\n", done.stderr


def test_the_matrix_of_wordllama(tmp_path: Path) -> None:
    """32,000 real tokens of Llama 2: kin are nearer than others, by 0.3 at least."""
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        pytest.skip("wordllama is not installed")
    from safetensors.numpy import load_file

    package = Path(spec.origin).parent
    weights = load_file(package / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    path = package / "tokenizers" / "l2_supercat_tokenizer_config.json"
    folder = static_embedding(
        tmp_path / "model", tokenizers.Tokenizer.from_file(str(path)), weights
    )
    a, b, c = StaticEncoder.load(folder).encode(
        ["a cat sits on the sofa", "a kitten naps on the couch", "the train leaves at noon"]
    )
    assert a @ b - max(a @ c, b @ c) > 0.3
