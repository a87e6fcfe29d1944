"""Score pairs by a causal language model that answers yes or no: `CausalReranker.score(pairs)`.

    pair --> filled template, cut to fit --> backbone --> the last token's vector --> two logits

The score is the probability of the answer yes, given that it is yes or no (Qwen3-Reranker, arXiv
2506.05176). Of the head, which has a row per token of the vocabulary, two rows are run. Inputs and
scores are those of sentence-transformers' `CrossEncoder` with a `LogitScore` module.
"""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.adapters.find import open_model_folder
from beam_gpte.core.encoder.backbone import Backbone, choose_precision, import_torch
from beam_gpte.core.encoder.chat_template import ChatFrame, message_format, read_chat_template
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.int8 import calibration
from beam_gpte.core.encoder.model_folder import ModelFolder, Module
from beam_gpte.core.encoder.pretrained import load_pretrained, load_tokenizer
from beam_gpte.core.encoder.tokenizer import PairTokens, Tokenizer
from beam_gpte.core.errors import InputError
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.model_files import damage, read_settings
from beam_gpte.core.scorers.cross_encoder import check_head
from beam_gpte.core.scorers.pair_scorer import (
    PairRunner,
    PairScorer,
    activation_of,
    pieces_of,
)
from beam_gpte.core.scorers.settings import (
    DOCUMENT,
    QUERY,
    ScoreSettings,
    check_scorer_config,
)

if TYPE_CHECKING:
    import torch

ROLES = ("query", "document")  # of the messages that sentence-transformers makes of a pair
_ANSWERS = ("yes", "no")
_SAMPLES = [
    ("one", "two"),
    ("a short question", "an answer to it"),
    ("a question", "an answer of many words " * 8),
]


class CausalReranker(PairScorer):
    """Score pairs with a loaded causal language model.

    A pair that is too long loses the end of its document first, then that of its query; the text
    of the template around them stays.
    """

    def __init__(self, config: EncoderConfig, pairs: "PairFrame", runner: PairRunner) -> None:
        super().__init__(config, runner)
        self._pairs = pairs

    def tokenize(self, pairs: list[tuple[str, str]]) -> PairTokens:
        """Make one input of each pair: the filled template."""
        return self._pairs.encode(pairs)

    @classmethod
    @one_at_a_time
    def load(
        cls,
        config: EncoderConfig | str,
        root: Path | None = None,
        adapter: Path | None = None,
        settings: ScoreSettings | None = None,
    ) -> "CausalReranker":
        """Load a model from a hub name or a folder.

        Args:
          config: the model; a string means a model with all defaults. A prompt is the text of a
            system message before the pair, for a chat template.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: that of the adapter where `config.adapter` names a remote place.
          settings: the template and the answers.

        Raises:
          InputError: the model does not exist, has neither template nor chat template for pairs,
            or a head that cannot be run.
        """
        config = EncoderConfig(config) if isinstance(config, str) else config
        check_scorer_config(config)
        settings = settings or ScoreSettings()
        if settings.label is not None:
            raise InputError(
                f"label {settings.label!r}: model {config.model!r} is a causal language model; "
                "leave it out"
            )
        torch = import_torch()
        config = choose_precision(config)
        folder = open_model_folder(config, root, adapter)
        tokenizer = Tokenizer.of(folder, config)
        pretrained = load_tokenizer(folder, config.trust_remote_code)
        model = load_pretrained(folder, config, head="causal").eval()
        frame = _frame(folder, config, settings, pretrained, model.config.model_type)
        pairs = PairFrame(tokenizer, frame, config.model)
        answers = _answers(folder, settings, pretrained, model.config.get_text_config().vocab_size)
        named = read_settings(folder.root / "config_sentence_transformers.json", {})
        activation = activation_of(model.config, named, "torch.nn.Sigmoid")

        samples = pairs.encode(_SAMPLES)
        pieces = pieces_of(samples)
        body = getattr(model, model.base_model_prefix)
        head = make_head(model, answers)
        with torch.inference_mode():
            inputs = [torch.from_numpy(piece.ids).unsqueeze(0) for piece in pieces]
            logits = [model(input_ids=ids).logits[:, -1, answers].float() for ids in inputs]
            hidden = [body(input_ids=ids).last_hidden_state[0] for ids in inputs]
        plain = torch.cat(logits)
        expected = plain[:, :1] - plain[:, 1:].sum(1, keepdim=True)
        check_head(head, pieces, hidden, expected, type(model).__name__)
        if config.precision == "int8":
            samples = pairs.encode(list(itertools.pairwise(calibration.TEXTS)))
        backbone = Backbone.from_model(body, config, tokenizer.pad_id, samples.ids)
        return cls(config, pairs, PairRunner(backbone, head, activation, config))


class PairFrame:
    """Put a template around pairs, cut to what the model takes."""

    def __init__(self, tokenizer: Tokenizer, frame: ChatFrame, model: str) -> None:
        self._tokenizer = tokenizer
        self._frame = frame
        alone = tokenizer.count(frame.fill(("", "")))
        if alone + 2 > tokenizer.max_tokens:
            raise InputError(
                f"model {model!r}: the template alone takes {alone} of {tokenizer.max_tokens} "
                "tokens of an input; shorten it, or raise max_tokens"
            )

    def encode(self, pairs: list[tuple[str, str]]) -> PairTokens:
        """Return token ids of each pair as one input, without the tokenizer's special tokens."""
        cleaned = [tuple(map(self._frame.clean, pair)) for pair in pairs]
        encoded = self._tokenizer.content_ids_with_offsets(list(map(self._frame.fill, cleaned)))
        ids, dropped = [], np.zeros(len(pairs), np.int64)
        for i, (whole, chars) in enumerate(encoded):
            keep = self._kept(whole, chars, cleaned[i])
            ids.append(whole[keep])
            dropped[i] = len(whole) - len(ids[-1])
        return PairTokens(ids, dropped, [np.zeros(len(one), np.int64) for one in ids])

    def _kept(self, ids: np.ndarray, chars: np.ndarray, pair: tuple[str, ...]) -> np.ndarray:
        """Choose the tokens to keep, bool (n,): the ends of the document, then of the query go."""
        keep = np.ones(len(ids), bool)
        excess = len(ids) - self._tokenizer.max_tokens
        if excess <= 0:
            return keep
        places, at = [], 0
        for part, text in zip(self._frame.parts, pair, strict=False):
            at += len(part)
            inside = (chars[:, 1] > at) & (chars[:, 0] < at + len(text))
            places.append(np.flatnonzero(inside & (chars[:, 1] > chars[:, 0])))
            at += len(text)
        for place in places[::-1]:
            cut = min(excess, len(place))
            keep[place[len(place) - cut :]] = False
            excess -= cut
        return keep


def make_head(model: Any, answers: list[int]) -> "torch.nn.Module":
    """Take rows of the head of a language model.

    Returns:
      A module: token vectors of n texts end to end, float (total tokens, dim), and their ids, to
      the logit of the first answer less that of the second, (n, 1).
    """
    import torch

    whole = model.get_output_embeddings()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    class Answers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(whole.weight[answers].detach().clone())
            bias = getattr(whole, "bias", None)
            self.bias = None if bias is None else torch.nn.Parameter(bias[answers].detach().clone())

        def forward(self, hidden: "torch.Tensor", ids: list[np.ndarray]) -> "torch.Tensor":
            ends = np.cumsum([len(text) for text in ids]) - 1
            last = hidden[torch.from_numpy(ends).to(hidden.device)].float()
            # a sum per row: the same bits whatever the batch
            logits = (last.unsqueeze(1) * self.weight).sum(2)
            logits = logits if self.bias is None else logits + self.bias
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            return logits[:, :1] - logits[:, 1:].sum(1, keepdim=True)

    return Answers().eval()


def _frame(
    folder: ModelFolder,
    config: EncoderConfig,
    settings: ScoreSettings,
    pretrained: Any,
    model_type: str,
) -> ChatFrame:
    """Return the text around a pair, from the template given or the model's chat template."""
    owner = f"model {config.model!r}"
    if settings.text is None:
        if not pretrained.chat_template:
            raise InputError(
                f"{owner} is a causal language model without a chat template; give the text around "
                'a pair: ScoreSettings(template="qwen3-reranker"), or your own'
            )
        layout = message_format(pretrained, model_type, folder.chat_layout)
        system = folder.prompt(config)
        return read_chat_template(pretrained, ROLES, system, layout, folder.chat_arguments, owner)
    if config.prompt is not None or config.prompt_name is not None:
        raise InputError("template and a prompt: write the prompt into the template")
    before, _, rest = settings.text.partition(QUERY)
    between, _, after = rest.partition(DOCUMENT)
    return ChatFrame((before, between, after))


def _answers(folder: ModelFolder, settings: ScoreSettings, pretrained: Any, rows: int) -> list[int]:
    """Return the tokens of the answers: those given, those of the model's files, or yes and no."""
    module = next((one for one in folder.modules if one.kind == "LogitScore"), None)
    if settings.true_token is not None and settings.false_token is not None:
        return [_token(pretrained, name) for name in (settings.true_token, settings.false_token)]
    if module is None:
        return [_token(pretrained, name) for name in _ANSWERS]
    return _answers_of(module, rows)


def _answers_of(module: Module, rows: int) -> list[int]:
    path = module.folder / "config.json"
    tokens = [module.setting(name, int) for name in ("true_token_id", "false_token_id")]
    if tokens[0] is None:
        raise damage(path, "has no true_token_id")
    takes = module.setting("module_input_name", str) or "causal_logits"
    if takes != "causal_logits":
        raise damage(path, f"has module_input_name {takes!r}, which is not supported")
    for token in tokens:
        if token is not None and not 0 <= token < rows:
            raise damage(path, f"names token {token}, but the model has {rows} tokens")
    return [token for token in tokens if token is not None]


def _token(pretrained: Any, name: str) -> int:
    known = pretrained.get_vocab().get(name)
    ids = [known] if known is not None else pretrained.encode(name, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == pretrained.unk_token_id:
        raise InputError(
            f"the answer {name!r} is not one token of the model; give true_token and false_token"
        )
    return int(ids[0])
