"""A sparse model of which a part is missing, damaged or another is refused by the file's name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from beam_gpte import EncoderConfig, InputError, SparseEncoder
from tests.core.damage import POINTER, Change, cut, put, remove, set_in, write
from tests.core.sparse.models import inference_free, splade

QUERY, DOCUMENT = "query_0_SparseStaticEmbedding", "document_0_Transformer"
TYPE = "sentence_transformers.sparse_encoder.modules."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("sparse")
    return {
        "splade": splade(place / "splade"),
        "query": inference_free(place / "routed"),
        "document": f"{place}/routed",
    }


def in_list(position: int, **fields: Any) -> Change:
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


def in_router(**fields: Any) -> Change:
    return set_in("router_config.json", **fields)


def weights(**tensors: np.ndarray) -> Change:
    return lambda folder: save_file(tensors, folder / QUERY / "model.safetensors")


def without_a_head(folder: Path) -> None:
    from safetensors.numpy import load_file

    found = load_file(folder / "model.safetensors")
    kept = {name: array for name, array in found.items() if not name.startswith("cls.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGE: dict[str, tuple[str, Change, str]] = {
    "no list of modules, of a routed model": (
        "query",
        remove("modules.json"),
        "neither modules.json nor config.json",
    ),
    "a list that is cut": ("splade", cut("modules.json"), "modules.json is not whole JSON"),
    "an empty list": ("splade", put("modules.json", "[]"), "modules.json lists no modules"),
    "a module without a path": (
        "splade",
        put("modules.json", json.dumps([{"type": f"{TYPE}SpladePooling"}])),
        "modules.json has an entry without path",
    ),
    "a module outside": (
        "splade",
        in_list(1, path="../other"),
        "has the path '../other', which leads out",
    ),
    "a module of its own code": (
        "splade",
        in_list(1, type="my.Pooling"),
        "module 'my.Pooling' of modules.json is not supported",
    ),
    "a module more": ("splade", one_more("SpladePooling"), "are not those of a sparse model"),
    "a dense model": (
        "splade",
        in_list(1, type="sentence_transformers.models.Pooling"),
        r"modules \['Transformer', 'Pooling'\] are not .* use EmbedText",
    ),
    "an autoencoder": ("splade", in_list(1, type=f"{TYPE}SparseAutoEncoder"), "use another model"),
    "no settings of the pooling": (
        "splade",
        remove("1_SpladePooling/config.json"),
        "config.json is missing",
    ),
    "a pooling that is not known": (
        "splade",
        set_in("1_SpladePooling/config.json", pooling_strategy="mean"),
        "config.json has pooling_strategy 'mean', not one of max, sum",
    ),
    "an activation that is not known": (
        "splade",
        set_in("1_SpladePooling/config.json", activation_function="gelu"),
        "config.json has activation_function 'gelu', not one of relu, log1p_relu",
    ),
    "a transformer of another task": (
        "splade",
        set_in("sentence_bert_config.json", transformer_task="feature-extraction"),
        "has transformer_task 'feature-extraction', not 'fill-mask'",
    ),
    "a length of queries": (
        "splade",
        set_in("sentence_bert_config.json", query_length=9),
        "sets query_length, which is not supported",
    ),
    "a limit of nothing": (
        "splade",
        set_in("config_sentence_transformers.json", max_active_dims=0),
        "config_sentence_transformers.json has max_active_dims 0",
    ),
    "no weights": ("splade", remove("model.safetensors"), "no safetensors weights"),
    "weights that are cut": ("splade", cut("model.safetensors"), "model.safetensors has .* bytes"),
    "weights without a head": ("splade", without_a_head, "weights are missing, 'cls.predictions"),
    "no vocabulary": ("splade", remove("tokenizer.json"), "tokenizer.json is missing"),
    "no list of routes": (
        "query",
        remove("router_config.json"),
        "router_config.json is missing",
    ),
    "routes that are cut": ("query", cut("router_config.json"), "is not whole JSON"),
    "no such route": (
        "query",
        in_router(
            structure={"documents": ["x"]}, types={"x": f"{TYPE}SpladePooling"}, parameters={}
        ),
        "route 'query': model .* has the routes documents; give route",
    ),
    "a route outside": (
        "query",
        in_router(
            structure={"query": ["../x"]}, types={"../x": f"{TYPE}SpladePooling"}, parameters={}
        ),
        "has the path '../x', which leads out",
    ),
    "a route without a type": (
        "query",
        in_router(types={f"{QUERY}x": f"{TYPE}SpladePooling"}),
        "router_config.json has no type of the module",
    ),
    "a module after the routes": ("query", one_more("SpladePooling"), "are not those of a sparse"),
    "no weights of queries": (
        "query",
        remove(f"{QUERY}/model.safetensors"),
        "no safetensors weights",
    ),
    "a pointer for the weights of queries": (
        "query",
        put(f"{QUERY}/model.safetensors", POINTER),
        "model.safetensors is a git-lfs pointer",
    ),
    "weights of queries in a file of JSON": (
        "query",
        put(f"{QUERY}/config.json", json.dumps({"path": "idf.json"})),
        "config.json names a file of weights, 'idf.json'",
    ),
    "weights of another name": (
        "query",
        weights(other=np.ones(2000, np.float32)),
        "model.safetensors has no tensor 'weight'",
    ),
    "weights of fewer tokens": (
        "query",
        weights(weight=np.ones(100, np.float32)),
        "model.safetensors has 100 weights for 1,",
    ),
    "weights in a table": (
        "query",
        weights(weight=np.ones((2000, 1), np.float32)),
        "not of one dimension",
    ),
    "weights that are not finite": (
        "query",
        weights(weight=np.full(2000, np.nan, np.float32)),
        "model.safetensors has weights that are not finite",
    ),
    "no vocabulary of queries": (
        "query",
        remove(f"{QUERY}/tokenizer.json"),
        "tokenizer.json is missing",
    ),
    "no weights of documents": (
        "document",
        remove(f"{DOCUMENT}/model.safetensors"),
        "no safetensors weights",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_sparse_model_is_refused_by_the_name_of_the_file(
    models: dict[str, str], tmp_path: Path, name: str
) -> None:
    kind, damage, message = DAMAGE[name]
    folder = tmp_path / "model"
    shutil.copytree(models[kind], folder)
    damage(folder)
    route = kind if kind in ("query", "document") else None
    with pytest.raises(InputError, match=message) as error:
        SparseEncoder.load(EncoderConfig(str(folder), device="cpu", route=route))
    assert "\n" not in str(error.value)


def test_a_plain_model_without_a_head_over_the_vocabulary_is_refused(
    models: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(f"{models['splade']}_plain", folder)
    set_in("config.json", architectures=["BertModel"])(folder)
    with pytest.raises(InputError, match="names BertModel as architecture, .* use EmbedText"):
        SparseEncoder.load(str(folder))


def test_a_damaged_route_that_is_not_asked_for_does_no_harm(
    models: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["query"], folder)
    (folder / DOCUMENT / "model.safetensors").unlink()
    found = SparseEncoder.load(EncoderConfig(str(folder), route="query")).encode(["the cat"])
    assert len(found.values) == 2
