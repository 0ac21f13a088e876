"""Masking: the usual forms of secrets are found, ordinary texts are kept, and time grows with length."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import sys
import uuid
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.masking import forms, named, personal
from noukai_sdk.masking.names import is_secret_name
from noukai_sdk.masking.values import REDACTED, Masker

MASKER = Masker()
PERSONAL = Masker(pii=True)

LETTERS = "abcdefghij0123456789ABCDEFGHIJklmnopqrst"
HEX = "0123456789abcdef0123456789abcdef"
AWS = "wJalrXUtnFEMI/" + "K7MDENG/bPxRfiCYEXAMPLEKEY"
PEM = "-----BEGIN {0}PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nb3BlbnNzaC1r\n-----END {0}PRIVATE KEY-----"

# Put together here, so that no scanner takes this file for a leak.
ALONE = [
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ASIA" + "IOSFODNN7EXAMPLE",
    "Basic " + base64.b64encode(b"ann:open sesame").decode(),
    "Bearer " + "abcdef123456",
    *(PEM.format(kind) for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")),
    "glpat-" + LETTERS[:20],
    "hf_" + LETTERS[:34],
    "npm_" + LETTERS[:36],
    "SG." + LETTERS[:22] + "." + LETTERS + "xyz",
    "xoxb-" + "123456789012-" + LETTERS[:24],
    "xapp-" + "1-A012-" + LETTERS[:20],
    "sk_" + "live_" + LETTERS[:24],
    "rk_" + "test_" + LETTERS[:24],
    "whsec_" + LETTERS[:32],
    "AIza" + "SyA0123456789abcdefghijklmnopqrstu",
    "ya29." + LETTERS,
    "GOCSPX-" + LETTERS[:28],
    "abc8Q~" + LETTERS[:34],
    "ghp_" + LETTERS[:36],
    "sk-" + "ant-api03-" + LETTERS,
    "nk_" + "live_0123456789",
    "SK" + HEX,
]
# A text, and the secret in it that must not stay.
WITHIN = [
    ("aws_secret_access_key = {}", AWS),
    ("export AWS_SECRET_ACCESS_KEY={}", AWS),
    ("my AWS secret: {} please", AWS),
    ("https://hooks.slack.com/services/{}", "T000/B000/" + LETTERS[:24]),
    ("AccountName=a;AccountKey={};EndpointSuffix=core.windows.net", LETTERS + LETTERS + "abcd=="),
    ("https://a.blob.core.windows.net/c?sv=2022-11-02&sp=r&sig={}", LETTERS + "%3D"),
    ("SharedAccessSignature sr=x&sig={}&se=1", LETTERS + "%3D"),
    ("postgresql+asyncpg://app:{}@db.internal:5432/shop", "pa55-w0rd!"),
    ("mongodb+srv://app:{}@cluster.example.net/?w=1", "hunter"),
    ("redis://:{}@cache:6379/0", "hunter"),
    ("app:{}@tcp(db:3306)/shop", "hunter"),
    ("Server=db;User Id=sa;Pwd={};Encrypt=yes", "hunter"),
    ("curl -u ann:{} https://example.org", "hunter"),
    ("deploy --token {}", "abc123def"),
    ("//registry.example.org/:_authToken={}", HEX),
    ("Authorization: Basic {}", "YTpi"),
    ("Authorization: token {}", "abc123"),
    ("Cookie: session={}; theme=dark", "abcdef"),
    ("Set-Cookie: sid={}; HttpOnly", "abcdef"),
    ("the password: {}.", "hunter2"),
    ("db:\n  password: {}\n  port: 5432", "swordfish"),
    ("https://x.org/?token={}&b=1", "abc"),
    ("{{'api_key' : '{}'}}", "abc"),
    ("Authorization: Bearer {}", "abcdefghij"),
    ("https://a.example.net/c?sp=r&sig={}", "short"),
    ("secret={}", "abcdef"),
    ("token={}&a=1", "abcdefghij"),
    ("PIN: {}", "4711"),
    ("otp={}", "482910"),
    ("API key: {}", HEX),
    ('log in with "password": "{}', "cut of"),
]
NAMES_OF_SECRETS = """
pwd userPwd passcode pin userPin PIN pin_code otp otpCode auth basicAuth X-Auth password2 dbpassword
secret_value AccountKey signing_key npmToken AWS_SESSION_TOKEN APIKey
X-Csrftoken csrfmiddlewaretoken clientsecret
"""
OTHER_NAMES = """
pinned pins opinion pinCount spin author authors authored oauthor auth_type authenticated optimal option
otpauth passcodes_used tokens max_tokens keyboard secretary pwdx compass
"""


def test_secrets_of_each_form_are_masked_wherever_they_stand() -> None:
    for key in ALONE:
        for around in ("{}", "use {}, please", '"{}"', "({})", "a\n{}\nb", "see <{}>"):
            assert MASKER.text(around.format(key)) == around.format(REDACTED), key
        assert key not in MASKER.text(json.dumps({"a": [f"x {key}"]})), key
    for text, secret in WITHIN:
        masked = MASKER.text(text.format(secret))
        assert secret not in masked, text
        assert REDACTED in masked, text
        assert MASKER.text(masked) == masked, text
    for key in ("-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEAb3BlbnNzaC1r\nMIIE",):
        assert "MIIE" not in MASKER.text(f"cut: {key}")


def test_fields_match_by_whole_words_of_their_name() -> None:
    assert [name for name in NAMES_OF_SECRETS.split() if not is_secret_name(name)] == []
    assert [name for name in OTHER_NAMES.split() if is_secret_name(name)] == []
    fields = {"pin": 1234, "pinned": 1, "auth": {"user": "a"}, "author": "b", "otp": None}
    assert MASKER.value(fields) == {**fields, "pin": REDACTED, "auth": REDACTED}


def test_personal_data_is_masked_on_request_only() -> None:
    for text in (
        "ada.lovelace+news@mail.example.org",
        "+49 170 1234567",
        "+1 (555) 123-4567",
        "(555) 123-4567",
        "555-123-4567",
        "020 7946 0958",
        "4242 4242 4242 4242",
        "5555-5555-5555-4444",
        "378282246310005",
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
    ):
        assert PERSONAL.text(f"It is {text}, ok") == f"It is {REDACTED}, ok", text
        assert MASKER.text(text) == text
    for text in (
        "4242 4242 4242 4243",  # no check digit
        "DE88370400440532013000",
        "ISBN 978-3-16-148410-0",
        "2024-01-02 10:00:00.123456",
        "192.168.100.200",
        "@decorator",
    ):
        assert PERSONAL.text(text) == text


WORDS = """
the a password token secret key pin author bearer basic model answer auth price session cookie report team
account private public access invoice customer order summary weather Paris please thanks credential OTP
"""
SENTENCES = """
What is the {w} of the {w}?|The {w} {w} was changed on 2024-0{d}-1{d}.|{W}: nobody knows the {w}.
Order {n} costs ${d},{d}99.50 or {d}.{d} EUR.|See https://example.org/{w}/{n}?page={d}&tokens={n}#{w}.
The id is {uuid}.|commit {sha1} fixes #{n}|sha256:{sha256}|integrity sha512-{sha512}
ISBN 978-3-16-1484{d}0-{d}, page {n}.|def {w}_{w}({w}, {w}=None): return {w}.{w}
{w} = get_{w}(user.{w})|client.login(user, password=pw, token=token)|if {w} == {d}: raise ValueError({w!r})
class User:\n    password: str\n    token: str | None = None
Use Basic authentication or a Bearer token for the {w}.
Bearer certificates are {w} instruments.|data:image/png;base64,{image}
<p class="sk-toggleable__label-arrow">{w}</p>
max_tokens={n}, temperature=0.{d}|at 1{d}:3{d} on 0{d}/1{d}/2024, row {n}
{{"tokens": {n}, "author": "{w}", "pinned": true}}
password={{password}}&user={{user}}|postgres://{{user}}:{{password}}@{{host}}/db|http://localhost:8000/@{w}?a={d}
os.environ["API_KEY"]|api_key=os.environ["API_KEY"]|headers = {{"Authorization": f"Bearer {{token}}"}}
a task-force on risk-free {w}s met|The secret: base64-encoded {w}s.|Auth: OAuth2|{w}@{w}|1 + {n} = {d}:{d}
-----BEGIN PRIVATE KEY----- is how a {w} key begins|/usr/lib/python3.{d}/site-packages/{w}/{w}.py
v{d}.{d}.{n}
"""


def ordinary_texts(count: int) -> Iterator[str]:
    rng = random.Random(9)  # the same texts each time
    words = WORDS.split()
    templates = [part for line in SENTENCES.strip().splitlines() for part in line.split("|")]
    for number in range(count):
        data = hashlib.sha512(str(number).encode()).digest()
        values = {
            "n": rng.randrange(1000, 99999),
            "d": rng.randrange(1, 9),
            "W": rng.choice(words).title(),
            "uuid": uuid.UUID(bytes=data[:16]),
            "sha1": data[:20].hex(),
            "sha256": data[:32].hex(),
            "sha512": base64.b64encode(data).decode(),
            "image": base64.b64encode(data * 20).decode(),
        }
        template = templates[number % len(templates)].replace("\\n", "\n")
        # Each {w} is another word.
        yield re.sub(r"\{w(!r)?\}", lambda _: rng.choice(words), template).format(**values)


def test_ordinary_texts_have_no_false_hit() -> None:
    texts = list(ordinary_texts(10_000))
    assert [text for text in texts if MASKER.text(text) != text] == []
    assert [text for text in texts if PERSONAL.text(text) != text] == []
    assert MASKER.text("\n".join(texts)) == "\n".join(texts)


PIECES = [
    *ALONE[:6], "password: ", "hunter2", '"token": "', "'pin'=", "\\", '"', "'", " ", "\n", "{", "}", "@", "://a:",
    "Cookie: a=", "Authorization: ", "eyJ", ".", "-", "=", "&sig=", "ü", "DE89", "+49 170",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_masking_twice_is_masking_once_and_chunks_join_to_it(text: str) -> None:
    for masker in (MASKER, PERSONAL):
        once = masker.text(text)
        assert masker.text(once) == once
        chunks = [text[at : at + 3] for at in range(0, len(text), 3)]
        out = masker.chunks(chunks)
        assert len(out) == len(chunks)
        assert "".join(out) == once


def test_patterns_have_no_repetition_without_end_inside_another() -> None:
    parser = __import__(
        "re._parser" if sys.version_info >= (3, 11) else "sre_parse", fromlist=["_"]
    )

    def repeats(tree: object, inside: bool) -> bool:
        """Return whether a repetition without a limit stands inside another one."""
        if isinstance(tree, parser.SubPattern):
            return any(repeats(item, inside) for item in tree)
        if isinstance(tree, tuple) and len(tree) == 2 and "REPEAT" in str(tree[0]):
            unlimited = tree[1][1] == parser.MAXREPEAT
            return (inside and unlimited) or repeats(tree[1][2], inside or unlimited)
        return isinstance(tree, (tuple, list)) and any(repeats(item, inside) for item in tree)

    patterns = [pattern for _, pattern in forms._FORMS] + [
        value.pattern
        for module in (forms, named, personal)
        for value in vars(module).values()
        if isinstance(value, re.Pattern)
    ]
    assert len(patterns) > 60
    assert repeats(parser.parse("(a+)+"), False)
    assert [pattern for pattern in patterns if repeats(parser.parse(pattern), False)] == []
