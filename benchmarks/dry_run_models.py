"""Make a model that costs next to nothing, so that all else of a run is seen."""

import json
import shutil
from pathlib import Path

import torch
import transformers

DIM = 64


def tiny(folder: Path, model: str) -> str:
    """Write a random model of one layer, with the tokenizer of another, and return its folder."""
    made = folder / "tiny"
    if not made.exists():
        shutil.copytree(model, made, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.manual_seed(0)
        known = json.loads((made / "config.json").read_text())
        settings = {**known, "hidden_size": DIM, "intermediate_size": DIM}
        settings |= {"num_hidden_layers": 1, "num_attention_heads": 1}
        del settings["model_type"]
        transformers.BertModel(transformers.BertConfig(**settings)).save_pretrained(made)
        pooling = made / "1_Pooling" / "config.json"
        about = json.loads(pooling.read_text())
        pooling.write_text(json.dumps({**about, "word_embedding_dimension": DIM}))
    return str(made)
