"""Run the language model of a sparse model: texts --> tokens --> batches --> terms of each."""

import dataclasses
from typing import Any

import numpy as np

from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.batch_runner import RunResult
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.heads import load_head
from beam_gpte.core.encoder.inputs import Piece, Preparer
from beam_gpte.core.encoder.pretrained import load_pretrained
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.errors import InputError
from beam_gpte.core.sparse.autoencoder import load_autoencoder
from beam_gpte.core.sparse.sparse_folder import SparseFolder
from beam_gpte.core.sparse.splade_head import (
    SparseRunner,
    SpladeHead,
    check_splade_head,
    split_head,
)


@dataclasses.dataclass
class Found:
    """Hold the terms of some distinct texts, before they are pruned."""

    terms: list[np.ndarray | None]
    tokens: np.ndarray
    dropped: np.ndarray
    needed: int
    computed: int
    retries: int = 0
    too_large: str = ""


class LanguageModel:
    """Run a masked language model with a head of `splade_head`."""

    def __init__(self, tokenizer: Tokenizer, preparer: Preparer, runner: SparseRunner) -> None:
        self.runner = runner
        self.max_tokens = tokenizer.max_tokens
        self.terms = runner.terms
        self._preparer = preparer

    @classmethod
    def load(cls, folder: SparseFolder, config: EncoderConfig, prompt: str) -> "LanguageModel":
        """Load the weights, and take body and head apart."""
        files = folder.folder
        tokenizer = Tokenizer.of(files, config)
        preparer = Preparer(tokenizer, config, prompt, files.pool_prompt)
        kind = "" if folder.autoencoder else "masked"
        model = load_pretrained(files, config, head=kind).eval()
        if folder.autoencoder:
            body, head = model, load_autoencoder(folder.autoencoder)
        else:
            body, head = _split(model, folder, config, tokenizer.samples("fp32"))
        samples = tokenizer.samples(config.precision)
        backbone = Backbone.from_model(body, config, tokenizer.pad_id, samples)
        head.to(backbone.device)
        if backbone.device.type == "cpu":  # the same bits whatever the batch
            head.pack(config.precision == "bf16")
        dense = load_head(files.modules[:-1]) if folder.autoencoder else None
        as_it_is = dataclasses.replace(config, normalize=False)
        runner = SparseRunner(backbone, head, as_it_is, files.pooling, dense)
        return cls(tokenizer, preparer, runner)

    def find(self, texts: list[str]) -> Found:
        """Return the terms of texts; None for one without a token, or too large."""
        prepared = self._preparer.prepare(texts)
        pieces = [one.pieces[0] if one.pieces else None for one in prepared]
        # texts that differ only in blanks or case are often the same to the model
        inputs: dict[bytes, Piece] = {piece.key: piece for piece in pieces if piece is not None}
        run: RunResult = self.runner.run(list(inputs.values()))
        terms_of = dict(zip(inputs, run.vectors, strict=True))
        return Found(
            terms=[None if piece is None else terms_of[piece.key] for piece in pieces],
            tokens=np.array([0 if piece is None else len(piece.ids) for piece in pieces], np.int64),
            dropped=np.array([one.dropped for one in prepared], np.int64),
            needed=sum(len(piece.ids) for piece in inputs.values()),
            computed=run.computed,
            retries=run.retries,
            too_large=run.too_large,
        )


def _split(
    model: Any, folder: SparseFolder, config: EncoderConfig, samples: list[np.ndarray]
) -> tuple[Any, SpladeHead]:
    """Split a masked language model into its body and a head that gives the same logits."""
    import torch

    if model.config.is_encoder_decoder:
        raise InputError(
            f"model {config.model!r}: an encoder and a decoder; use a masked language model of an "
            "encoder"
        )
    inputs = [torch.from_numpy(ids).unsqueeze(0) for ids in samples]
    with torch.inference_mode():
        plain = [model(input_ids=ids).logits[0] for ids in inputs]
    body, transform, decoder = split_head(model, config.model)
    with torch.inference_mode():
        hidden = [body(input_ids=ids).last_hidden_state[0] for ids in inputs]
    pooling = folder.pooling or ""
    head = SpladeHead(transform, decoder, pooling, folder.activation)
    check_splade_head(head, hidden, plain, type(model).__name__)
    return body, head
