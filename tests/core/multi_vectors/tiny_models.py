"""Write tiny random models of token vectors in each layout."""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MARKERS = ["[unused0]", "[unused1]"]
PUNCTUATION = [".", ",", "!", "?", "[", "]", "-"]
PIECES = ["unused", "##0", "##1", "q", "d", "query", ":"]
WORDS = [f"w{i}" for i in range(40)]
VOCABULARY = SPECIAL + MARKERS + PUNCTUATION + PIECES + WORDS
DIM = 16
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
}
TEXTS = [
    "w1 w2 w3",
    "w1, w2. w3!",
    "...",
    "w5",
    "unknown words? w7 w8 w9",
    " ".join(WORDS),
    "w1 w2 w3",
]


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Make one that lower-cases, and splits at punctuation, as BERT's."""
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=40,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def transformer(kind: str = "Bert", words: int = len(VOCABULARY)) -> torch.nn.Module:
    """Make a random one whose attention is not a uniform average."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=words, **SIZE)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.3)
    return model


def projection(inputs: int, outputs: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) / inputs**0.5


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def pylate(folder: Path, kind: str = "Bert", residual: bool = False, **settings: object) -> str:
    """Save one as PyLate does, its prefixes added to the vocabulary."""
    words = tokenizer()
    words.add_tokens(["[Q] ", "[D] "])
    transformer(kind, len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 39, "do_lower_case": False})
    entries = [("", "sentence_transformers.models.Transformer")]
    shapes = [(32, 24), (24, DIM)] if residual else [(32, DIM)]
    for number, (inputs, outputs) in enumerate(shapes, 1):
        name = f"{number}_Dense"
        entries.append((name, "pylate.models.Dense.Dense"))
        (folder / name).mkdir()
        weights = {"linear.weight": projection(inputs, outputs, number)}
        config = {"in_features": inputs, "out_features": outputs, "bias": False}
        config |= {"activation_function": "torch.nn.modules.linear.Identity"}
        if residual:
            config |= {
                "use_residual": True,
                "activation_function": "torch.nn.modules.activation.GELU",
            }
            weights["residual.weight"] = projection(inputs, outputs, 10 + number)
        write(folder / name / "config.json", config)
        save_file(weights, folder / name / "model.safetensors")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(entries)
    ]
    write(folder / "modules.json", modules)
    about = {
        "model_type": "ColBERT",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 12,
        "document_length": 20,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list("!?.,[]-"),
        "do_query_expansion": True,
        "similarity_fn_name": "MaxSim",
        "prompts": {},
    }
    write(folder / "config_sentence_transformers.json", {**about, **settings})
    return str(folder)


def stanford(folder: Path, **settings: object) -> str:
    """Save one as Stanford's code does."""
    words, model = tokenizer(), transformer()
    words.save_pretrained(folder)
    model.config.architectures = ["HF_ColBERT"]
    model.config.save_pretrained(folder)
    weights = {f"bert.{name}": weight.detach() for name, weight in model.state_dict().items()}
    weights["linear.weight"] = projection(32, DIM)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    about = {"query_maxlen": 12, "doc_maxlen": 18, "mask_punctuation": True, "dim": DIM}
    about |= {"query_token_id": "[unused0]", "doc_token_id": "[unused1]"}
    write(folder / "artifact.metadata", {**about, "attend_to_mask_tokens": False, **settings})
    return str(folder)


def native(folder: Path, pool_factor: float | None = None, **settings: object) -> str:
    """Save one as sentence-transformers 6 does."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import (
        HierarchicalTokenPooling,
        MultiVectorMask,
    )

    body = folder / "body"
    transformer().save_pretrained(body)
    tokenizer().save_pretrained(body)
    mask = {"skiplist_words": settings.pop("skiplist_words", [".", ","])}
    mask |= {"skiplist_tasks": settings.pop("skiplist_tasks", None)}
    given = {"query_length": 9, "document_length": 20, **settings}
    modules = [
        Transformer(str(body), **given),
        Dense(
            32,
            DIM,
            activation_function=torch.nn.Tanh(),
            init_weight=projection(32, DIM),
            module_input_name="token_embeddings",
        ),
        MultiVectorMask(**mask),
        Normalize(module_input_name="token_embeddings"),
    ]
    if pool_factor is not None:
        modules.append(HierarchicalTokenPooling(pool_factor))
    prompts = {"query": "query: ", "document": ""}
    MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save_pretrained(
        str(folder / "model"), create_model_card=False
    )
    return str(folder / "model")


EXPANDED = {
    "query_length": None,
    "query_expansion": {"strategy": "min", "length": 10, "attend": True},
}
MODELS = {
    "pylate": pylate,
    "pylate, attended": lambda folder: pylate(folder, attend_to_expansion_tokens=True),
    "pylate, no expansion": lambda folder: pylate(folder, do_query_expansion=False),
    "pylate, two projections": lambda folder: pylate(folder, residual=True),
    "pylate, own attention": lambda folder: pylate(folder, kind="MPNet"),
    "pylate, prompts": lambda folder: pylate(folder, prompts={"query": "query: ", "document": ""}),
    "stanford": stanford,
    "stanford, punctuation": lambda folder: stanford(folder, mask_punctuation=False),
    "sentence-transformers": native,
    "sentence-transformers, expanded": lambda folder: native(folder, **EXPANDED),
    "sentence-transformers, pooled": lambda folder: native(folder, pool_factor=2.0),
}
