"""EmbedSparse: the terms of texts and their weights; collect texts that are blank.

The model is a tiny random masked language model, run as SPLADE, since no package has the weights of
a real one.
"""

import tempfile
from pathlib import Path

import apache_beam as beam
import torch
import transformers
from apache_beam.testing.util import assert_that, equal_to
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from beam_gpte import EmbedSparse, SparseSettings
from beam_gpte.core.sparse.sparse_tokens import sparse_tokens

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat", "dog"]
TEXTS = [{"id": 1, "text": "the cat sat on the mat"}, {"id": 2, "text": " "}]

folder = Path(tempfile.mkdtemp())
torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=len(WORDS),
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
    initializer_range=0.5,
)
transformers.BertForMaskedLM(config).save_pretrained(folder)
tokenizer = Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=32
).save_pretrained(folder)

embed = EmbedSparse(str(folder), sparse=SparseSettings(max_active=3))
with beam.Pipeline("FnApiRunner") as p:
    embedded, rejects = p | beam.Create(TEXTS) | embed.with_exception_handling()
    terms = embedded | beam.Map(lambda row: (row["id"], len(row["sparse_indices"])))
    assert_that(terms, equal_to([(1, 3)]), label="Terms")
    reasons = rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
    assert_that(reasons, equal_to([(2, "text is blank")]), label="Rejects")

named = sparse_tokens(str(folder), [[4, 5]], [[0.5, 1.5]])
assert named == [[("cat", 1.5), ("the", 0.5)]]
