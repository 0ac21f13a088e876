"""LlmConfig: constructors, specs, invalid settings, keys; and the tree of errors."""

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
from tests.local.llm.calls import config_of

SECRET = "sk-secret"
URL = "http://h/v1"
OLLAMA_ON_GPU = "http://gpu:11434/v1"
SETTINGS = {"timeout": 1.5, "max_retries": 7}


@pytest.mark.parametrize(
    ("config", "name", "base_url"),
    [
        (LlmConfig.openai(SECRET, **SETTINGS), "openai:gpt-4o-mini", None),
        (LlmConfig.openai(SECRET, "m", base_url=URL, **SETTINGS), "openai:m", URL),
        (LlmConfig.anthropic(SECRET, "m", base_url=URL, **SETTINGS), "anthropic:m", URL),
        (LlmConfig.azure(SECRET, "d", URL, **SETTINGS), "azure:d", URL),
        (LlmConfig.ollama("m", base_url=URL, **SETTINGS), "ollama:m", URL),
        (
            LlmConfig.openai_compatible(URL, "m", api_key=SECRET, **SETTINGS),
            "openai_compatible:m",
            URL,
        ),
        (LlmConfig.openai(SECRET, **SETTINGS).with_model("gpt-5"), "openai:gpt-5", None),
        (LlmConfig.groq(SECRET, "m", **SETTINGS), "groq:m", None),
        (LlmConfig.ollama("m", base_url="http://gpu:11434", **SETTINGS), "ollama:m", OLLAMA_ON_GPU),
        (
            LlmConfig.ollama("m", base_url="http://gpu:11434/", **SETTINGS),
            "ollama:m",
            OLLAMA_ON_GPU,
        ),
    ],
)
def test_constructor_keeps_settings_and_hides_the_key(
    config: LlmConfig, name: str, base_url: str | None
) -> None:
    assert (config.name, config.base_url) == (name, base_url)
    assert (config.timeout, config.max_retries) == (1.5, 7)
    assert SECRET not in repr(config) + str(config)
    assert pickle.loads(pickle.dumps(config)) == config


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
def test_spec_names_a_model(spec: str, config: LlmConfig) -> None:
    assert LlmConfig.from_spec(spec) == config
    assert config.name == spec


@pytest.mark.parametrize(
    "spec", ["", "gpt-5", "offline:", "offline:x", "openai", "openai:", "smollm2:x", ":x", 5, None]
)
def test_unknown_spec_raises_with_the_valid_forms(spec: Any) -> None:
    with pytest.raises(LlmConfigError, match="write 'offline', 'smollm2', 'openai:NAME'"):
        open_model(spec)


@pytest.mark.parametrize(
    ("setting", "values", "message"),
    [
        ("timeout", [0, float("nan"), None, "3"], "timeout must be .*more than 0 seconds, not"),
        ("max_retries", [-1, 1.5], "max_retries must be .*0 or more"),
        ("model", ["", None], "name the model"),
        ("provider", ["magic"], "unknown provider 'magic'"),
        (
            "base_url",
            [
                *("localhost:1234", "ftp://h", "http://", "http://a..b/v1", "http://h:99999/v1"),
                *("http://h:port/v1", "http://h:0/v1", "http://[::1/v1", " http://h/v1", 1),
                *("http://h/v1 ", "http://a b/v1", "http://h/v1\n", b"http://h/v1"),
            ],
            "base_url must be http",
        ),
        (
            "base_url",
            ["http://h/v1?key=sk-secret", "http://h/v1#sk-secret"],
            "base_url must end with its path",
        ),
        ("base_url", ["http://u:sk-secret@h/v1"], "must not carry a user or password"),
        (
            "headers",
            ["sk-secret", {"A b": "sk-secret"}, {"X": "sk-secret\n"}, {"X": 1}, {1: "x"}],
            "header",
        ),
        ("top_p", [0, 1.1, True, "sk"], "top_p must be .*more than 0 and at most 1"),
        ("seed", [1.5, True, "1"], "seed must be a whole number"),
        ("response_format", ["json", {}, {"type": 1}], "response_format must be a mapping"),
        ("extra_body", ["x", [1]], "extra_body must be a mapping"),
    ],
)
def test_invalid_setting_raises_and_names_it(setting: str, values: list[Any], message: str) -> None:
    for value in values:
        with pytest.raises(LlmConfigError, match=message) as caught:
            LlmConfig(**{"provider": "openai", "model": "m", setting: value})
        assert SECRET not in str(caught.value)
        # Users of other libraries expect one of these.
        assert isinstance(caught.value, TypeError) is not isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "url", ["http://[::1]:1/v1/", "https://h./a%20b/v1", "http://h/a b/ü", "HTTP://mü.example"]
)
def test_unusual_base_url_is_accepted(url: str) -> None:
    assert LlmConfig.openai(SECRET, base_url=url).base_url == url


@pytest.mark.parametrize(
    ("config", "variable"),
    [
        (LlmConfig.openai(None), "OPENAI_API_KEY"),
        (LlmConfig.openai(""), "OPENAI_API_KEY"),
        (LlmConfig.azure(None, "d", "https://r.example.org"), "AZURE_OPENAI_API_KEY"),
        (LlmConfig.anthropic(None), "ANTHROPIC_API_KEY"),
    ],
)
def test_key_comes_from_the_environment_or_is_missing(
    config: LlmConfig, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(LlmConfigError, match=f"pass api_key= or set {variable}"):
        open_config(config)
    monkeypatch.setenv(variable, SECRET)
    assert open_config(config).name == config.name


@pytest.mark.parametrize("provider", ["openai", "anthropic", "openai_compatible"])
def test_key_that_cannot_be_sent_raises_without_showing_it(provider: str) -> None:
    for key in (f"{SECRET}\n", f"{SECRET} ", f"{SECRET}é"):
        with pytest.raises(LlmConfigError, match="a line break") as caught:
            open_config(config_of(provider, "http://h", key=key))
        assert SECRET not in str(caught.value)


def test_compatible_server_never_gets_the_openai_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    model: Any = open_config(LlmConfig.openai_compatible(URL, "m"))
    assert SECRET not in str(model._client.auth_headers)


def test_missing_library_raises_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for library, spec in [("openai", "openai:m"), ("openai", "ollama:m"), ("anthropic",) * 2]:
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(MissingExtraError, match=rf"pip install '{library}\[aiohttp\]'"):
            open_model(spec if ":" in spec else f"{spec}:m")


def test_provider_libraries_are_not_imported_before_their_use() -> None:
    code = (
        "import sys, noukai_sdk.local.llm.client, noukai_sdk.local.llm.embeddings\n"
        "from noukai_sdk.local.llm.prices import cost_usd\n"
        "from noukai_sdk.local.llm.providers import open_model\n"
        "open_model('offline'), cost_usd('offline', None), cost_usd('azure:m', None)\n"
        "libraries = {'openai', 'anthropic', 'xllamacpp', 'httpx', 'httpx2', 'genai_prices'}\n"
        "print(sorted(libraries & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_form_the_tree_in_the_docstring() -> None:
    assert llm_errors.__doc__ is not None
    for name in llm_errors.__all__:
        kind = getattr(llm_errors, name)
        assert issubclass(kind, LlmError)
        assert issubclass(kind, NoukaiError)
        assert name in llm_errors.__doc__
    assert len(llm_errors.__all__) == llm_errors.__doc__.count("── Llm") + 1


def test_errors_survive_pickling() -> None:
    errors: list[Any] = [
        LlmRateLimitError("too many", retry_after=2.5, status_code=429),
        LlmCircuitOpenError("not now", retry_after=1.5),
    ]
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (str(copy), copy.retry_after) == (str(error), error.retry_after)
        assert copy.status_code == error.status_code


def test_docstring_examples_hold() -> None:
    names = ["embeddings", "circuit", "client", "config", "prices", "providers"]
    for name in [*names, "providers.offline", "providers.offline_answers"]:
        results = doctest.testmod(importlib.import_module(f"noukai_sdk.local.llm.{name}"))
        assert (results.failed, results.attempted > 0) == (0, True)
