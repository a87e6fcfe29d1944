"""Every kind of transformer gives the vectors of the plain transformers forward pass, and no text sees another.

Models are tiny and random; lengths exceed every attention window. What runs unpadded and what falls back is asserted.
"""

import itertools
import threading

import numpy as np
import pytest
import torch
import transformers
from torch.nn.attention import varlen
from torch.nn.functional import normalize, scaled_dot_product_attention

from beam_gpte.core.encoder.backbone import HALF_TOLERANCE, Backbone, _position_offset
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.linear_layers import bf16_gain, pack_linears
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.core.encoder.unpadded import NAME, Unpadded, probe, register

VOCABULARY, PAD = 200, 1
LENGTHS = (
    1,
    5,
    5,
    17,
    40,
    40,
    3,
    64,
    5,
)  # neighbours of one length, the same length elsewhere, one token, above windows
TINY = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 3, "pad_token_id": PAD}
TINY |= {"num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 128}
DECODER = {**TINY, "bos_token_id": 2, "eos_token_id": 3}
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
    "distilbert": (
        "DistilBertConfig",
        {
            "vocab_size": VOCABULARY,
            "dim": 64,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 96,
            "pad_token_id": PAD,
        },
    ),
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
    "t5 encoder": (
        "T5Config",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 96,
            "num_layers": 3,
            "num_heads": 4,
            "pad_token_id": 0,
        },
    ),
}


def tiny(name: str, settings: dict, attention: str | None = None) -> torch.nn.Module:
    """A random model whose scores are large enough that attention is not an average of everything."""
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
    """The plain forward pass, one text at a time, its token vectors of length 1."""
    with torch.inference_mode():
        outputs = [
            model(input_ids=torch.from_numpy(ids).unsqueeze(0)).last_hidden_state[0]
            for ids in batch
        ]
    return normalize(torch.cat(outputs), dim=1)


def backbone_of(model: torch.nn.Module) -> Backbone:
    register()
    pad = model.config.pad_token_id
    return Backbone(
        model,
        torch.device("cpu"),
        pad,
        texts(seed=1, lengths=(1, 1, 9, 30, 64)),
        _position_offset(model.config),
    )


def vectors(backbone: Backbone, batch: list[np.ndarray]) -> torch.Tensor:
    with torch.inference_mode():
        hidden, offsets, _ = backbone.run(batch)
    assert offsets.tolist() == np.cumsum([0, *map(len, batch)]).tolist()
    return normalize(hidden, dim=1)


# transformers runs a soft-cap in eager attention only
PLAIN = [
    (name, way)
    for name in UNPADDED
    for way in ("sdpa", "eager")
    if way == "eager" or "soft-cap" not in name
]


@pytest.mark.parametrize(("name", "attention"), PLAIN)
def test_unpadded_is_the_plain_forward_pass(name, attention) -> None:
    expected = alone(tiny(*UNPADDED[name], attention), texts())
    backbone = backbone_of(tiny(*UNPADDED[name]))
    assert backbone.unpadded, backbone.reason
    assert float((vectors(backbone, texts()) - expected).abs().max()) < 1e-5


def by_its_contract(
    q, k, v, bounds, bounds_k, longest, longest_k, *, scale, window_size, enable_gqa, num_splits
):
    """torch.nn.attention.varlen.varlen_attn, which runs on GPUs only, text by text."""
    assert num_splits == 1
    assert bounds.dtype == torch.int32
    assert longest == int(bounds.diff().max())
    assert bounds is bounds_k
    assert enable_gqa == (q.shape[1] != k.shape[1])
    assert longest == longest_k
    out = torch.empty_like(q)
    for start, stop in itertools.pairwise(bounds.tolist()):
        parts = (x[start:stop].transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        causal = window_size == (-1, 0)
        found = scaled_dot_product_attention(
            *parts, scale=scale, is_causal=causal, enable_gqa=enable_gqa
        )
        out[start:stop] = found[0].transpose(0, 1)
    return out


@pytest.mark.parametrize("name", UNPADDED)
def test_flash_attention_gives_what_sdpa_gives(name, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of(tiny(*UNPADDED[name]))
    backbone.autocast = torch.bfloat16
    expected = vectors(backbone, texts())
    calls = []
    monkeypatch.setattr(
        varlen, "varlen_attn", lambda *a, **b: calls.append(1) or by_its_contract(*a, **b)
    )
    backbone.try_flash(texts(seed=1, lengths=(1, 1, 9, 30, 64)))
    assert float((vectors(backbone, texts()) - expected).abs().max()) < HALF_TOLERANCE
    assert backbone.attention == "unpadded, flash attention"
    # a soft-cap, or windows in all layers that are shorter than the texts: SDPA
    assert bool(calls) != (
        name in ("gemma2, soft-cap and window", "mistral, sliding window", "phi3")
    )


def test_where_flash_attention_does_not_run_sdpa_does() -> None:
    backbone = backbone_of(tiny(*UNPADDED["bert"]))
    backbone.autocast = torch.bfloat16
    expected = vectors(backbone, texts())
    backbone.try_flash(texts(seed=1, lengths=(1, 1, 9, 30, 64)))
    assert backbone.attention == "unpadded"
    assert torch.equal(vectors(backbone, texts()), expected)


@pytest.mark.parametrize("name", PADDED)
def test_attention_of_its_own_falls_back_to_padding_and_is_right(name) -> None:
    expected = alone(tiny(*PADDED[name]), texts())
    backbone = backbone_of(tiny(*PADDED[name]))
    assert not backbone.unpadded
    assert float((vectors(backbone, texts()) - expected).abs().max()) < 1e-5
    assert backbone.run(texts())[2] == 9 * 64  # nine texts, each as wide as the longest


@pytest.mark.parametrize("name", [*UNPADDED, *PADDED])
def test_packed_linears_change_nothing_but_rounding(name) -> None:
    expected = alone(tiny(*(UNPADDED | PADDED)[name]), texts())
    model = tiny(*(UNPADDED | PADDED)[name])
    assert pack_linears(model) > 0
    assert float((vectors(backbone_of(model), texts()) - expected).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("setting", "high"), [("sliding_window", 1000), ("attn_logit_softcapping", 1000.0)]
)
def test_windows_and_soft_caps_are_felt_at_these_lengths(setting, high) -> None:
    name, settings = UNPADDED["gemma2, soft-cap and window"]
    narrow, wide = (
        vectors(backbone_of(tiny(name, settings | other)), texts())
        for other in ({}, {setting: high})
    )
    assert float((narrow - wide).abs().max()) > 1e-2


class LeakySelfAttention(torch.nn.Module):
    """Attention that looks at no registry: over a packed row it lets every text see every other."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = torch.nn.Linear(64, 192)

    def forward(self, hidden_states, *_, **__):
        query, key, value = self.query_key_value(hidden_states).chunk(3, dim=-1)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value), None


class LeakyModel(transformers.BertModel):
    """Claims to support registered attention, and does not."""

    _supports_attention_backend = True


def leaky() -> torch.nn.Module:
    torch.manual_seed(0)
    model = LeakyModel(transformers.BertConfig(**TINY)).eval()
    for layer in model.encoder.layer:
        layer.attention.self = LeakySelfAttention()
    return model


def test_a_model_whose_packed_texts_see_one_another_is_turned_down() -> None:
    model = leaky()
    plain = model.config._attn_implementation
    backbone = backbone_of(model)
    assert not backbone.unpadded
    assert "see one another" in backbone.reason
    assert model.config._attn_implementation == plain != NAME


def test_a_model_that_fails_while_it_is_tried_is_left_as_it_was() -> None:
    model = tiny(*UNPADDED["bert"])
    register()
    plain, expected = model.config._attn_implementation, alone(model, texts())

    class Broken(Unpadded):
        def __call__(self, batch, device, **options):
            raise RuntimeError("no packed rows")

    reason = probe(model, Broken(model, set(), 0), texts(seed=1), torch.device("cpu"))
    assert "no packed rows" in reason
    assert model.config._attn_implementation == plain
    assert torch.equal(alone(model, texts()), expected)


@pytest.mark.parametrize("name", ["bert", "gemma2, soft-cap and window", "mpnet"])
def test_threads_that_share_a_model_do_not_mix_their_texts(name) -> None:
    model = tiny(*(UNPADDED | PADDED)[name])
    expected = {
        seed: alone(model, texts(seed, lengths))
        for seed, lengths in enumerate([LENGTHS, LENGTHS[::-1] * 2])
    }
    backbone = backbone_of(model)
    worst = dict.fromkeys(expected, 0.0)

    def work(seed: int, batch: list[np.ndarray]) -> None:
        for _ in range(10):
            worst[seed] = max(
                worst[seed], float((vectors(backbone, batch) - expected[seed]).abs().max())
            )

    threads = [
        threading.Thread(target=work, args=(seed, texts(seed, lengths)))
        for seed, lengths in enumerate([LENGTHS, LENGTHS[::-1] * 2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst.values()) < 1e-5
    assert len(worst) == 2


def test_no_keys_are_cached_between_batches() -> None:
    backbone = backbone_of(tiny(*UNPADDED["llama"]))
    with torch.inference_mode():
        assert (
            getattr(backbone._packed(texts(), torch.device("cpu")), "past_key_values", None) is None
        )


def bundles(encoder: TextEncoder, texts: list[str], size: int) -> np.ndarray:
    return np.concatenate([encoder.encode(texts[i : i + size]) for i in range(0, len(texts), size)])


@pytest.fixture
def one_and_two_threads():
    before = torch.get_num_threads()
    yield (1, 2)
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_text_has_the_same_bits_in_any_bundle_and_with_any_threads(
    minilm: str, precision, one_and_two_threads
) -> None:
    if precision == "bf16" and not bf16_gain():
        pytest.skip("this CPU has no bfloat16 products")
    encoder = TextEncoder.load(EncoderConfig(minilm, precision=precision, device="cpu"))
    generator = np.random.default_rng(0)
    words = [
        "a",
        "vector",
        "stands",
        "for",
        "the",
        "meaning",
        "of",
        "one",
        "text",
        "and",
        "nothing",
        "else;",
        "42",
    ]
    lengths = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33] * 9 + [64, 129]  # 110 texts
    texts = [" ".join(generator.choice(words, length)) for length in lengths]
    torch.set_num_threads(1)
    expected = encoder.encode(texts)
    order = generator.permutation(len(texts))
    assert np.array_equal(bundles(encoder, texts[:14], 1), expected[:14])
    assert np.array_equal(bundles(encoder, texts, 100), expected)
    for threads in one_and_two_threads:
        torch.set_num_threads(threads)
        assert np.array_equal(bundles(encoder, texts, 7), expected)
        assert np.array_equal(encoder.encode([texts[i] for i in order]), expected[order])
