"""Models with routes give the vectors of sentence-transformers, each route alone."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beam_gpte import EncoderConfig, InputError
from beam_gpte.core.encoder.routes.router import routed_entries
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.core.metadata import check_one_model
from beam_gpte.core.static.load_encoder import check_encoder, load_encoder, load_tokenizer
from beam_gpte.core.static.static_encoder import StaticEncoder
from tests.core.damage import change, write
from tests.core.encoder.routes import routed_models
from tests.core.encoder.whole_model import PACKAGE

TEXTS = ["The cat sat on the mat.", "two cats, w17 w18", "w1 w2 w3", "costs: 20%"]
MAPPED = {("query", "text"): "light", ("document", None): "heavy"}


@pytest.fixture(scope="module")
def static_queries(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return routed_models.static_queries(tmp_path_factory.mktemp("routes") / "static", whole)


@pytest.fixture(scope="module")
def shared(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("routes") / "shared"
    return routed_models.shared(folder, whole, route_mappings=MAPPED)


@pytest.fixture(scope="module")
def after_pooling(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return routed_models.after_pooling(tmp_path_factory.mktemp("routes") / "asym", whole)


def peer(folder: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu")


def encode(folder: str, **settings: Any) -> np.ndarray:
    config = EncoderConfig(folder, normalize=False, device="cpu", **settings)
    check_encoder(config)
    return load_encoder(config).encode(TEXTS)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


def test_queries_and_documents_have_the_vectors_of_sentence_transformers(
    static_queries: str,
) -> None:
    theirs = peer(static_queries)
    assert_close(encode(static_queries, route="query"), theirs.encode_query(TEXTS))
    assert_close(encode(static_queries, route="document"), theirs.encode_document(TEXTS))
    assert_close(encode(static_queries), theirs.encode(TEXTS))


def test_a_prompt_named_after_a_task_chooses_its_route(static_queries: str) -> None:
    theirs = peer(static_queries)
    assert_close(encode(static_queries, prompt_name="query"), theirs.encode_query(TEXTS))
    assert_close(encode(static_queries, prompt_name="document"), theirs.encode_document(TEXTS))
    found = encode(static_queries, route="document", prompt="the ")
    assert_close(found, theirs.encode(TEXTS, prompt="the ", task="document"))


@pytest.mark.parametrize("task", ["query", "document", "light", None])
def test_routes_share_modules_and_are_found_by_their_tasks(shared: str, task: str | None) -> None:
    types = json.loads((Path(shared) / "router_config.json").read_text())["types"]
    assert sum(kind.endswith(".Transformer") for kind in types.values()) == 1
    theirs = peer(shared)
    encoded = {"query": theirs.encode_query, "document": theirs.encode_document}
    expected = encoded[task](TEXTS) if task in encoded else theirs.encode(TEXTS, task=task)
    assert_close(encode(shared, route=task), expected)


def test_routes_after_a_pooling_have_their_dense_in_its_place(after_pooling: str) -> None:
    theirs = peer(after_pooling)
    for route in ("query", "doc"):
        assert_close(encode(after_pooling, route=route), theirs.encode(TEXTS, task=route))
    assert_close(encode(after_pooling), theirs.encode(TEXTS))


def test_one_route_is_loaded_and_the_others_need_not_be_there(
    static_queries: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(static_queries, tmp_path / "model")
    expected = encode(str(folder), route="query")
    for place in folder.glob("document_*"):
        shutil.rmtree(place)
    assert np.array_equal(encode(str(folder), route="query"), expected)
    with pytest.raises(InputError, match=r"config\.json is missing"):
        encode(str(folder), route="document")


def test_vectors_say_which_route_made_them(static_queries: str) -> None:
    query, document, default = (
        load_encoder(EncoderConfig(static_queries, route=route, device="cpu"))
        for route in ("query", "document", None)
    )
    assert isinstance(query, StaticEncoder)
    assert isinstance(document, TextEncoder)
    made = [one.metadata for one in (query, document, default)]
    assert [one.route for one in made] == ["query", "document", "document"]
    assert [one.prompt for one in made] == ["the ", "two cats ", ""]
    assert len({one.fingerprint for one in made}) == 3
    with pytest.raises(InputError, match="vectors of two models in one collection"):
        check_one_model([one.dim for one in made], [one.identity for one in made[:2]])


def test_tokens_are_counted_by_the_tokenizer_of_the_route(static_queries: str) -> None:
    for route, prompt in (("query", "the "), ("document", "two cats ")):
        assert load_tokenizer(EncoderConfig(static_queries, route=route)).prompt == prompt


def saved_mappings(mappings: dict[Any, str]) -> dict[str, str]:
    return {str(key): route for key, route in mappings.items()}


KEYS = [("query", "text"), ("query", None), (None, "text"), (None, None), ("query", "image")]


@pytest.mark.parametrize("names", [("query", "document"), ("text", "image"), ("a", "query")])
@pytest.mark.parametrize("options", [{}, {"allow_empty_key": False}, {"default_route": 1}])
def test_a_route_is_chosen_in_the_order_of_sentence_transformers(
    tmp_path: Path, names: tuple[str, str], options: dict[str, Any]
) -> None:
    from sentence_transformers.models import Normalize, Router

    if "default_route" in options:
        options = {"default_route": names[options["default_route"]]}
    for size in range(3):
        for keys in itertools.combinations(KEYS, size):
            mappings = dict(zip(keys, names, strict=False))
            theirs = Router(
                {name: [Normalize()] for name in names}, route_mappings=mappings, **options
            )
            parameters = theirs.get_config_dict() | {"route_mappings": saved_mappings(mappings)}
            write(tmp_path / "router_config.json", router(names, **parameters))
            for task in (None, "query", *names):
                config = EncoderConfig("m", route=task)
                try:
                    expected = theirs._resolve_route(task, "text")
                except ValueError:
                    expected = None
                try:
                    _, found = routed_entries(tmp_path / "modules.json", [ROUTER], config)
                except InputError:
                    known = {*names, *(one for one, kind in mappings if kind in ("text", None))}
                    assert expected is None or task not in known
                else:
                    assert found == expected


ROUTER = {"idx": 0, "name": "0", "path": "", "type": f"{PACKAGE}.Router"}


def router(names: tuple[str, ...], **parameters: Any) -> dict[str, Any]:
    return {
        "types": {f"{name}_0": f"{PACKAGE}.Normalize" for name in names},
        "structure": {name: [f"{name}_0"] for name in names},
        "parameters": parameters,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"route": "image"}, "route 'image': model .* has the routes query, document; give route"),
        (
            {"route": "query", "prompt_name": "document"},
            "route 'query' and prompt_name 'document', which is of the route 'document'",
        ),
        ({"route": "query", "layers": 2}, "layers 2: a static model supports only"),
        ({"route": ""}, "route '': give a name"),
        ({"route": 3}, "route 3: give a name"),
    ],
)
def test_a_configuration_that_no_route_suits_is_refused_before_a_job(
    static_queries: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_encoder(EncoderConfig(static_queries, **settings))


def test_a_model_without_routes_or_without_a_default_says_so(
    whole: Path, static_queries: str, tmp_path: Path
) -> None:
    listed = shutil.ignore_patterns("modules.json", "1_Pooling")
    bare = shutil.copytree(whole, tmp_path / "bare", ignore=listed)
    for folder in (whole, bare):
        with pytest.raises(InputError, match="route 'query': model .* has no routes; leave it out"):
            check_encoder(EncoderConfig(str(folder), route="query"))
    folder = shutil.copytree(static_queries, tmp_path / "strict")
    parameters = {"default_route": None, "allow_empty_key": False, "route_mappings": {}}
    change(folder / "router_config.json", parameters=parameters)
    with pytest.raises(InputError, match="has no default among its routes query, document; give"):
        check_encoder(EncoderConfig(str(folder)))
    check_encoder(EncoderConfig(str(folder), route="document"))


DAMAGED: dict[str, tuple[Any, str]] = {
    "no routes": ({"structure": {}}, "has no routes"),
    "no modules": ({"structure": {"query": []}}, "lists no modules of the route 'query'"),
    "no type": ({"types": {}}, "has no type of the module 'query_0'"),
    "elsewhere": (
        {"structure": {"query": ["../x"]}, "types": {"../x": f"{PACKAGE}.Transformer"}},
        r"has the path '\.\./x', which leads out of this folder",
    ),
    "nested": ({"types": {"query_0": f"{PACKAGE}.Router"}}, "has a Router in the route 'query'"),
    "sparse": (
        {"types": {"query_0": "sentence_transformers.sparse_encoder.models.SpladePooling"}},
        "a sparse model, which gives weights of terms; use EmbedSparse",
    ),
    "code": ({"types": {"query_0": "my.Module"}}, "module 'my.Module' .* is not supported"),
    "default": ({"parameters": {"default_route": "x"}}, "names the route 'x', but no such route"),
    "mapping": (
        {"parameters": {"route_mappings": {"query": "query"}}},
        "has the mapping 'query', not a task and a modality",
    ),
    "mapped": (
        {"parameters": {"route_mappings": {"('query', None)": "x"}}},
        "names the route 'x', but no such route",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_routes_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    changes, message = DAMAGED[kind]
    write(tmp_path / "modules.json", [ROUTER])
    write(tmp_path / "router_config.json", router(("query",)) | changes)
    with pytest.raises(InputError, match=message):
        check_encoder(EncoderConfig(str(tmp_path)))


def test_a_router_without_its_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "modules.json", [ROUTER])
    with pytest.raises(InputError, match=r"router_config\.json is missing"):
        check_encoder(EncoderConfig(str(tmp_path)))


def test_a_prompt_left_out_of_the_mean_counts_in_each_route(static_queries: str) -> None:
    """`include_prompt` false: the mean over the text's tokens, of a pass that saw the prompt."""
    encoder = load_encoder(
        EncoderConfig(static_queries, route="document", normalize=False, device="cpu")
    )
    theirs = peer(static_queries)
    router = theirs[0].sub_modules["document"]
    text = TEXTS[0]
    with torch.inference_mode():
        features = router[0].preprocess(["two cats " + text])
        hidden = router[0](features)["token_embeddings"][0]
    prompt = len(router[0].tokenizer("two cats")["input_ids"]) - 1  # without [SEP]
    mean = torch.nn.functional.normalize(hidden[prompt:].mean(0), dim=0).numpy()
    assert_close(encoder.encode([text])[0], mean)
