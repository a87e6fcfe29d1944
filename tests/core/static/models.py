"""Write small static models as sentence-transformers and model2vec do, and what they compute."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tests.core.damage import write

TYPE = "sentence_transformers.models."
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "mat", "sat", "on", "sentence", "year", "na", "##ive", "gro", "##ss", "cats"]
ROWS = 93  # of the vocabulary
DIM = 16

TEXTS = [
    "The cat sat on the mat.",
    "Größe, ÀÉ naïve cats 2024",
    "the  cat\tsat\non the\u3000mat 東京",
    "one [MASK] two<s>three",
    "quokka " * 90,
    "cat",
]


def corpus() -> list[str]:
    """Return sentences to train tokenizers on."""
    nouns = ["cat", "mat", "quokka", "sentence", "tokenizer", "größe", "naïve", "year 2024"]
    verbs = ["sat on", "writes", "is near", "costs more than"]
    return [f"the {a} {verb} the {b}." for a in nouns for verb in verbs for b in nouns]


def bert(more: tuple[str, ...] = ()) -> tokenizers.Tokenizer:
    """Make a tokenizer as BERT's, which truncates at 60 tokens, and pads; with more words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    words = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *WORDS, *more]
    vocabulary = {word: i for i, word in enumerate(words)}
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(SPECIAL)
    made.enable_truncation(60)
    made.enable_padding(length=60)
    return made


def llama() -> tokenizers.Tokenizer:
    """Train a tokenizer as Llama's: a mark for each space, and before the text."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    made.normalizer = normalizers.Sequence(marks)
    trainer = trainers.BpeTrainer(
        vocab_size=160, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"]
    )
    words = (f"▁{word}" for text in corpus() for word in text.split())
    made.normalizer = normalizers.NFC()  # words have their marks
    made.train_from_iterator(words, trainer)
    made.normalizer = normalizers.Sequence(marks)
    return made


def unigram(*steps: Any) -> tokenizers.Tokenizer:
    """Train a tokenizer as XLM-R's: `steps` normalize, Metaspace cuts."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence(list(steps))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(corpus(), trainer)
    return made


def token_vectors(tokenizer: tokenizers.Tokenizer, dim: int = DIM) -> np.ndarray:
    rows = tokenizer.get_vocab_size()
    return np.random.default_rng(7).standard_normal((rows, dim)).astype(np.float32)


def model2vec(
    folder: Path, tokenizer: tokenizers.Tokenizer, tensors: dict[str, np.ndarray], **settings: Any
) -> str:
    """Write a folder as model2vec 0.10 does."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"model_type": "model2vec", "normalize": True, "max_length": 50, **settings}
    write(folder / "config.json", settings)
    modules = [{"idx": 0, "name": "0", "path": ".", "type": f"{TYPE}StaticEmbedding"}]
    if settings["normalize"]:
        modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{TYPE}Normalize"})
    write(folder / "modules.json", modules)
    return str(folder)


def static_embedding(
    folder: Path, tokenizer: tokenizers.Tokenizer, vectors: np.ndarray, normalize: bool = False
) -> str:
    """Write a folder as sentence-transformers 6 does."""
    place = folder / "0_StaticEmbedding"
    place.mkdir(parents=True)
    save_file({"embedding.weight": vectors}, place / "model.safetensors")
    tokenizer.save(str(place / "tokenizer.json"))
    modules = [{"idx": 0, "name": "0", "path": place.name, "type": f"{TYPE}StaticEmbedding"}]
    if normalize:
        (folder / "1_Normalize").mkdir()
        modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{TYPE}Normalize"})
    write(folder / "modules.json", modules)
    prompts = {"prompts": {"query": "the "}, "default_prompt_name": None}
    write(folder / "config_sentence_transformers.json", prompts)
    return str(folder)


def as_model2vec(folder: str, texts: list[str]) -> np.ndarray:
    """Compute what model2vec 0.10 does (`StaticModel.encode`), text by text."""
    from safetensors.numpy import load_file

    tensors = load_file(Path(folder) / "model.safetensors")
    settings = json.loads((Path(folder) / "config.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    limit = settings.get("max_length", 512)
    tokenizer.no_truncation() if limit is None else tokenizer.enable_truncation(limit)
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_id", tokenizer.token_to_id(str(model.get("unk_token"))))
    median = int(np.median([len(token) for token in tokenizer.get_vocab()]))
    out = []
    for text in texts:
        read = text if limit is None else text[: limit * median]
        ids = [i for i in tokenizer.encode(read, add_special_tokens=False).ids if i != unknown]
        rows = tensors["mapping"][ids] if "mapping" in tensors else ids
        found = tensors["embeddings"][rows].astype(np.float32)
        if "weights" in tensors:
            found = found * tensors["weights"][ids][:, None]
        mean = found.mean(axis=0)
        out.append(mean / np.linalg.norm(mean) if settings["normalize"] else mean)
    return np.array(out, np.float32)
