"""Rerank: score pairs of a question and a text by a cross-encoder; collect pairs without a text.

The model is a tiny random one, since no package has the weights of a real one: with access to the
hub, use ``Rerank("cross-encoder/ms-marco-MiniLM-L6-v2")``.
"""

import tempfile

import apache_beam as beam
import transformers
from apache_beam.testing.util import assert_that, equal_to
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from beam_gpte import Rerank

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "open", "file", "bread"]
PAIRS = [
    {"query": "how open file", "document": "open file", "n": 1},
    {"query": "how open file", "document": "bread", "n": 2},
    {"query": "how open file", "document": None, "n": 3},
]

folder = tempfile.mkdtemp()
config = transformers.BertConfig(
    vocab_size=8,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    num_labels=1,
)
transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
tokenizer = Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token="[PAD]",
    model_input_names=["input_ids", "attention_mask", "token_type_ids"],
).save_pretrained(folder)

with beam.Pipeline("FnApiRunner") as p:
    scored, rejects = p | beam.Create(PAIRS) | Rerank(folder).with_exception_handling()
    between = scored | beam.Map(lambda row: (row["n"], 0 < row["rerank_score"] < 1))
    assert_that(between, equal_to([(1, True), (2, True)]), label="Scores")
    reasons = rejects | beam.Map(lambda row: (row["n"], row["reject_reason"]))
    assert_that(reasons, equal_to([(3, "document is null")]), label="Rejects")
