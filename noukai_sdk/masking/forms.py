"""Secrets that show by their form: keys and tokens of services, headers, PEM blocks, database URLs.

Each form has hints, texts of which one occurs in every match. Most texts hold no hint, and looking
for one is much faster than a pattern. No pattern has a repetition within a repetition, and one that
must find something behind a repetition has a limit, so the time grows with the length of the text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from functools import cache

Span = tuple[int, int]

# Patterns whose group 1, if there is one, is the secret; else all of it is.
_FORMS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("nk_",), r"\bnk_[A-Za-z0-9_-]{8,}"),
    # OpenAI, Anthropic and others. CSS classes of scikit-learn begin with sk- too, without a digit.
    (("sk-",), (r"\bsk-(?:(?:proj|ant|or|svcacct|admin|live|test)-[\w-]{8,}|"
               r"(?=[A-Za-z_-]{0,64}\d)[\w-]{16,})")),
    (("AIza",), r"\bAIza[\w-]{30,}"),
    (("ya29.",), r"\bya29\.[\w-]{20,}"),
    (("GOCSPX-",), r"\bGOCSPX-[\w-]{20,}"),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{20,}"),
    (("github_pat_",), r"\bgithub_pat_\w{20,}"),
    (("gl",), r"\bgl(?:pat|ptt|dt|rt|rtr|cbt|soat|ft|imt|agent|oas|ffct)-[\w.-]{16,}"),
    (("GR1348941",), r"\bGR1348941[\w-]{16,}"),
    (("hf_",), r"\bhf_[A-Za-z0-9]{20,}"),
    (("npm_",), r"\bnpm_[A-Za-z0-9]{20,}"),
    (("pypi-",), r"\bpypi-[\w-]{50,}"),
    (("SG.",), r"(?<![\w.-])SG\.[\w-]{16,}\.[\w-]{16,}"),
    (("xox",), r"\bxox[abceoprs](?:\.xox[bp])?-[\w-]{10,}"),
    (("xapp-",), r"\bxapp-\d-[\w-]{10,}"),
    (("hooks.slack",), r"\bhooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/([\w/-]{8,})"),
    (("/api/webhooks/",), r"\bdiscord(?:app)?\.com/api/webhooks/([\w/-]{8,})"),
    (("webhook.office.com",), r"\bwebhook\.office\.com/webhookb2/([\w/@-]{8,})"),
    (("AKIA", "ASIA", "ABIA", "ACCA"), r"\bA(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}\b"),
    (("_live_", "_test_"), r"\b[spr]k_(?:live|test)_[A-Za-z0-9]{10,}"),
    (("whsec_",), r"\bwhsec_[A-Za-z0-9+/=]{16,}"),
    # Azure: client secrets, the keys of storage and of other services, connection strings, SAS.
    (("Q~",), r"(?<![\w~.-])[\w~.-]{3}\dQ~[\w~.-]{31,34}(?![\w~.-])"),
    (("==",), r"(?<![A-Za-z0-9/+])[A-Za-z0-9/+]{76}(?:APIM|ACDb|\+A(?:Ba|MC|St))[A-Za-z0-9/+]{5}[AQgw]=="),
    (("JQQJ9",), r"\b[A-Za-z0-9]{52}JQQJ9[A-Za-z0-9]{28}\b"),
    (("Key=",), r"\b(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/%]{16,}={0,2})"),
    (("sig=",), r"(?<!\w)sig=([\w%+/=-]{20,})"),
    (("eyJ",), r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*"),
    # Words that follow "bearer" in prose hold no digit and are not very long.
    (("earer", "EARER"), (r"\b(?:[Bb]earer|BEARER)\s{1,8}"
                         r"(?:(?=[A-Za-z._~+/=-]{0,400}\d)[\w.~+/=-]{8,}|[\w.~+/=-]{20,})")),
    # The password of a URL. In {password} and $PASSWORD the code that sends it is quoted.
    (("://",), r"""://[^\s:/@?#"'<>]{0,128}:(?![{$<%][^@]{0,64}@)([^\s"'<>/?#]{1,256})@"""),
    (("@tcp(", "@unix("), r"\b\w{1,64}:([^\s@:/]{1,128})@(?:tcp|unix)\("),
    (("curl",), r"""\bcurl\b[^\n|]{0,400}?\s(?:-u|--user)[ =]["']?[\w.@-]{1,64}:([^\s"']{1,256})"""),
    (("dop_v1_",), r"\bdop_v1_[0-9a-f]{32,}"),
    (("shpat_", "shpss_", "shpca_"), r"\bshp(?:at|ss|ca)_[0-9A-Fa-f]{32}"),
    (("SK",), r"\bSK[0-9a-f]{32}\b"),
    (("gsk_",), r"\bgsk_[A-Za-z0-9]{20,}"),
    (("xai-",), r"\bxai-[A-Za-z0-9]{30,}"),
    (("pplx-",), r"\bpplx-[A-Za-z0-9]{30,}"),
    (("dapi",), r"\bdapi[0-9a-f]{32}"),
    (("hvs.",), r"\bhvs\.[\w-]{20,}"),
    (("ATATT3",), r"\bATATT3[\w=-]{20,}"),
    (("key-",), r"\bkey-[0-9a-f]{32}\b"),
    (("sq0",), r"\bsq0(?:atp|csp)-[\w-]{20,}"),
    ((":AA",), r"\b\d{8,10}:AA[\w-]{33}\b"),
    (("r8_",), r"\br8_[A-Za-z0-9]{30,}"),
    (("ntn_",), r"\bntn_[A-Za-z0-9]{30,}"),
    (("lin_api_",), r"\blin_api_[A-Za-z0-9]{30,}"),
)  # fmt: skip

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}-----")
_PEM_LINES = re.compile(r"[A-Za-z0-9+/=\s\\:,-]{0,20000}")
_BASIC = re.compile(r"\bbasic\s{1,8}([A-Za-z0-9+/]{4,4096}={0,2})(?![A-Za-z0-9+/=])", re.IGNORECASE)
_AWS = re.compile(r"aws|AKIA|ASIA|secret", re.IGNORECASE)
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9/+=_.-])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_.-])")
_CLASS_CHANGE = re.compile(r"(?<=[a-z])[^a-z]|(?<=[A-Z])[^A-Z]|(?<=[0-9])[^0-9]")


def form_spans(text: str) -> Iterator[Span]:
    """Yield the places of the secrets in ``text`` that show by their form."""
    for hints, pattern in _FORMS:
        if any(hint in text for hint in hints):
            for match in _compiled(pattern).finditer(text):
                yield match.span(match.lastindex or 0)
    for hints, spans in _CHECKED:
        if any(hint in text for hint in hints):
            yield from spans(text)


def _pem_spans(text: str) -> Iterator[Span]:
    position, ends = 0, True
    while (begin := _PEM.search(text, position)) is not None:
        end = _PEM_END.search(text, begin.end()) if ends else None
        if end is not None:
            yield begin.start(), end.end()
            position = end.end()
            continue
        # The text was cut, or is prose about keys.
        ends = False
        lines = _PEM_LINES.match(text, begin.end())
        assert lines is not None  # it matches the empty text too
        if len(lines[0].strip()) >= 16 and not re.search(r"[a-z] [a-z]", lines[0][:200]):
            yield begin.start(), lines.end()
        position = lines.end()


def _basic_spans(text: str) -> Iterator[Span]:
    for match in _BASIC.finditer(text):
        try:
            credentials = base64.b64decode(match[1], validate=True).decode()
        except ValueError:
            continue  # a word
        if ":" in credentials and credentials.isprintable():
            yield match.span()


def _aws_spans(text: str) -> Iterator[Span]:
    """Yield texts of 40 random characters if the text speaks of AWS or of a secret."""
    if _AWS.search(text) is None:
        return
    for match in _AWS_SECRET.finditer(text):
        kinds = ("[A-Z]", "[a-z]", "[0-9]")
        # Paths and words change less often between small and capital letters, digits and signs.
        if (
            all(re.search(kind, match[0]) for kind in kinds)
            and len(_CLASS_CHANGE.findall(match[0])) >= 12
        ):
            yield match.span()


_CHECKED: tuple[tuple[tuple[str, ...], Callable[[str], Iterator[Span]]], ...] = (
    (("PRIVATE KEY",), _pem_spans),
    (("asic ", "ASIC ", "asic\t"), _basic_spans),
    (("",), _aws_spans),
)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
