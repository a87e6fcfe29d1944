"""Write tiny random causal language models that answer yes or no."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [f"w{i}" for i in range(48)]
# what sentence-transformers finds the end of a template with
FILLERS = ["0", "4"]
VOCABULARY = ["[PAD]", "[UNK]", "<s>", "</s>", "yes", "no", "rate", "query", "document", ":"]
VOCABULARY += [*FILLERS, *WORDS]
CHAT = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}rate {{ m.content }} {% endif %}"
    "{% if m.role == 'query' %}<s> query : {{ m.content }} {% endif %}"
    "{% if m.role == 'document' %}document : {{ m.content }} </s>{% endif %}"
    "{% endfor %} rate :"
)
TEMPLATE = "rate <s> query : {query} document : {document} </s> rate :"
SIZE = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def tokenizer(chat: str | None = CHAT) -> transformers.PreTrainedTokenizerFast:
    """Make a tokenizer whose tokens are words."""
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="</s>",
        padding_side="left",
        model_max_length=40,
    )
    if chat is not None:
        made.chat_template = chat
    return made


def save(folder: Path, kind: str = "Qwen3", chat: str | None = CHAT, **settings: object) -> str:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZE, **settings})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer(chat).save_pretrained(folder)
    return str(folder)
