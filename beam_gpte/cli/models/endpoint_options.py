"""Share the options of a model, in files or on a server, among the programs that have one."""

import argparse
from typing import Any

from beam_gpte import EncoderConfig, EndpointConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.served.endpoint import APIS

# Options of an endpoint, and the settings that they are.
_OF_ENDPOINTS = {
    "api": "api",
    "header": "headers",
    "items_per_request": "max_items_per_request",
    "requests_per_second": "requests_per_second",
}
ModelConfig = EncoderConfig | EndpointConfig
Options = argparse._ActionsContainer  # a parser, or a group of its options


def add_endpoint_options(options: Options) -> None:
    """Add `--endpoint`, `--api`, `--header`, `--items_per_request` and `--requests_per_second`."""
    options.add_argument(
        "--endpoint",
        metavar="URL",
        help="server that runs the model, e.g. https://api.openai.com/v1 or http://localhost:8080",
    )
    options.add_argument(
        "--api",
        choices=APIS,
        help="of --endpoint: openai (default), or tei, Hugging Face's text-embeddings-inference",
    )
    options.add_argument(
        "--header",
        action="append",
        metavar="'NAME: VALUE'",
        help="of requests to --endpoint; workers replace ${VARIABLE} by their environment's, as in "
        "'Authorization: Bearer ${OPENAI_API_KEY}'",
    )
    options.add_argument(
        "--items_per_request", type=int, metavar="N", help="texts of a request to --endpoint (32)"
    )
    options.add_argument(
        "--requests_per_second", type=float, metavar="N", help="of one worker to --endpoint"
    )


def model_of(options: argparse.Namespace, **settings: Any) -> ModelConfig:
    """Configure the model of `--model`, in files or on the server of `--endpoint`.

    Args:
      options: of a program.
      settings: of an `EncoderConfig`; a server takes `prompt` and `truncate_dim` alone.

    Raises:
      InputError: an option is for the other kind, or has a wrong value.
    """
    given = {name: getattr(options, name) for name in _OF_ENDPOINTS}
    given = {name: value for name, value in given.items() if value is not None}
    if options.endpoint is None:
        for name in given:
            raise InputError(f"--{name} is for --endpoint; leave it out, or give that")
        return EncoderConfig(options.model, **settings)
    if getattr(options, "dry_run", False):
        raise InputError("a dry run measures a model in files; leave it out, or --endpoint")
    plain = EncoderConfig(options.model)
    for name, value in settings.items():
        if name not in ("prompt", "truncate_dim") and value != getattr(plain, name):
            raise InputError(f"--{name} is for a model in files; leave it out with --endpoint")
    more = {
        new: given[name]
        for name, new in _OF_ENDPOINTS.items()
        if name in given and name != "header"
    }
    return EndpointConfig(
        options.endpoint,
        options.model,
        dimensions=settings.get("truncate_dim"),
        headers=dict(map(_header, options.header or ())),
        prompt=settings.get("prompt") or "",
        **more,
    )


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise InputError("--header without a colon; write 'NAME: VALUE'")
    return name.strip(), value.strip()


def in_files(model: ModelConfig | None) -> EncoderConfig | None:
    """Return the configuration of a model in files; None for one on a server."""
    return model if isinstance(model, EncoderConfig) else None
