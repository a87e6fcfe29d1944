"""Sparse vectors are those of sentence-transformers, text by text, and no batch changes them."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Normalize
from torch.utils._python_dispatch import TorchDispatchMode

from beam_gpte import EncoderConfig, InputError, SparseEncoder
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.core.sparse import splade_head
from beam_gpte.core.sparse.sparse_tokens import sparse_tokens
from tests.core.damage import set_in
from tests.core.sparse.models import (
    FAMILIES,
    MAX_TOKENS,
    assert_alike,
    autoencoder,
    inference_free,
    peer_rows,
    plain,
    splade,
    texts,
    tokenizer,
)

TEXTS = texts()


def encoder(folder: str, route: str | None = None, **settings: Any) -> SparseEncoder:
    return SparseEncoder.load(EncoderConfig(folder, device="cpu", route=route, **settings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return splade(tmp_path_factory.mktemp("splade") / "model")


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return inference_free(tmp_path_factory.mktemp("routed") / "model")


@pytest.fixture(scope="module")
def loaded(folder: str) -> SparseEncoder:
    return encoder(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_language_model_gives_the_weights_of_sentence_transformers(
    family: str, tmp_path: Path
) -> None:
    made = splade(tmp_path / "model", family)
    found = encoder(made)
    assert found.unpadded == (family not in ("mpnet", "deberta-v2"))
    assert_alike(found.encode(TEXTS), peer_rows(made, TEXTS))


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_poolings_and_activations_are_those_of_the_files(
    pooling: str, activation: str, tmp_path: Path
) -> None:
    made = splade(tmp_path / "model", "bert", pooling, activation)
    found = encoder(made)
    assert found.metadata().pooling == f"{pooling} of {activation}"
    assert_alike(found.encode(TEXTS), peer_rows(made, TEXTS))


def test_a_plain_folder_runs_as_splade_of_maximum_and_relu(tmp_path: Path) -> None:
    made = plain(tmp_path / "model", "distilbert")
    assert_alike(encoder(made).encode(TEXTS), peer_rows(made, TEXTS))


@pytest.mark.parametrize("route", ["document", "query"])
def test_routes_of_a_model_without_inference_for_queries(routed: str, route: str) -> None:
    found = encoder(routed, route)
    assert_alike(found.encode(TEXTS), peer_rows(routed, TEXTS, route))
    assert found.metadata().route == route
    assert found.metadata().pooling == ("static" if route == "query" else "max of log1p_relu")


@pytest.mark.parametrize("normalize", [False, True])
def test_an_autoencoder_gives_the_largest_latents(normalize: bool, tmp_path: Path) -> None:
    between = (Normalize(),) if normalize else ()
    made = autoencoder(tmp_path / "model", normalize, *between)
    found = encoder(made)
    assert found.dim == 1500
    assert_alike(found.encode(TEXTS), peer_rows(made, TEXTS))
    assert_alike(found.encode(TEXTS, 5), peer_rows(made, TEXTS, max_active_dims=5))
    assert found.metadata().max_active == 16
    with pytest.raises(InputError, match="the terms of an autoencoder have no names"):
        sparse_tokens(made, [[1]], [[1.0]])


def test_a_router_may_name_its_routes_otherwise(routed: str, tmp_path: Path) -> None:
    made = tmp_path / "model"
    shutil.copytree(routed, made)
    mappings = {"('query', 'text')": "document", "(None, None)": "query"}
    set_in("router_config.json", parameters={"route_mappings": mappings})(made)
    for route in ("query", "document"):
        assert_alike(encoder(str(made), route).encode(TEXTS), peer_rows(str(made), TEXTS, route))
    assert encoder(str(made), "document").metadata().pooling == "static"


def test_a_route_has_its_prompt_unless_the_configuration_names_one(tmp_path: Path) -> None:
    prompts = {"query": "the cat ", "passage": "on mat "}
    made = inference_free(tmp_path / "model", prompts=prompts)
    for route in ("query", "document"):
        assert_alike(encoder(made, route).encode(TEXTS), peer_rows(made, TEXTS, route))
    expected = peer_rows(made, TEXTS, "query", prompt="w1 ")
    assert_alike(encoder(made, "query", prompt="w1 ").encode(TEXTS), expected)
    # the prompt does not make a text of one that has no token of its own
    for route in ("query", "document"):
        failed = encoder(made, route).encode_with_counts(["cat", "\u0301"]).failed
        assert failed == {1: "text is empty: the model has no token for it"}
    assert encoder(made, "query").metadata().prompt == "the cat "


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=12), st.integers(0, 3))
def test_neighbors_change_no_weight(loaded: SparseEncoder, lengths: list[int], seed: int) -> None:
    some = texts(tuple(lengths), seed)
    alone = np.concatenate([loaded.encode([text]).to_dense(loaded.dim) for text in some])
    assert_alike(loaded.encode(some), alone)


def test_texts_that_are_equal_run_once_and_long_ones_are_cut(loaded: SparseEncoder) -> None:
    long = texts((200,))[0]
    found = loaded.encode_with_counts(["the cat", long, "the cat", " the  cat"])
    assert found.distinct == 3
    assert found.tokens.tolist()[0] == 4
    assert found.tokens.tolist()[1] == MAX_TOKENS
    assert found.dropped[1] > 0
    assert found.needed == found.computed == 4 + MAX_TOKENS
    first, third = found.rows.row(0), found.rows.row(3)
    assert np.array_equal(first[0], third[0])
    assert np.array_equal(first[1], third[1])


def test_the_largest_weights_stay_as_in_sentence_transformers(
    loaded: SparseEncoder, folder: str
) -> None:
    assert_alike(loaded.encode(TEXTS, 9), peer_rows(folder, TEXTS, max_active_dims=9))
    kept = loaded.encode(TEXTS, min_weight=0.5)
    everything = loaded.encode(TEXTS)
    assert (kept.values > 0.5).all()
    assert len(kept.values) == (everything.values > 0.5).sum() > 0


def test_a_limit_of_the_models_files_counts_where_none_is_given(tmp_path: Path) -> None:
    made = splade(tmp_path / "model", max_active_dims=7)
    found = encoder(made)
    assert np.diff(found.encode(TEXTS).offsets).tolist() == [7] * len(TEXTS)
    assert np.diff(found.encode(TEXTS, 3).offsets).tolist() == [3] * len(TEXTS)
    assert found.metadata().max_active == 7


class Sizes(TorchDispatchMode):
    """Note the number of values of every tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.numel())
        return result


def test_no_tensor_has_the_logits_of_all_tokens_and_all_terms(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splade_head, "TILE", 64)
    found = encoder(folder)
    some = texts((30,) * 24, seed=5)
    with Sizes() as sizes:
        encoding = found.encode_with_counts(some)
    tokens = encoding.computed
    widest = 96  # of the feed-forward layers
    assert tokens > 24 * 30
    # a tile of all tokens, or the weights of all texts that are positive; never both dimensions
    assert sizes.largest <= max(tokens * widest, len(encoding.rows.values))
    assert sizes.largest < tokens * found.dim / 10
    assert_alike(encoding.rows, peer_rows(folder, some))


@pytest.mark.parametrize("text", ["", " \n", "\u200b"])
def test_a_text_without_a_token_fails_alone(loaded: SparseEncoder, routed: str, text: str) -> None:
    for one in (loaded, encoder(routed, "query")):
        found = one.encode_with_counts(["the cat", text])
        assert list(found.failed) == [1]
        assert "text is empty" in found.failed[1]
        assert np.diff(found.rows.offsets)[1] == 0
    with pytest.raises(InputError, match="text 1: text is empty"):
        loaded.encode(["the cat", text])


def test_a_weight_that_is_not_finite_fails_its_text(folder: str, loaded: SparseEncoder) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(folder) / "model.safetensors"
    before = path.read_bytes()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    word = tokenizer().convert_tokens_to_ids("w9")
    tensors[name][word] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    try:
        with pytest.raises(InputError, match="head gives other logits|not finite"):
            encoder(folder).encode(["w9 the cat"])
    finally:
        path.write_bytes(before)


def test_half_precision_is_near(folder: str) -> None:
    try:
        found = encoder(folder, precision="bf16")
    except InputError as error:
        pytest.skip(str(error))
    exact = peer_rows(folder, TEXTS)
    dense = found.encode(TEXTS).to_dense(found.dim)
    cosines = (dense * exact).sum(1) / np.linalg.norm(dense, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.999


def test_a_fingerprint_tells_what_changes_a_weight(
    folder: str, routed: str, tmp_path: Path
) -> None:
    found = encoder(folder)
    prints = {
        found.metadata().fingerprint,
        found.metadata(max_active=5).fingerprint,
        found.metadata(min_weight=0.1).fingerprint,
        encoder(folder, prompt="the ").metadata().fingerprint,
        encoder(folder, max_tokens=20).metadata().fingerprint,
        encoder(routed).metadata().fingerprint,
        encoder(routed, "query").metadata().fingerprint,
    }
    assert len(prints) == 7
    assert encoder(folder, token_budget=99).metadata().fingerprint in prints
    again = dataclasses.replace(found.metadata())
    assert type(again).from_json(again.to_json()) == again


def test_dense_encoders_refuse_a_sparse_model_and_name_what_takes_it(
    folder: str, routed: str
) -> None:
    for one in (folder, routed):
        with pytest.raises(InputError, match="a sparse model, .*use EmbedSparse"):
            TextEncoder.load(one)


def test_terms_are_named_by_their_tokens(loaded: SparseEncoder, folder: str) -> None:
    rows = loaded.encode(TEXTS[:2], 5)
    columns = [[part.tolist() for part in rows.row(i)] for i in range(2)]
    named = sparse_tokens(folder, [row[0] for row in columns], [row[1] for row in columns], 3)
    assert [len(row) for row in named] == [3, 3]
    words = tokenizer()
    for (indices, values), row in zip(columns, named, strict=True):
        order = np.argsort(values)[::-1][:3]
        assert [token for token, _ in row] == words.convert_ids_to_tokens(
            [indices[i] for i in order]
        )
    assert sparse_tokens(folder, [None, []], [None, []]) == [[], []]
    with pytest.raises(InputError, match="row 0: an index is not one of the"):
        sparse_tokens(folder, [[1 << 20]], [[1.0]])
    with pytest.raises(InputError, match="row 0: 1 indices and 2 values"):
        sparse_tokens(folder, [[1]], [[1.0, 2.0]])
