"""A static model of which a part is missing or damaged is refused by the name of the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from beam_gpte import EncoderConfig, InputError, StaticEncoder
from beam_gpte.core.static.load_encoder import check_encoder
from tests.core.damage import POINTER, Change, change, cut, put, remove, set_in, write
from tests.core.static.models import ROWS, TEXTS, TYPE

BOTH = ("model2vec", "StaticEmbedding")
NAMES = {"model2vec": "embeddings", "StaticEmbedding": "embedding.weight"}


def place(folder: Path) -> Path:
    """The folder of weights and tokenizer."""
    inner = folder / "0_StaticEmbedding"
    return inner if inner.exists() else folder


def inside(damage: Change) -> Change:
    return lambda folder: damage(place(folder))


def tensors(edit: Callable[[dict[str, np.ndarray]], object]) -> Change:
    def rewrite(folder: Path) -> None:
        path = place(folder) / "model.safetensors"
        found = load_file(path)
        if "embedding.weight" in found:
            found["embeddings"] = found.pop("embedding.weight")
        edit(found)
        if place(folder) != folder and "embeddings" in found:
            found["embedding.weight"] = found.pop("embeddings")
        save_file({name: np.ascontiguousarray(array) for name, array in found.items()}, path)

    return rewrite


def put_vectors(make: Callable[[np.ndarray], np.ndarray]) -> Change:
    return tensors(lambda found: found.update(embeddings=make(found["embeddings"])))


def with_nan(vectors: np.ndarray) -> np.ndarray:
    vectors[3, 2] = np.nan
    return vectors


def module(position: int, **fields: Any) -> Change:
    def edit(folder: Path) -> None:
        listed = json.loads((folder / "modules.json").read_text())
        listed[position] |= fields
        write(folder / "modules.json", listed)

    return edit


def one_more(kind: str) -> Change:
    def edit(folder: Path) -> None:
        listed = json.loads((folder / "modules.json").read_text())
        listed.append({"idx": 9, "name": "9", "path": f"9_{kind}", "type": f"{TYPE}{kind}"})
        write(folder / "modules.json", listed)

    return edit


def larger_vocabulary(folder: Path) -> None:
    path = place(folder) / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model"]["vocab"] |= {f"more{i}": ROWS + i for i in range(3)}
    write(path, settings)


def fewer_words(folder: Path) -> None:
    path = place(folder) / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    kept = {word: i for word, i in settings["model"]["vocab"].items() if i < 60}
    settings["model"]["vocab"] = kept
    write(path, settings)


DAMAGE: dict[str, tuple[Change, str, tuple[str, ...]]] = {
    "no tokenizer": (inside(remove("tokenizer.json")), "tokenizer.json is missing", BOTH),
    "a tokenizer that is cut": (
        inside(cut("tokenizer.json")),
        "tokenizer.json is not whole JSON",
        BOTH,
    ),
    "an empty tokenizer": (inside(put("tokenizer.json", "")), "tokenizer.json is empty", BOTH),
    "a pointer for the tokenizer": (
        inside(put("tokenizer.json", POINTER)),
        "tokenizer.json is a git-lfs pointer",
        BOTH,
    ),
    "other JSON for the tokenizer": (
        inside(put("tokenizer.json", "{}")),
        "tokenizer.json is not a tokenizer",
        BOTH,
    ),
    "a list for the tokenizer": (
        inside(put("tokenizer.json", "[]")),
        "tokenizer.json holds a list",
        BOTH,
    ),
    "a tokenizer without its unknown token": (
        fewer_words,
        "tokenizer.json",
        ("model2vec",),
    ),
    "a larger vocabulary than the vectors": (
        larger_vocabulary,
        f"tokenizer.json has {ROWS + 3} tokens, but model.safetensors vectors of {ROWS}",
        BOTH,
    ),
    "no weights": (inside(remove("model.safetensors")), "no safetensors weights", BOTH),
    "weights of another name": (
        inside(lambda folder: (folder / "model.safetensors").rename(folder / "m.safetensors")),
        "model.safetensors is missing",
        BOTH,
    ),
    "weights that are cut": (
        inside(cut("model.safetensors")),
        "model.safetensors has .* bytes in place of",
        BOTH,
    ),
    "weights of a few bytes": (
        inside(lambda folder: (folder / "model.safetensors").write_bytes(b"\0\1")),
        "model.safetensors is",
        BOTH,
    ),
    "a pointer for the weights": (
        inside(put("model.safetensors", POINTER)),
        "model.safetensors is a git-lfs pointer",
        BOTH,
    ),
    "another tensor": (
        tensors(lambda found: found.update(other=found.pop("embeddings"))),
        "model.safetensors has no tensor",
        BOTH,
    ),
    "vectors of one dimension": (
        put_vectors(lambda vectors: vectors[:, 0]),
        rf"of shape \[{ROWS}\] and type F32, not of 2 dimensions",
        BOTH,
    ),
    "vectors without numbers": (
        put_vectors(lambda vectors: vectors[:, :0]),
        rf"of shape \[{ROWS}, 0\]: no vectors",
        BOTH,
    ),
    "vectors of integers": (
        put_vectors(lambda vectors: vectors.astype(np.int32)),
        "type I32, not of 2 dimensions and one of F16",
        BOTH,
    ),
    "vectors that are not finite": (
        put_vectors(with_nan),
        "model.safetensors has values in .* that are not finite",
        BOTH,
    ),
    "vectors of fewer tokens": (
        put_vectors(lambda vectors: vectors[:-1]),
        f"tokenizer.json has {ROWS} tokens, but model.safetensors vectors of {ROWS - 1}",
        BOTH,
    ),
    "vectors of more tokens": (
        put_vectors(lambda vectors: np.concatenate([vectors, vectors[:1]])),
        f"tokenizer.json is cut: it has {ROWS} tokens, but model.safetensors vectors of {ROWS + 1}",
        ("model2vec",),
    ),
    "vectors of many more tokens": (
        put_vectors(lambda vectors: np.tile(vectors, (20, 1))),
        f"tokenizer.json is cut: it has {ROWS} tokens, but model.safetensors vectors of 1,860",
        BOTH,
    ),
    "weights of fewer tokens": (
        tensors(lambda found: found.update(weights=np.ones(ROWS - 1))),
        f"model.safetensors has {ROWS - 1} weights for {ROWS} tokens",
        ("model2vec",),
    ),
    "weights in a table": (
        tensors(lambda found: found.update(weights=np.ones((ROWS, 1)))),
        "has 'weights' of shape .* not of 1 dimensions",
        ("model2vec",),
    ),
    "a mapping to rows that are not there": (
        tensors(lambda found: found.update(mapping=np.arange(ROWS) + 1)),
        f"model.safetensors has 'mapping' to rows 1 to {ROWS} of {ROWS}",
        ("model2vec",),
    ),
    "a mapping of floats": (
        tensors(lambda found: found.update(mapping=np.ones(ROWS))),
        "has 'mapping' of shape .* not integers of one dimension",
        ("model2vec",),
    ),
    "a mapping of fewer tokens": (
        tensors(lambda found: found.update(mapping=np.arange(ROWS - 1))),
        f"tokenizer.json has {ROWS} tokens, but model.safetensors vectors of {ROWS - 1}",
        ("model2vec",),
    ),
    "settings that are cut": (cut("config.json"), "config.json is not whole JSON", ("model2vec",)),
    "a normalize in words": (
        set_in("config.json", normalize="yes"),
        "config.json has normalize 'yes', not true or false",
        ("model2vec",),
    ),
    "a limit in words": (
        set_in("config.json", max_length="512"),
        "config.json has max_length '512', not a whole number",
        ("model2vec",),
    ),
    "a limit of nothing": (
        set_in("config.json", max_length=0),
        "config.json has max_length 0",
        ("model2vec",),
    ),
    "a modules.json that is cut": (cut("modules.json"), "modules.json is not whole JSON", BOTH),
    "a module without a path": (
        put("modules.json", json.dumps([{"type": f"{TYPE}StaticEmbedding"}])),
        "modules.json has an entry without path",
        BOTH,
    ),
    "a module outside": (
        module(0, path="../other"),
        "modules.json has the path '../other', which leads out",
        BOTH,
    ),
    "a module that is not there": (
        module(0, path="3_StaticEmbedding"),
        "tokenizer.json is missing",
        BOTH,
    ),
    "a Dense after it": (one_more("Dense"), "module 'Dense' of modules.json", BOTH),
    "a second StaticEmbedding": (one_more("StaticEmbedding"), "module 'StaticEmbedding'", BOTH),
    "prompts that are cut": (
        cut("config_sentence_transformers.json"),
        "config_sentence_transformers.json is not whole JSON",
        ("StaticEmbedding",),
    ),
    "a default prompt that is not there": (
        set_in("config_sentence_transformers.json", default_prompt_name="passage"),
        "config_sentence_transformers.json has default_prompt_name 'passage'",
        ("StaticEmbedding",),
    ),
}

# What a static model may lack, or have more of.
HARMLESS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "a page about the model": (put("README.md", POINTER), BOTH),
    "no prompts": (remove("config_sentence_transformers.json"), ("StaticEmbedding",)),
    "no list of modules": (remove("modules.json"), ("model2vec",)),
    "where it came from": (set_in("config.json", tokenizer_name="some/model"), ("model2vec",)),
    "rows that are padded": (
        put_vectors(lambda vectors: np.concatenate([vectors, vectors[:9]])),
        ("StaticEmbedding",),
    ),
    "a pickle beside the weights": (put("pytorch_model.bin", "no"), BOTH),
}


def cases(table: dict) -> list[tuple[str, str]]:
    return [(name, kind) for name, entry in table.items() for kind in entry[-1]]


@pytest.mark.parametrize(("name", "kind"), cases(DAMAGE))
def test_a_damaged_static_model_is_refused_by_the_name_of_the_file(
    two_packages: dict[str, Path], tmp_path: Path, name: str, kind: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(two_packages[kind], folder)
    damage, message, _ = DAMAGE[name]
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        StaticEncoder.load(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "kind"), cases(HARMLESS))
def test_what_no_vector_needs_may_be_missing(
    two_packages: dict[str, Path], tmp_path: Path, name: str, kind: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(two_packages[kind], folder)
    HARMLESS[name][0](folder)
    check_encoder(EncoderConfig(str(folder)))
    expected = StaticEncoder.load(str(two_packages[kind])).encode(TEXTS)
    assert np.array_equal(StaticEncoder.load(str(folder)).encode(TEXTS), expected)


def test_the_launcher_refuses_what_it_can_see_without_loading(
    two_packages: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("no tokenizer", "weights that are cut", "a Dense after it"):
        folder = tmp_path / name
        shutil.copytree(two_packages["StaticEmbedding"], folder)
        DAMAGE[name][0](folder)
        with pytest.raises(InputError, match=DAMAGE[name][1]):
            check_encoder(EncoderConfig(str(folder)))


def test_weights_in_bfloat16_are_read(two_packages: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    folder = tmp_path / "model"
    shutil.copytree(two_packages["model2vec"], folder)
    half = load_torch(folder / "model.safetensors")["embeddings"].bfloat16()
    save_torch({"embeddings": half}, folder / "model.safetensors")
    found = StaticEncoder.load(str(folder)).encode(TEXTS)
    save_torch({"embeddings": half.to(torch.float32)}, folder / "model.safetensors")
    assert np.array_equal(found, StaticEncoder.load(str(folder)).encode(TEXTS))
    change(folder / "config.json", embedding_dtype="bfloat16")
    assert np.array_equal(found, StaticEncoder.load(str(folder)).encode(TEXTS))
