"""Write tiny random sparse models as sentence-transformers does, and what it computes with them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import processors

from beam_gpte.core.sparse.sparse_rows import SparseRows
from tests.core.encoder.tiny_models import PADDED, UNPADDED
from tests.core.static.models import bert

MORE = tuple(f"w{i}" for i in range(1010))  # words, so that there are several tiles
WORDS = [*MORE[:60], "the", "cat", "sat", "on", "mat", "sentence", "year"]
MAX_TOKENS = 60

# The families with a head of masked language models.
FAMILIES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "distilbert",
    "albert",
    "modernbert",
    "mpnet",
    "deberta-v2",
)


def texts(lengths: tuple[int, ...] = (1, 5, 5, 17, 3, 40, 80, 5), seed: int = 0) -> list[str]:
    """Make texts of words; the longest have more tokens than the models take."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, length)) for length in lengths]


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    made = bert(MORE)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def plain(folder: Path, family: str = "bert", **settings: Any) -> str:
    """Write a masked language model as transformers does, without a list of modules."""
    torch.manual_seed(0)
    name, own = {**UNPADDED, **PADDED}[family]
    words = tokenizer()
    given = {**own, "vocab_size": len(words), "pad_token_id": 0, **settings}
    model = transformers.AutoModelForMaskedLM.from_config(
        getattr(transformers, name)(**given)
    ).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.15)
            elif key.endswith("bias"):
                weight.normal_(std=0.05)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def splade_modules(
    folder: Path, family: str = "bert", pooling: str = "max", activation: str = "relu"
) -> list[Any]:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    transformer = Transformer(plain(folder, family), transformer_task="fill-mask")
    settings: Any = {"pooling_strategy": pooling, "activation_function": activation}
    return [transformer, SpladePooling(**settings)]


def splade(
    folder: Path,
    family: str = "bert",
    pooling: str = "max",
    activation: str = "relu",
    **settings: Any,
) -> str:
    """Write a SPLADE model as sentence-transformers does."""
    from sentence_transformers import SparseEncoder as Peer

    made = splade_modules(folder.with_name(f"{folder.name}_plain"), family, pooling, activation)
    Peer(modules=made, device="cpu", **settings).save(str(folder))
    return str(folder)


def inference_free(folder: Path, activation: str = "log1p_relu", **settings: Any) -> str:
    """Write a model whose queries are weights of their tokens."""
    from sentence_transformers import SparseEncoder as Peer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    documents = splade_modules(folder.with_name(f"{folder.name}_plain"), activation=activation)
    words = tokenizer()
    weights = torch.rand(len(words), generator=torch.Generator().manual_seed(1)) * 5
    weights[::7] = 0  # terms that no query has
    queries: list[Any] = [SparseStaticEmbedding(words, weights, frozen=True)]
    router = Router.for_query_document(query_modules=queries, document_modules=documents)
    Peer(modules=[router], device="cpu", **settings).save(str(folder))
    return str(folder)


def autoencoder(folder: Path, normalize: bool = False, *between: Any) -> str:
    """Write a model whose terms are the latents of a dense vector."""
    from sentence_transformers import SparseEncoder as Peer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    torch.manual_seed(3)
    transformer = Transformer(plain(folder.with_name(f"{folder.name}_plain")))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    latents = SparseAutoEncoder(64, hidden_dim=1500, k=16, normalize=normalize)
    with torch.no_grad():
        latents.pre_bias.normal_()
        latents.latent_bias.normal_()
    made = [transformer, pooling, *between, latents]
    Peer(modules=made, device="cpu").save(str(folder))
    return str(folder)


def peer_rows(
    folder: str, given: list[str], route: str = "document", **settings: Any
) -> np.ndarray:
    """Encode with sentence-transformers, text by text: float32 (n, terms)."""
    from sentence_transformers import SparseEncoder as Peer

    peer = Peer(folder, device="cpu")
    encode = peer.encode_query if route == "query" else peer.encode_document
    rows = [
        encode([text], convert_to_sparse_tensor=False, show_progress_bar=False, **settings)
        for text in given
    ]
    return torch.cat([row.reshape(1, -1) for row in rows]).numpy()


def assert_alike(found: SparseRows, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Compare weights, and which terms are there but for those that are nearly zero."""
    dense = found.to_dense(expected.shape[1])
    np.testing.assert_allclose(dense, expected, rtol=0, atol=tolerance)
    clear = 10 * tolerance
    for position in range(len(found)):
        indices, values = found.row(position)
        assert (np.diff(indices) > 0).all()
        assert set(indices[values > clear]) == set(np.flatnonzero(expected[position] > clear))
