"""Encode with OpenVINO's int8, as sentence-transformers' static quantization makes it (by NNCF).

Texts are sorted by length and run in padded batches of 32, as sentence-transformers does.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

BATCH = 32
CALIBRATION = 128  # texts; sentence-transformers takes 300 sentences


def openvino_int8(
    theirs: SentenceTransformer, texts: list[str], threads: int
) -> Callable[[list[str]], np.ndarray]:
    """Quantize a model of mean pooling, calibrated with texts; return its `encode`.

    Raises:
      ModuleNotFoundError: `openvino` or `nncf` is not installed.
    """
    import nncf
    import openvino as ov

    def inputs(part: list[str]) -> dict[str, Any]:
        features = theirs.tokenize(part)
        return {name: features[name] for name in sorted(features) if name in names}

    names = ("input_ids", "attention_mask", "token_type_ids")
    model = theirs[0].auto_model
    example = {name: torch.ones((2, 8), dtype=torch.long) for name in inputs(["a"])}
    with torch.inference_mode():
        converted = ov.convert_model(model, example_input=example)
    dataset = nncf.Dataset(
        texts[:CALIBRATION],
        lambda text: {name: value.numpy() for name, value in inputs([text]).items()},
    )
    quantized = nncf.quantize(converted, dataset, model_type=nncf.ModelType.TRANSFORMER)
    compiled = ov.compile_model(quantized, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def encode(part: list[str]) -> np.ndarray:
        order = np.argsort([-len(text) for text in part], kind="stable")
        result = np.empty((len(part), model.config.hidden_size), np.float32)
        for start in range(0, len(part), BATCH):
            chosen = order[start : start + BATCH]
            batch = {k: v.numpy() for k, v in inputs([part[i] for i in chosen]).items()}
            states = compiled(batch)[0]
            mask = batch["attention_mask"][:, :, None].astype(np.float32)
            means = (states * mask).sum(1) / mask.sum(1)
            result[chosen] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return result

    return encode
