"""Make tiny random models of many architectures, and run them packed and alone."""

import numpy as np
import torch
import transformers
from torch.nn.functional import normalize

from beam_gpte.core.encoder.attention import register
from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.pretrained import first_position

VOCABULARY, PAD = 200, 1
# neighbors of one length, the same length elsewhere, one token, above windows
LENGTHS = (1, 5, 5, 17, 40, 40, 3, 64, 5)
SAMPLE_LENGTHS = (1, 1, 9, 30, 64)
TINY = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 3, "pad_token_id": PAD}
TINY |= {"num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 128}
DECODER = {**TINY, "bos_token_id": 2, "eos_token_id": 3}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96}
T5 = {"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3}
GROUPED = {**DECODER, "num_key_value_heads": 2, "head_dim": 16}
SLIDING = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

# name: (configuration class, its settings); all of them have to run unpadded
UNPADDED = {
    "bert": ("BertConfig", TINY),
    "roberta": ("RobertaConfig", TINY),
    "xlm-roberta": ("XLMRobertaConfig", TINY),
    "camembert": ("CamembertConfig", TINY),
    "electra": ("ElectraConfig", {**TINY, "embedding_size": 32}),
    "distilbert": ("DistilBertConfig", {**DISTILBERT, "pad_token_id": PAD}),
    "albert": ("AlbertConfig", {**TINY, "embedding_size": 32}),
    "modernbert": (
        "ModernBertConfig",
        {**DECODER, "local_attention": 16, "global_attn_every_n_layers": 2},
    ),
    "nomic-bert": ("NomicBertConfig", TINY),
    "jina-v3": ("JinaEmbeddingsV3Config", TINY),
    "eurobert": ("EuroBertConfig", GROUPED),
    "llama": ("LlamaConfig", GROUPED),
    "mistral, sliding window": ("MistralConfig", {**GROUPED, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", {**DECODER, "num_key_value_heads": 1}),
    "qwen2, sliding window": (
        "Qwen2Config",
        {**DECODER, "num_key_value_heads": 1, "use_sliding_window": True, **SLIDING},
    ),
    "qwen3": ("Qwen3Config", GROUPED),
    "gemma": ("GemmaConfig", GROUPED),
    "gemma2, soft-cap and window": (
        "Gemma2Config",
        {**GROUPED, **SLIDING, "attn_logit_softcapping": 2.0},
    ),
    "gemma3, causal": ("Gemma3TextConfig", {**GROUPED, **SLIDING}),
    "gemma3, bidirectional": (
        "Gemma3TextConfig",
        {**GROUPED, **SLIDING, "use_bidirectional_attention": True},
    ),
    "phi3": ("Phi3Config", {**GROUPED, "sliding_window": 8}),
    "gpt-neox": ("GPTNeoXConfig", DECODER),
    "olmo3": ("Olmo3Config", {**GROUPED, **SLIDING}),
    "smollm3": ("SmolLM3Config", {**GROUPED, "no_rope_layers": [1, 0, 1]}),
}
PADDED = {
    "mpnet": ("MPNetConfig", TINY),
    "deberta-v2": (
        "DebertaV2Config",
        {**TINY, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "t5 encoder": ("T5Config", {**T5, "num_heads": 4, "pad_token_id": 0}),
}


def tiny(name: str, settings: dict, attention: str | None = None) -> torch.nn.Module:
    """Make a random model with scores large enough that attention is not a uniform average."""
    torch.manual_seed(0)
    config = getattr(transformers, name)(**settings)
    if attention:
        config._attn_implementation = attention
    auto = (
        transformers.AutoModelForTextEncoding
        if config.is_encoder_decoder
        else transformers.AutoModel
    )
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.15)
            elif key.endswith("bias"):
                weight.normal_(std=0.05)
    return model


def texts(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(5, VOCABULARY, length) for length in lengths]


def alone(model: torch.nn.Module, batch: list[np.ndarray]) -> torch.Tensor:
    """Run the plain forward pass, one text at a time; token vectors of length 1."""
    with torch.inference_mode():
        outputs = [
            model(input_ids=torch.from_numpy(ids).unsqueeze(0)).last_hidden_state[0]
            for ids in batch
        ]
    return normalize(torch.cat(outputs), dim=1)


def backbone_of(model: torch.nn.Module) -> Backbone:
    register()
    samples = texts(seed=1, lengths=SAMPLE_LENGTHS)
    config = model.config
    return Backbone(
        model, torch.device("cpu"), config.pad_token_id, samples, first_position(config)
    )


def vectors(backbone: Backbone, batch: list[np.ndarray]) -> torch.Tensor:
    with torch.inference_mode():
        hidden, offsets, _ = backbone.run(batch)
    assert offsets.tolist() == np.cumsum([0, *map(len, batch)]).tolist()
    return normalize(hidden, dim=1)
