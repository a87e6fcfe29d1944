"""A model of token vectors that is damaged, or of another kind, is refused by what is wrong."""

import json
import shutil
from pathlib import Path

import pytest

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.multi_vectors.token_encoder import TokenEncoder
from beam_gpte.core.scorers.cross_encoder import CrossEncoder
from beam_gpte.core.static.load_encoder import check_encoder
from tests.core.damage import POINTER, Change, cut, put, remove, set_in, write
from tests.core.multi_vectors.test_token_encoder import Tiny

ABOUT = "config_sentence_transformers.json"


def module(kind: str) -> Change:
    def edit(folder: Path) -> None:
        listed = json.loads((folder / "modules.json").read_text())
        listed[-1]["type"] = kind
        write(folder / "modules.json", listed)

    return edit


DAMAGES: list[tuple[str, str, Change, str]] = [
    ("pylate", "no list", put("modules.json", "{}"), "modules.json lists no modules"),
    ("pylate", "a module", module("pylate.models.LSTM"), "'pylate.models.LSTM' of modules.json"),
    ("pylate", "code", module("evil.Dense"), "module 'evil.Dense' of modules.json is not"),
    ("pylate", "no weights", remove("1_Dense/model.safetensors"), "no model.safetensors"),
    ("pylate", "cut", cut("1_Dense/model.safetensors"), "is cut, or not|bytes in place of"),
    ("pylate", "cut body", cut("model.safetensors"), "is cut, or not|bytes in place of"),
    ("pylate", "pointer", put("1_Dense/model.safetensors", POINTER), "git-lfs pointer"),
    ("pylate", "size", set_in("1_Dense/config.json", in_features=31), "does not agree"),
    ("pylate", "wide", set_in("1_Dense/config.json", out_features=1 << 40), "has out_features"),
    ("pylate", "code", set_in("1_Dense/config.json", activation_function="os.x"), "activation"),
    (
        "pylate",
        "sentences",
        set_in("1_Dense/config.json", module_input_name="sentence_embedding"),
        "has module_input_name 'sentence_embedding', not token_embeddings",
    ),
    ("pylate", "length", set_in(ABOUT, query_length=0), "has query_length 0; give a positive"),
    ("pylate", "length", set_in(ABOUT, document_length="9"), "document_length '9', not a whole"),
    ("pylate", "long", set_in(ABOUT, query_length=99), "99 tokens, but has 48 positions"),
    ("pylate", "words", set_in(ABOUT, skiplist_words="."), "has skiplist_words '.', not a list"),
    ("pylate", "prefix", set_in(ABOUT, query_prefix=3), "has query_prefix 3, not a text"),
    (
        "pylate",
        "lower case",
        set_in("sentence_bert_config.json", do_lower_case=True),
        "has do_lower_case true",
    ),
    ("pylate", "words", remove("tokenizer.json"), "tokenizer.json is missing"),
    (
        "pylate",
        "padding",
        set_in("tokenizer_config.json", padding_side="left"),
        "it lengthens queries at their start",
    ),
    ("stanford", "weights", cut("model.safetensors"), "is cut, or not|bytes in place of"),
    ("stanford", "settings", put("artifact.metadata", "{"), "artifact.metadata is not whole JSON"),
    ("stanford", "type", set_in("artifact.metadata", query_maxlen=True), "has query_maxlen True"),
    (
        "stanford",
        "images",
        set_in("config.json", architectures=["ColPaliForRetrieval"]),
        "architecture 'ColPaliForRetrieval' is not supported",
    ),
    (
        "sentence-transformers, expanded",
        "strategy",
        set_in("sentence_bert_config.json", query_expansion={"strategy": "more"}),
        "has query_expansion .*, which is not known here",
    ),
    (
        "sentence-transformers",
        "task",
        set_in("sentence_bert_config.json", transformer_task="fill-mask"),
        "has transformer_task 'fill-mask'",
    ),
    (
        "sentence-transformers, pooled",
        "factor",
        set_in("4_HierarchicalTokenPooling/config.json", pool_factor=0.5),
        "pool_factor 0.5: give a number from 1",
    ),
    (
        "sentence-transformers",
        "ids",
        set_in("2_MultiVectorMask/config.json", keep_only_token_ids=["x"]),
        "has keep_only_token_ids",
    ),
]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [(name, damage, message) for name, _, damage, message in DAMAGES],
    ids=[f"{name}-{what}-{i}" for i, (name, what, _, _) in enumerate(DAMAGES)],
)
def test_damage_is_named(
    tiny: Tiny, tmp_path: Path, name: str, damage: Change, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny(name), folder)
    damage(folder)
    with pytest.raises(InputError, match=message) as refused:
        TokenEncoder.load(str(folder))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["pylate", "stanford", "sentence-transformers"])
def test_what_makes_one_vector_per_text_names_what_takes_the_model(tiny: Tiny, name: str) -> None:
    for load in (check_encoder, TextEncoder.load, CrossEncoder.load):
        with pytest.raises(InputError, match="a model of token vectors, .* with EmbedTokens, or"):
            load(EncoderConfig(tiny(name)))


def test_a_model_of_one_vector_per_text_is_refused(minilm: str) -> None:
    with pytest.raises(InputError, match=r"does not make a vector per token; .* with EmbedText"):
        TokenEncoder.load(minilm)
