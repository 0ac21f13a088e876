"""LlmConfig's constructors, model names, and opening them."""

from __future__ import annotations

import doctest
import importlib
import pickle
import subprocess
import sys
from typing import Any

import pytest

from noukai_sdk.errors import NoukaiError
from noukai_sdk.local.llm import errors as llm_errors
from noukai_sdk.local.llm.config import OLLAMA_URL, LlmConfig
from noukai_sdk.local.llm.errors import (
    LlmCircuitOpenError,
    LlmConfigError,
    LlmError,
    LlmRateLimitError,
    MissingExtraError,
)
from noukai_sdk.local.llm.providers import open_config, open_model

SECRET = "sk-secret"
SETTINGS = {"timeout": 1.5, "max_retries": 7}


@pytest.mark.parametrize(
    ("config", "name", "base_url"),
    [
        (LlmConfig.openai(SECRET, **SETTINGS), "openai:gpt-4o-mini", None),
        (
            LlmConfig.openai(SECRET, "m", base_url="http://h/v1", **SETTINGS),
            "openai:m",
            "http://h/v1",
        ),
        (
            LlmConfig.anthropic(SECRET, "m", base_url="http://h", **SETTINGS),
            "anthropic:m",
            "http://h",
        ),
        (LlmConfig.azure(SECRET, "d", "https://r.example.org", **SETTINGS), "azure:d", None),
        (LlmConfig.ollama("m", base_url="http://h/v1", **SETTINGS), "ollama:m", "http://h/v1"),
        (
            LlmConfig.openai_compatible("http://h/v1", "m", api_key=SECRET, **SETTINGS),
            "openai_compatible:m",
            "http://h/v1",
        ),
    ],
)
def test_every_setting_can_be_set(config: LlmConfig, name: str, base_url: str | None) -> None:
    assert config.name == name
    assert (config.timeout, config.max_retries) == (1.5, 7)
    assert config.base_url == (base_url or config.base_url)
    assert SECRET not in repr(config)
    assert SECRET not in str(config)
    assert pickle.loads(pickle.dumps(config)) == config


def test_the_models_that_run_here() -> None:
    assert LlmConfig.offline().name == "offline"
    assert LlmConfig.smollm2(timeout=3).name == "smollm2"
    assert LlmConfig.smollm2(timeout=3).timeout == 3


def test_another_model_of_the_same_provider() -> None:
    config = LlmConfig.openai(SECRET, timeout=3).with_model("gpt-5")
    assert (config.name, config.api_key, config.timeout) == ("openai:gpt-5", SECRET, 3)


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        ("offline", LlmConfig.offline()),
        ("smollm2", LlmConfig.smollm2()),
        ("openai:gpt-5", LlmConfig.openai(model="gpt-5")),
        ("anthropic:claude-haiku-4-5", LlmConfig.anthropic(model="claude-haiku-4-5")),
        ("ollama:llama3.2:1b", LlmConfig.ollama("llama3.2:1b", base_url=OLLAMA_URL)),
    ],
)
def test_a_spec_names_a_model(spec: str, config: LlmConfig) -> None:
    assert LlmConfig.from_spec(spec) == config
    assert config.name == spec


@pytest.mark.parametrize(
    "spec", ["", "gpt-5", "offline:", "offline:x", "openai", "openai:", "smollm2:x", ":x", 5, None]
)
def test_an_unknown_spec_says_what_to_write(spec: Any) -> None:
    with pytest.raises(LlmConfigError, match="write 'offline', 'smollm2', 'openai:NAME'"):
        open_model(spec)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": float("nan")}, "timeout must be more than 0"),
        ({"max_retries": -1}, "max_retries must be 0 or more"),
        ({"max_retries": 1.5}, "max_retries must be 0 or more"),
        ({"model": ""}, "name the model"),
        ({"model": None}, "name the model"),
        ({"base_url": "localhost:1234"}, "base_url must be http"),
        ({"base_url": "ftp://h"}, "base_url must be http"),
        ({"base_url": "http://"}, "base_url must be http"),
        ({"base_url": "http://a..b/v1"}, "base_url must be http"),
        ({"base_url": "http://h:99999/v1"}, "base_url must be http.*Port out of range"),
        ({"base_url": "http://h:port/v1"}, "base_url must be http.*port"),
        ({"base_url": "http://h:0/v1"}, "base_url must be http"),
        ({"base_url": "http://[::1/v1"}, "base_url must be http.*IPv6"),
        ({"base_url": " http://h/v1"}, "base_url must be http"),
        ({"base_url": "http://h/v1 "}, "base_url must be http"),
        ({"base_url": "http://a b/v1"}, "base_url must be http"),
        ({"base_url": "http://h/v1\n"}, "base_url must be http"),
        ({"base_url": b"http://h/v1"}, "base_url must be http"),
        ({"base_url": 1}, "base_url must be http"),
        ({"base_url": "http://h/v1?key=secret"}, r"base_url must end with its path, .*'#'$"),
        ({"base_url": "http://h/v1#x"}, "base_url must end with its path"),
        ({"timeout": None}, "timeout must be more than 0 seconds, not None"),
        ({"timeout": "3"}, "timeout must be more than 0 seconds, not '3'"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(LlmConfigError, match=told):
        LlmConfig.openai(SECRET, **wrong)


def test_an_unknown_provider_is_named() -> None:
    with pytest.raises(LlmConfigError, match="unknown provider 'magic'"):
        LlmConfig("magic", "m")  # type: ignore[arg-type]  # on purpose


def test_a_url_with_a_password_is_refused_and_not_printed() -> None:
    with pytest.raises(LlmConfigError, match="must not carry a user or password") as caught:
        LlmConfig.openai(base_url=f"http://user:{SECRET}@h/v1")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "variable"),
    [
        (LlmConfig.openai(None), "OPENAI_API_KEY"),
        (LlmConfig.openai(""), "OPENAI_API_KEY"),
        (LlmConfig.azure(None, "d", "https://r.example.org"), "AZURE_OPENAI_API_KEY"),
        (LlmConfig.anthropic(None), "ANTHROPIC_API_KEY"),
    ],
)
def test_the_key_comes_from_the_environment_or_is_asked_for(
    config: LlmConfig, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(LlmConfigError, match=f"pass api_key= or set {variable}"):
        open_config(config)
    monkeypatch.setenv(variable, SECRET)
    assert open_config(config).name == config.name


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"{SECRET} ", f"{SECRET}é"])
@pytest.mark.parametrize(
    "make",
    [
        LlmConfig.openai,
        LlmConfig.anthropic,
        lambda k: LlmConfig.openai_compatible("http://h", "m", api_key=k),
    ],
)
def test_a_key_that_cannot_be_one_is_refused_and_not_printed(make: Any, key: str) -> None:
    with pytest.raises(LlmConfigError, match="a line break") as caught:
        open_config(make(key))
    assert SECRET not in str(caught.value)


def test_a_compatible_server_never_gets_the_key_for_openai(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    model: Any = open_config(LlmConfig.openai_compatible("http://h/v1", "m"))
    assert SECRET not in str(model._client.auth_headers)


@pytest.mark.parametrize(
    ("library", "spec"),
    [("openai", "openai:m"), ("openai", "ollama:m"), ("anthropic", "anthropic:m")],
)
def test_a_missing_library_has_its_pip_line(
    library: str, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'noukai-sdk\[{library}\]'"):
        open_model(spec)


def test_nothing_of_a_provider_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, noukai_sdk.local.llm.client, noukai_sdk.local.llm.embeddings\n"
        "from noukai_sdk.local.llm.providers import open_model\n"
        "open_model('offline')\n"
        "print(sorted({'openai', 'anthropic', 'xllamacpp', 'httpx', 'httpx2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_errors_are_one_tree_drawn_in_full() -> None:
    assert llm_errors.__doc__ is not None
    for name in llm_errors.__all__:
        kind = getattr(llm_errors, name)
        assert issubclass(kind, LlmError)
        assert issubclass(kind, NoukaiError)
        assert name in llm_errors.__doc__
    assert len(llm_errors.__all__) == llm_errors.__doc__.count("── Llm") + 1


@pytest.mark.parametrize(
    "error",
    [
        LlmRateLimitError("too many", retry_after=2.5, status_code=429),
        LlmCircuitOpenError("not now", retry_after=1.5),
    ],
)
def test_errors_survive_pickling(error: Any) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.retry_after) == (str(error), error.retry_after)
    assert again.status_code == error.status_code


@pytest.mark.parametrize(
    "module",
    [
        "embeddings",
        "circuit",
        "client",
        "config",
        "pool",
        "prices",
        "providers",
        "providers.cities",
    ],
)
def test_the_examples_in_the_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"noukai_sdk.local.llm.{module}"))
    assert found.failed == 0
    assert found.attempted


@pytest.mark.parametrize(
    "url", ["http://[::1]:1/v1/", "https://h./a%20b/v1", "http://h/a b/ü", "HTTP://mü.example"]
)
def test_a_base_url_may_have_many_forms(url: str) -> None:
    assert LlmConfig.openai(SECRET, base_url=url).base_url == url
