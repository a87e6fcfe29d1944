"""Configure how a model's output becomes the score of a pair. Loads no torch."""

import dataclasses

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError

QUERY, DOCUMENT = "{query}", "{document}"

# What the model cards of Qwen3-Reranker put around a pair (arXiv 2506.05176). Another task goes in
# place of the sentence after <Instruct>.
_QWEN3_RERANKER = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
    "answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)

TEMPLATES = {"qwen3-reranker": _QWEN3_RERANKER}

# The settings of a configuration that a model of pairs supports.
SUPPORTED = (
    "model",
    "revision",
    "prompt_name",
    "prompt",
    "max_tokens",
    "precision",
    "token_budget",
    "device",
    "trust_remote_code",
    "adapter",
)


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """Choose what of a model's output is the score of a pair.

    Attributes:
      template: for a causal language model, the text around a pair, with one ``{query}`` and one
        ``{document}``, or the name of one of `TEMPLATES`, ``qwen3-reranker``. Default: the model's
        chat template, if it takes the roles ``query`` and ``document``.
      true_token, false_token: for a causal language model, the answers, one token each. The score
        is the probability of the first of the two, given that it is one of them. Default: those in
        the model's files.
      label: for a classifier with several labels, that whose probability is the score.
    """

    template: str | None = None
    true_token: str | None = None
    false_token: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and (not isinstance(value, str) or not value):
                raise InputError(f"{field.name} {value!r}: give a text, or leave it out")
        template = self.text
        if template is not None and not template.count(QUERY) == template.count(DOCUMENT) == 1:
            raise InputError(
                f"template {template!r}: it needs {QUERY} and {DOCUMENT}, once each, where the "
                f"texts go, or give the name of one: {', '.join(TEMPLATES)}"
            )
        if template is not None and template.index(QUERY) > template.index(DOCUMENT):
            raise InputError(f"template {template!r}: put {QUERY} before {DOCUMENT}")
        if (self.true_token is None) != (self.false_token is None):
            raise InputError("true_token and false_token: give both, or none")

    @property
    def text(self) -> str | None:
        """Return the template as text."""
        return TEMPLATES.get(self.template or "", self.template)


def check_scorer_config(config: EncoderConfig) -> None:
    """Refuse settings of how token vectors become a text's vector: a model of pairs makes none.

    Raises:
      InputError: such a setting is not the default.
    """
    plain = EncoderConfig(config.model)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in SUPPORTED and value != getattr(plain, field.name):
            raise InputError(
                f"{field.name} {value!r}: a cross-encoder supports only {', '.join(SUPPORTED)}; "
                "leave it out"
            )
