"""Write tiny random models in the layout of CometKiwi, and run them plainly."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from beam_gpte.core.scorers.quality_estimator import QUALITY
from tests.core.damage import write
from tests.embedding.test_rerank import SIZE, tokenizer

SETTINGS: dict[str, Any] = {
    "encoder_model": "XLM-RoBERTa",
    "sent_layer": "mix",
    "layer_transformation": "sparsemax",
    "layer_norm": False,
    "hidden_sizes": [24, 12],
    "activations": "Tanh",
    "final_activation": None,
    "input_segments": ["mt", "src"],
    "dropout": 0.1,
}


def save(folder: Path, **settings: Any) -> str:
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        **{**SIZE, "max_position_embeddings": 41, "type_vocab_size": 1, "initializer_range": 0.5}
    )
    transformers.XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer(types=False).save_pretrained(folder)
    write(folder / f"{QUALITY}.json", {**SETTINGS, **settings})
    weights = {f"layerwise_attention.scalar_parameters.{i}": torch.randn(1) * 0.4 for i in range(3)}
    weights |= {"layerwise_attention.gamma": torch.tensor([1.3])}
    weights |= {"layerwise_attention.dropout_mask": torch.zeros(3)}
    for i, (inputs, outputs) in enumerate(((32, 24), (24, 12), (12, 1))):
        weights[f"estimator.ff.{3 * i}.weight"] = torch.randn(outputs, inputs) * 0.3
        weights[f"estimator.ff.{3 * i}.bias"] = torch.randn(outputs) * 0.3
    weights["hidden2tag.weight"] = torch.randn(2, 32)
    (folder / QUALITY).mkdir()
    save_file(weights, folder / QUALITY / "model.safetensors")
    return str(folder)
