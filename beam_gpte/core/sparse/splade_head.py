"""Turn token vectors into weights of terms, without the logits of a whole batch.

    token vectors --> the model's transform --> one tile of the vocabulary --> pooled per text
                                            --> the next tile ...          --> positive weights

A masked language model gives a logit for every token and every term: for a batch of 4,096 tokens
and BERT's 30,522 terms that is 500 MB, for XLM-R's 250,002 it is 4 GB. A weight needs the logits of
one term only, so `TILE` terms are computed at a time, for all tokens of the batch, pooled, and of
the result only what is positive is kept. Peak memory beyond the backbone's, in bytes:

    4 * TILE * tokens of the batch + 4 * TILE * its texts + 32 * its positive weights

which is 16 MiB for 4,096 tokens, whatever the vocabulary. On a CPU the packed weights of the
vocabulary are a second copy of the embeddings: 4 bytes * terms * dimensions.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.batch_runner import BatchRunner
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.linear_layers import pack_linears
from beam_gpte.core.errors import InputError
from beam_gpte.core.sparse.sparse_rows import TERM

if TYPE_CHECKING:
    import torch

# Terms of the vocabulary that are computed at once. Their weights are read once per batch.
TILE = 1024

# Largest difference of a logit, relative above 1: tiles over token vectors against the plain model.
TOLERANCE = 1e-5

POOLINGS = ("max", "sum")
ACTIVATIONS = ("relu", "log1p_relu")  # each followed by the logarithm of 1 more
POSITIVE = "positive"  # relu alone, of an autoencoder


class SpladeHead:
    """Compute the terms of texts from their token vectors; safe to share between threads.

    A weight is log(1 + relu(logit)), or log(1 + log(1 + relu(logit))) for ``log1p_relu`` (arXiv
    2504.14839), of which the maximum over the tokens of the text is taken (SPLADE v2, arXiv
    2109.10086), or the sum (SPLADE, arXiv 2107.05720).
    """

    def __init__(
        self,
        transform: "torch.nn.Module",
        decoder: "torch.nn.Linear",
        pooling: str,
        activation: str,
    ) -> None:
        import torch

        self.pooling, self.activation = pooling, activation
        self.terms = decoder.out_features
        self.transform = transform
        self.tiles = torch.nn.ModuleList(
            _tile(decoder, first, min(first + TILE, self.terms))
            for first in range(0, self.terms, TILE)
        )

    def to(self, device: "torch.device") -> None:
        """Move the weights to a device."""
        self.transform.to(device)
        self.tiles.to(device)

    def pack(self, bf16: bool) -> None:
        """Replace the linear layers by those of a CPU; see `linear_layers`."""
        pack_linears(self.transform, bf16)
        pack_linears(self.tiles, bf16)

    def logits(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """Return all logits of some tokens, float32 (tokens, terms): for a check, of a few."""
        import torch

        states = self.transform(hidden)
        return torch.cat([tile(states).float() for tile in self.tiles], dim=1)

    def terms_of(self, hidden: "torch.Tensor", lengths: list[int]) -> list[np.ndarray]:
        """Return the terms of each text.

        Args:
          hidden: float (total tokens, dim), the token vectors of n texts end to end.
          lengths: the tokens of each text.

        Returns:
          Arrays of `TERM`, indices ascending, weights positive; for a text with a logit that is not
          finite one weight of NaN.
        """
        import torch

        states = self.transform(hidden)
        runs = _runs(lengths)
        broken = torch.zeros(len(lengths), dtype=torch.bool, device=hidden.device)
        texts, terms, weights = [], [], []
        for number, tile in enumerate(self.tiles):
            pooled = self._pool(tile(states).float(), runs)
            broken |= ~torch.isfinite(pooled).all(dim=1)
            text, term = (pooled > 0).nonzero(as_tuple=True)
            weights.append(pooled[text, term].cpu().numpy())
            texts.append(text.int().cpu().numpy())
            terms.append((term + number * TILE).int().cpu().numpy())
        found = _by_text(texts, terms, weights, len(lengths))
        for position in broken.nonzero().flatten().tolist():
            found[position] = np.array([(0, np.nan)], TERM)
        return found

    def _pool(self, logits: "torch.Tensor", runs: list[tuple[int, int, int]]) -> "torch.Tensor":
        """Pool the logits of one tile, which are overwritten: (tokens, tile) to (texts, tile)."""
        import torch

        width = logits.shape[1]
        if self.pooling == "sum":
            self._activate(logits)
        parts = []
        for first, texts, length in runs:
            part = logits[first : first + texts * length].view(texts, length, width)
            parts.append(part.amax(1) if self.pooling == "max" else part.sum(1))
        pooled = torch.cat(parts)
        # the activation never falls, so that of the maximum is the maximum of all: at 1 token in
        # `length` of the work
        return pooled if self.pooling == "sum" else self._activate(pooled)

    def _activate(self, logits: "torch.Tensor") -> "torch.Tensor":
        logits.relu_()
        if self.activation == POSITIVE:
            return logits
        logits.log1p_()
        return logits.log1p_() if self.activation == "log1p_relu" else logits


class SparseRunner(BatchRunner):
    """Run texts in batches of the token budget, halved where memory runs out; their terms each.

    Of a model with dense vectors, `pooling` and `dense` make one of each text, and the head's terms
    are those of that vector.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: SpladeHead,
        config: EncoderConfig,
        pooling: tuple[str, ...] = (),
        dense: "torch.nn.Module | None" = None,
    ) -> None:
        import torch

        super().__init__(backbone, dense or torch.nn.Identity(), pooling, config)
        self._sparse = head
        self.terms = head.terms

    def start(self, pieces: list[Piece]) -> tuple[Any, int]:
        """Run one forward pass.

        Returns:
          The terms of each piece, arrays of `TERM`, and the number of tokens computed.
        """
        import torch

        ids = [piece.ids for piece in pieces]
        with torch.inference_mode(), self.backbone.in_precision():
            hidden, offsets, computed = self.backbone.run(ids)
            lengths = [len(one) for one in ids]
            if self._pooling:
                hidden = self._finish(hidden, offsets, self._spans(pieces))
                lengths = [1] * len(ids)
            return self._sparse.terms_of(hidden, lengths), computed

    def fetch(self, pieces: list[Piece], output: Any) -> list[np.ndarray]:
        """Return the terms of each piece, which are on the host already."""
        return list(output)


def split_head(model: Any, name: str) -> tuple[Any, "torch.nn.Module", "torch.nn.Linear"]:
    """Take a masked language model apart, which loses its body and its decoder.

    Args:
      model: from transformers.
      name: of the model, for the message.

    Returns:
      Its body; what maps token vectors (tokens, dim) to the input of the decoder; and the decoder,
      whose outputs are the logits.

    Raises:
      InputError: it has no such parts.
    """
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

    class PassThroughBody(torch.nn.Module):
        """Return the input as if it were this body's output."""

        def forward(self, *_: Any, inputs_embeds: Any = None, **__: Any) -> Any:
            return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=inputs_embeds)

    class Transform(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, hidden: "torch.Tensor") -> "torch.Tensor":
            return self.model(inputs_embeds=hidden.unsqueeze(0)).logits[0]

    prefix, decoder = model.base_model_prefix, model.get_output_embeddings()
    if type(decoder) is not torch.nn.Linear or not prefix or not hasattr(model, prefix):
        raise InputError(
            f"model {name!r}: {type(model).__name__} has no body and one layer over the "
            "vocabulary; use a masked language model of an encoder"
        )
    place = next(name for name, module in model.named_modules() if module is decoder)
    parent, _, leaf = place.rpartition(".")
    setattr(model.get_submodule(parent), leaf, torch.nn.Identity())
    body = getattr(model, prefix)
    setattr(model, prefix, PassThroughBody())
    return body, Transform().eval(), decoder


def check_splade_head(
    head: SpladeHead, hidden: list["torch.Tensor"], plain: list["torch.Tensor"], name: str
) -> None:
    """Refuse a head that gives other logits over token vectors than in the plain model.

    Args:
      head: in fp32, not packed.
      hidden: the token vectors of some texts.
      plain: the logits that the plain model gives of each.
      name: of the model's class.

    Raises:
      InputError: it does.
    """
    import torch

    try:
        with torch.inference_mode():
            found, expected = head.logits(torch.cat(hidden)), torch.cat(plain)
            difference = float(((found - expected).abs() / expected.abs().clamp(min=1)).max())
    except Exception as error:  # of any kind: such a head is not run
        raise InputError(
            f"{name}: its head does not run on token vectors ({error!r}); use another model"
        ) from error
    if not difference < TOLERANCE:
        raise InputError(
            f"{name}: its head gives other logits over token vectors, by {difference:.1e}; "
            "use another model"
        )


def _tile(decoder: "torch.nn.Linear", first: int, end: int) -> "torch.nn.Linear":
    """Make a layer of some terms, a view of the decoder's weights."""
    import torch

    has_bias = decoder.bias is not None
    tile = torch.nn.Linear(decoder.in_features, end - first, bias=has_bias, device="meta")
    tile.weight = torch.nn.Parameter(decoder.weight.detach()[first:end], requires_grad=False)
    if has_bias:
        tile.bias = torch.nn.Parameter(decoder.bias.detach()[first:end], requires_grad=False)
    return tile


def _runs(lengths: list[int]) -> list[tuple[int, int, int]]:
    """List neighbors of one length: their first token, how many they are, and the length."""
    runs: list[tuple[int, int, int]] = []
    first = 0
    for length in lengths:
        if runs and runs[-1][2] == length:
            start, texts, _ = runs[-1]
            runs[-1] = (start, texts + 1, length)
        else:
            runs.append((first, 1, length))
        first += length
    return runs


def _by_text(
    texts: list[np.ndarray], terms: list[np.ndarray], weights: list[np.ndarray], n: int
) -> list[np.ndarray]:
    """Gather the terms of each of n texts out of the tiles, whose terms ascend."""
    text = np.concatenate(texts)
    order = np.argsort(text, kind="stable")
    joined = np.empty(len(text), TERM)
    joined["index"] = np.concatenate(terms)[order]
    joined["weight"] = np.concatenate(weights)[order]
    ends = np.cumsum(np.bincount(text, minlength=n))
    return np.split(joined, ends[:-1])
