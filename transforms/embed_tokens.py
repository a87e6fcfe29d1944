"""EmbedTokens and RerankTokens: vectors of tokens, in int8, and scores of pairs by them.

The model is a tiny random one in PyLate's layout, since no package has the weights of a real one:
with access to the hub, use ``EmbedTokens("lightonai/GTE-ModernColBERT-v1")``.
"""

import json
import tempfile
from pathlib import Path

import apache_beam as beam
import torch
import transformers
from apache_beam.testing.util import assert_that, equal_to
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from beam_gpte import EmbedTokens, EncoderConfig, Rerank, RerankTokens, TokenStorage

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "open", "file", "bread", "."]
PAIRS = [
    {"query": "how open file", "document": "open file .", "n": 1},
    {"query": "how open file", "document": "bread", "n": 2},
    {"query": "how open file", "document": None, "n": 3},
]

folder = Path(tempfile.mkdtemp())
config = transformers.BertConfig(
    vocab_size=10,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
)
transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
tokenizer = Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
).save_pretrained(folder)

dense = folder / "1_Dense"
dense.mkdir()
save_file({"linear.weight": torch.randn(8, 16)}, dense / "model.safetensors")
files = {
    folder / "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ],
    folder / "config_sentence_transformers.json": {
        "model_type": "ColBERT",
        "query_length": 8,
        "document_length": 12,
    },
    dense / "config.json": {
        "in_features": 16,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.Identity",
    },
}
for path, content in files.items():
    path.write_text(json.dumps(content), encoding="utf-8")

queries = EmbedTokens(EncoderConfig(str(folder), route="query"), "query", None, "query_tokens")
int8 = TokenStorage(quantization="int8")
documents = EmbedTokens(str(folder), "document", None, "document_tokens", storage=int8)

with beam.Pipeline("FnApiRunner") as p:
    pairs = p | beam.Create(PAIRS)
    embedded, rejects = (
        pairs | "Queries" >> queries | "Documents" >> documents.with_exception_handling()
    )
    counts = embedded | "Count" >> beam.Map(
        lambda row: (row["n"], len(row["query_tokens"]), len(row["document_tokens"]))
    )
    # a query has 8 vectors; punctuation has none
    assert_that(counts, equal_to([(1, 8, 4), (2, 8, 3)]), label="Counts")
    reasons = rejects | beam.Map(lambda row: (row["n"], row["reject_reason"]))
    assert_that(reasons, equal_to([(3, "document is null")]), label="Rejects")

    scored = embedded | RerankTokens() | Rerank(str(folder), score_column="by_model")
    near = scored | "Compare" >> beam.Map(
        lambda row: (row["n"], abs(row["rerank_score"] - row["by_model"]) < 0.1)
    )
    assert_that(near, equal_to([(1, True), (2, True)]), label="Scores")
