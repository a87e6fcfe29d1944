"""Write a small random model that pools by latent attention, in its own code, as NV-Embed does."""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.core.damage import write
from tests.core.encoder.whole_model import PACKAGE, VOCABULARY

SIZE, LATENTS = 32, 4
CODE = """
import torch
from transformers import BertConfig, BertModel, PreTrainedModel


class LatentConfig(BertConfig):
    model_type = "tiny_latent"


class LatentModel(PreTrainedModel):
    config_class = LatentConfig

    def __init__(self, config):
        super().__init__(config)
        size = config.hidden_size
        self.embedding_model = BertModel(config, add_pooling_layer=False)
        latents = config.latent_attention_config["num_latents"]
        self.latents = torch.nn.Parameter(torch.empty(latents, size))
        self.query = torch.nn.Linear(size, size, bias=False)
        self.key = torch.nn.Linear(size, size, bias=False)
        self.value = torch.nn.Linear(size, size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, pool_mask=None):
        hidden = self.embedding_model(input_ids, attention_mask=attention_mask).last_hidden_state
        scores = self.query(hidden) @ self.key(self.latents).T / hidden.shape[-1] ** 0.5
        hidden = hidden + scores.softmax(-1) @ self.value(self.latents)
        mask = (attention_mask if pool_mask is None else pool_mask).unsqueeze(-1).float()
        return {"sentence_embeddings": (hidden * mask).sum(1) / mask.sum(1)}
"""


def make(folder: Path, whole: Path, code: str = CODE, include_prompt: bool = True) -> str:
    """Write the model with the tokenizer of a folder, a Pooling and a Normalize."""
    tokenizer = shutil.ignore_patterns("*.safetensors*", "[0-9]_*", "config.json")
    shutil.copytree(whole, folder, ignore=tokenizer)
    settings = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    weights = transformers.BertModel(settings, add_pooling_layer=False).state_dict()
    tensors = {f"embedding_model.{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"{name}.weight": torch.randn(SIZE, SIZE) for name in ("query", "key", "value")}
    tensors |= {"latents": torch.randn(LATENTS, SIZE), "value.bias": torch.randn(SIZE)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "modeling_latent.py").write_text(code, encoding="utf-8")
    names = {"AutoConfig": "LatentConfig", "AutoModel": "LatentModel"}
    write(
        folder / "config.json",
        settings.to_dict()
        | {
            "model_type": "tiny_latent",
            "architectures": ["LatentModel"],
            "auto_map": {auto: f"modeling_latent.{name}" for auto, name in names.items()},
            "latent_attention_config": {"num_latents": LATENTS},
        },
    )
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"{PACKAGE}.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    write(folder / "modules.json", listed)
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": include_prompt}
    write(folder / "1_Pooling" / "config.json", pooling)
    return str(folder)


def vector_of(folder: str, ids: list[int], left_out: int = 0) -> np.ndarray:
    """Compute the vector of a text by its definition, a token after the other: float32 (dim,)."""
    tensors = load_file(Path(folder) / "model.safetensors")
    inner = {
        name.removeprefix("embedding_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("embedding_model.")
    }
    settings = transformers.BertConfig.from_json_file(str(Path(folder) / "config.json"))
    bert = transformers.BertModel(settings, add_pooling_layer=False).eval()
    bert.load_state_dict(inner)
    with torch.inference_mode():
        tokens = bert(torch.tensor([ids])).last_hidden_state[0].double().numpy()
    weights = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    keys = [weights["key.weight"] @ latent for latent in weights["latents"]]
    values = [
        weights["value.weight"] @ latent + weights["value.bias"] for latent in weights["latents"]
    ]
    pooled = []
    for token in tokens[left_out:]:
        query = weights["query.weight"] @ token
        scores = np.exp([query @ key / SIZE**0.5 for key in keys])
        attended = sum(s * v for s, v in zip(scores / scores.sum(), values, strict=True))
        pooled.append(token + attended)
    mean = np.mean(pooled, axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32)
