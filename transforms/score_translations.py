"""ScoreTranslations: estimate the quality of translations; collect pairs without a text.

The model is a tiny random one in the layout of CometKiwi, since no package has the weights of a
real one.
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

from beam_gpte import ScoreTranslations

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "good", "morning", "guten", "Morgen"]
PAIRS = [
    {"source_text": "good morning", "target_text": "guten Morgen", "n": 1},
    {"source_text": "good morning", "target_text": None, "n": 2},
]

folder = Path(tempfile.mkdtemp())
config = transformers.XLMRobertaConfig(
    vocab_size=8,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=34,
    type_vocab_size=1,
)
transformers.XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
tokenizer = Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", model_input_names=["input_ids", "attention_mask"]
).save_pretrained(folder)

settings = {
    "input_segments": ["mt", "src"],
    "sent_layer": "mix",
    "layer_transformation": "sparsemax",
    "layer_norm": False,
    "hidden_sizes": [4],
    "activations": "Tanh",
    "final_activation": "Sigmoid",
}
(folder / "quality.json").write_text(json.dumps(settings), encoding="utf-8")
(folder / "quality").mkdir()
weights = {
    "layerwise_attention.scalar_parameters.0": torch.zeros(1),
    "layerwise_attention.scalar_parameters.1": torch.zeros(1),
    "layerwise_attention.gamma": torch.ones(1),
    "estimator.ff.0.weight": torch.randn(4, 16),
    "estimator.ff.0.bias": torch.zeros(4),
    "estimator.ff.3.weight": torch.randn(1, 4),
    "estimator.ff.3.bias": torch.zeros(1),
}
save_file(weights, folder / "quality" / "model.safetensors")

with beam.Pipeline("FnApiRunner") as p:
    scored, rejects = (
        p | beam.Create(PAIRS) | ScoreTranslations(str(folder)).with_exception_handling()
    )
    between = scored | beam.Map(lambda row: (row["n"], 0 < row["quality"] < 1))
    assert_that(between, equal_to([(1, True)]), label="Scores")
    reasons = rejects | beam.Map(lambda row: (row["n"], row["reject_reason"]))
    assert_that(reasons, equal_to([(2, "target_text is null")]), label="Rejects")
