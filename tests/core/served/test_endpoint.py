"""EndpointConfig: mistakes are found where it is made, and no key is in it, whatever is shown."""

import dataclasses
import pickle
from typing import Any

import pytest

from beam_gpte import EndpointConfig, InputError
from beam_gpte.core.served.headers import expanded, without_keys
from beam_gpte.core.served.urls import endpoint_url, public_url

URL = "https://models.example/v1"
KEYED = {"Authorization": "Bearer ${SERVED_TEST_KEY}"}
KEY = "sk-planted-7f3a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "models.example/v1"}, "give http://HOST... or https://HOST..."),
        ({"url": "ftp://models.example"}, "give http://HOST"),
        ({"url": "https://"}, "give http://HOST"),
        ({"url": "https://models.example:99999999"}, "give http://HOST"),
        ({"url": "https://a b"}, "give http://HOST"),
        ({"url": 5}, "url is of type int"),
        ({"url": "https://me:word@models.example/v1"}, "holds a user or password"),
        ({"url": "https://models.example/v1?key=word"}, "parameter 'key', which may be a key"),
        ({"model": " "}, "give its name on the server"),
        ({"api": "soap"}, "choose openai or tei"),
        ({"dimensions": 0}, "dimensions 0: give a positive whole number"),
        ({"max_items_per_request": True}, "give a positive whole number"),
        ({"requests_per_second": 0}, "give a number above 0"),
        ({"timeout_seconds": float("nan")}, "give a number above 0"),
        ({"max_retries": -1}, "give 0 or a positive whole number"),
        ({"dollars_per_million_tokens": -1}, "give 0 or more"),
        ({"tokenizer": "some/model"}, "give one of them, or leave it out"),
        ({"headers": ["a"]}, "headers is of type list"),
        ({"headers": {"a b": "c"}}, "is not the name of a header"),
        ({"headers": {"X-Title": "a\r\nX-Other: b"}}, "X-Title is not a line of ASCII"),
        ({"headers": {"X-Title": "${no name}"}}, "without a name"),
        ({"headers": {"Authorization": f"Bearer {KEY}"}}, "write '${NAME}' or 'Bearer ${NAME}'"),
        ({"headers": {"x-api-key": KEY}}, "put it into an environment variable"),
        ({"headers": {"Cookie": KEY + "${SERVED_TEST_KEY}"}}, "put it into an environment"),
        ({"parameters": {"input": ["a"]}}, "parameters has 'input', which is set elsewhere"),
        ({"parameters": {"a": float("inf")}}, "parameters is not JSON"),
        ({"parameters": {"a": {1, 2}}}, "parameters is not JSON"),
        ({"parameters": [1]}, "give a mapping"),
        (
            {"url": "http://models.example/v1", "headers": KEYED},
            "http would send keys in the clear",
        ),
    ],
)
def test_a_mistake_is_found_where_it_is_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        EndpointConfig(**{"url": URL, "model": "m", **settings})
    assert message in str(raised.value)
    assert KEY not in str(raised.value)
    assert "word" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("http://localhost:8080", {}),
        ("http://127.0.0.1/v1", {}),
        ("http://[::1]:80", {}),
        (URL, {}),
        ("HTTPS://models.example", {}),
        ("http://models.internal", {"plain_http": True}),
    ],
)
def test_keys_are_sent_encrypted_or_within_the_machine_or_on_demand(url: str, more: dict) -> None:
    assert EndpointConfig(url, "m", headers=KEYED, **more).sends_keys


def test_no_key_is_in_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVED_TEST_KEY", KEY)
    config = EndpointConfig(
        f"{URL}?api-version=3", "m", headers={**KEYED, "X-Title": "hidden in a repr"}
    )
    assert KEY.encode() not in pickle.dumps(config)
    assert pickle.loads(pickle.dumps(config)) == config
    assert repr(config) == (
        "EndpointConfig(url='https://models.example/v1?api-version=...', model='m', headers="
        "{'Authorization': 'Bearer ${SERVED_TEST_KEY}', 'X-Title': '***'})"
    )
    assert expanded(config.headers)["Authorization"] == f"Bearer {KEY}"
    assert without_keys(f"no such key: {KEY}!", config.headers) == "no such key: ***!"


@pytest.mark.parametrize("value", [None, "", " \n", "two\nlines", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("SERVED_TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SERVED_TEST_KEY", value)
    with pytest.raises(InputError, match="SERVED_TEST_KEY") as raised:
        expanded(KEYED)
    assert "lines" not in str(raised.value)
    assert "schl" not in str(raised.value)


def test_blanks_around_a_key_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVED_TEST_KEY", f"{KEY}\n")  # as read from a file
    assert expanded(KEYED) == {"Authorization": f"Bearer {KEY}"}


def test_the_fingerprint_is_that_of_what_changes_vectors() -> None:
    config = EndpointConfig(URL, "m", headers=KEYED)
    changed = {
        "url": "https://other.example/v1",
        "model": "n",
        "api": "tei",
        "dimensions": 256,
        "prompt": "query: ",
        "parameters": {"truncate": True},
        "normalize": False,
    }
    prints = {dataclasses.replace(config, **{k: v}).fingerprint for k, v in changed.items()}
    assert len(prints | {config.fingerprint}) == len(changed) + 1
    same = {
        "headers": {},
        "max_items_per_request": 5,
        "requests_per_second": 3.0,
        "timeout_seconds": 1,
        "max_retries": 0,
        "url": f"{URL}/?api-version=3",
    }
    for name, value in same.items():
        assert dataclasses.replace(config, **{name: value}).fingerprint == config.fingerprint, name


def test_a_configuration_is_a_key_of_what_processes_share() -> None:
    config = EndpointConfig(URL, "m", headers=KEYED, parameters={"a": [1]})
    given = {"a": 1}
    assert len({config, dataclasses.replace(config), EndpointConfig(URL, "m")}) == 2
    other = EndpointConfig(URL, "m", parameters=given)
    given["a"] = 2
    assert other.parameters == {"a": 1}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", "http://h/v1/embeddings"),
        ("http://h/", "http://h/v1/embeddings"),
        ("http://h/v1/", "http://h/v1/embeddings"),
        ("http://h/v1beta/openai", "http://h/v1beta/openai/embeddings"),
        ("http://h/v1/embeddings", "http://h/v1/embeddings"),
        ("http://h/x/embeddings?api-version=1#y", "http://h/x/embeddings?api-version=1"),
    ],
)
def test_the_url_of_a_server_is_completed(url: str, expected: str) -> None:
    assert endpoint_url(url, "/v1/embeddings", "/embeddings") == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://me:word@h/a", "http://h/a"),
        ("http://h/a?x=word&y=word#z", "http://h/a?x=...&y=..."),
        ("me:word@h?x=word", "h?x=..."),
        ("http://h/a?word", "http://h/a"),
        ("http://h/\x1b[31m", "http://h/\\x1b[31m"),
        ("http://me:wo@rd@h/a", "http://h/a"),
        ("http://me:wo/rd@h/a", "http://h/a"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, expected: str) -> None:
    assert public_url(url) == expected
