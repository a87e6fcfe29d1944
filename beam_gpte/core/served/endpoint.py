"""Configure a model that a server runs: frozen settings that name keys and never hold them.

    EndpointConfig("https://api.openai.com/v1", "text-embedding-3-small",
                   headers={"Authorization": "Bearer ${OPENAI_API_KEY}"})

A worker reads the variable when it sends a request; pickles, reprs and metadata have its name.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from beam_gpte.core.encoder.config import ModelRuntime
from beam_gpte.core.errors import InputError
from beam_gpte.core.served.headers import check_headers, masked
from beam_gpte.core.served.urls import check_url, is_in_clear, place, public_url

OPENAI, TEI = "openai", "tei"
APIS = (OPENAI, TEI)

# Part of every fingerprint: raise it when a code change changes vectors by more than rounding.
ENGINE = 1

# Fields of a request that have a setting of their own.
_OWN_FIELDS = {
    OPENAI: ("input", "model", "dimensions", "encoding_format"),
    TEI: ("inputs", "dimensions", "normalize", "query", "texts", "return_text"),
}

_POSITIVE_INTEGERS = (
    "dimensions",
    "max_items_per_request",
    "max_tokens_per_request",
    "max_concurrent_requests",
    "tokens_per_minute",
)
_POSITIVE_NUMBERS = ("requests_per_second", "timeout_seconds")


@dataclasses.dataclass(frozen=True, repr=False)
class EndpointConfig:
    """Name a model that a server runs, and say how to ask it.

    Takes the place of an `EncoderConfig` wherever a model embeds texts, and in `Rerank`, where
    `api` is ``tei``.

    Attributes:
      url: of the server, such as ``https://api.openai.com/v1`` or ``http://localhost:8080``, or of
        its endpoint, such as ``.../v1/embeddings``, ``.../embed`` or ``.../rerank``. Keys belong
        into `headers`.
      model: its name there. A server of ``tei`` has one model, and does not see the name.
      api: ``openai``, for all that answer as ``/v1/embeddings`` does (OpenAI, vLLM, llama.cpp,
        Ollama, Gemini, ...), or ``tei``, Hugging Face's text-embeddings-inference.
      dimensions: of the vectors, which the server shortens; None for all.
      headers: of every request. ``${NAME}`` is replaced on the worker, when a request is sent, by
        the environment variable: ``{"Authorization": "Bearer ${OPENAI_API_KEY}"}``.
      prompt: a text put before every input, as ``query:`` and a blank.
      parameters: further fields of the body of a request, such as ``{"truncate": True}``.
      normalize: scale every vector to length 1.
      max_items_per_request: texts of one request. A server that refuses as many gets fewer.
      max_tokens_per_request: of all its texts, by `tokenizer`.
      tokenizer: a model, by hub name or folder, whose tokenizer counts tokens; without it a token
        is taken for two bytes, which is seldom too few.
      max_concurrent_requests: of one worker process, whatever its threads.
      requests_per_second: of one worker process, retries included; None for no limit.
      tokens_per_minute: of one worker process, corrected by what the server says it has used.
      timeout_seconds: of one request, answer included.
      max_retries: of one request, after a lost connection, a timeout, 429, 5xx or a damaged answer:
        with waiting times that double, up to a minute, or those that the server asks for.
      dollars_per_million_tokens: what the server costs, for the counter ``cost_microdollars``.
      plain_http: send keys over http to another machine.
    """

    url: str
    model: str
    api: str = OPENAI
    dimensions: int | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    prompt: str = ""
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    normalize: bool = True
    max_items_per_request: int = 32
    max_tokens_per_request: int | None = None
    tokenizer: str | None = None
    max_concurrent_requests: int = 8
    requests_per_second: float | None = None
    tokens_per_minute: int | None = None
    timeout_seconds: float = 60.0
    max_retries: int = 8
    dollars_per_million_tokens: float | None = None
    plain_http: bool = False

    def __post_init__(self) -> None:
        check_url(self.url)
        if not isinstance(self.model, str) or not self.model.strip():
            raise InputError(f"model {self.model!r}: give its name on the server")
        if self.api not in APIS:
            raise InputError(f"api {self.api!r}: choose {' or '.join(APIS)}")
        check_headers(self.headers)
        object.__setattr__(self, "headers", dict(self.headers))
        if self.sends_keys and is_in_clear(self.url) and not self.plain_http:
            raise InputError(
                f"url {public_url(self.url)}: http would send keys in the clear; use https, or set "
                "plain_http where nobody listens in between"
            )
        self._check_numbers()
        self._check_parameters()

    def __repr__(self) -> str:
        shown = {"url": public_url(self.url), "headers": masked(self.headers)}
        fields = (field for field in dataclasses.fields(self) if not _is_default(self, field))
        values = (
            (field.name, shown.get(field.name, getattr(self, field.name))) for field in fields
        )
        return f"EndpointConfig({', '.join(f'{name}={value!r}' for name, value in values)})"

    @property
    def sends_keys(self) -> bool:
        """Return whether a header comes from the environment."""
        return any("${" in value for value in self.headers.values())

    @property
    def fingerprint(self) -> str:
        """Hash server, model and what else can change a vector: 16 hex digits.

        What the server has behind the name, canaries show.
        """
        settings = {
            "engine": ENGINE,
            "place": place(self.url),
            "model": self.model,
            "api": self.api,
            "dimensions": self.dimensions,
            "prompt": self.prompt,
            "parameters": self.parameters,
            "normalize": self.normalize,
        }
        content = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _check_numbers(self) -> None:
        for name in _POSITIVE_INTEGERS:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"{name} {value!r}: give a positive whole number")
        for name in _POSITIVE_NUMBERS:
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise InputError(f"{name} {value!r}: give a number above 0")
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise InputError(f"max_retries {self.max_retries!r}: give 0 or a positive whole number")
        price = self.dollars_per_million_tokens
        if price is not None and not (_is_number(price) and 0 <= price < math.inf):
            raise InputError(f"dollars_per_million_tokens {price!r}: give 0 or more")
        if self.tokenizer is not None and not (
            self.max_tokens_per_request or self.tokens_per_minute
        ):
            raise InputError(
                f"tokenizer {self.tokenizer!r} counts tokens for max_tokens_per_request and "
                "tokens_per_minute; give one of them, or leave it out"
            )

    def _check_parameters(self) -> None:
        if not isinstance(self.parameters, Mapping):
            raise InputError(f"parameters is {self.parameters!r}; give a mapping")
        object.__setattr__(self, "parameters", dict(self.parameters))
        for name in self.parameters:
            if name in _OWN_FIELDS[self.api]:
                raise InputError(f"parameters has {name!r}, which is set elsewhere; leave it out")
        try:
            json.dumps(self.parameters, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"parameters is not JSON: {error}; use numbers and strings") from error


def check_runtime(model: object, runtime: ModelRuntime) -> None:
    """Refuse settings of a model that a worker holds, for one that it asks for.

    Raises:
      InputError: a model is watched, or shared among processes, and is behind an endpoint.
    """
    if isinstance(model, EndpointConfig) and (runtime.large_model or runtime.watch_model_pattern):
        name = "large_model" if runtime.large_model else "watch_model_pattern"
        raise InputError(f"runtime with {name}: it is for models in files; leave it out")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_default(config: EndpointConfig, field: dataclasses.Field) -> bool:
    default = {} if field.default_factory is not dataclasses.MISSING else field.default
    return bool(getattr(config, field.name) == default)
