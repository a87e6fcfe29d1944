"""Write a tiny random model in the sentence-transformers layout, for tests that damage it."""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from tests.core.damage import write

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = list(
    "abcdefghijklmnopqrstuvwxyzäößéèïëÀÉABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?$%:=()[]<>/²"
)
WORDS = ["the", "cat", "sat", "on", "mat", "two", "blanks", "and", "tab", "costs", "off", "mask"]
PIECES = [f"##{letter}" for letter in LETTERS]
TEXTS = ["The cat sat on the mat.", "two cats, w17 w18"]
VOCABULARY = [*SPECIAL, *LETTERS, *PIECES, *WORDS, *(f"w{i}" for i in range(1000))]
PACKAGE = "sentence_transformers.models"
MODULES = {
    "Transformer": "",
    "Pooling": "1_Pooling",
    "Dense": "2_Dense",
    "Normalize": "3_Normalize",
}
TOKENIZER = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "model_max_length": 64,
    **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL},
}


def make(folder: Path) -> None:
    """Write a BERT in several shards, pooled by its first token, with a Dense module after it."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    write(folder / "tokenizer_config.json", TOKENIZER)
    backend = transformers.AutoTokenizer.from_pretrained(folder, model_type="bert")
    backend.backend_tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "special_tokens_map.json", {"cls_token": "[CLS]", "sep_token": "[SEP]"})
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    transformers.BertModel(config).save_pretrained(folder, max_shard_size="100KB")
    types = [
        {"idx": i, "name": str(i), "path": path, "type": f"{PACKAGE}.{kind}"}
        for i, (kind, path) in enumerate(MODULES.items())
    ]
    write(folder / "modules.json", types)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    prompts = {"prompts": {"query": "the "}, "default_prompt_name": None}
    write(folder / "config_sentence_transformers.json", prompts)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    write(folder / "1_Pooling" / "config.json", pooling)
    write(
        folder / "2_Dense" / "config.json",
        {
            "in_features": 32,
            "out_features": 16,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    )
    linear = {"linear.weight": torch.randn(16, 32), "linear.bias": torch.randn(16)}
    save_file(linear, folder / "2_Dense" / "model.safetensors")
