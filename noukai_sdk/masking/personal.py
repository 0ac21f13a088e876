"""Personal data in text: e-mail addresses, phone numbers, payment cards and bank accounts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .forms import Span

_EMAIL = re.compile(
    r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"
)
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    r"\+\d[\d ().-]{6,20}\d"  # with the code of the country
    r"|(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}"  # North America
    r"|\(?0\d{2,5}\)?[ /-]\d{3,9}(?:[ -]\d{2,6}){0,3}"  # with the code of the area
    r")(?![\w-])"
)
_CARD = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){8,15}(?![\w-])")
# Visa, Mastercard, American Express, Discover, Diners Club, JCB, UnionPay.
_BRAND = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|"
    r"3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|"
    r"62\d{14,17}"
)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}")
_COUNTRIES = """
15:NO 16:BE 18:DK,FI,FO,GL,NL,SD 19:MK,SI 20:AT,BA,EE,KZ,LT,LU,MN,XK 21:CH,HR,LI,LV
22:BG,BH,CR,DE,GB,GE,IE,ME,RS,VA 23:AE,GI,IL,IQ,OM,SO,TL 24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG
25:LY,PT,ST 26:IS,TR 27:BI,DJ,FR,GR,IT,MC,MR,SM 28:AL,AZ,BY,CY,DO,GT,HU,LB,NI,PL,SV
29:BR,EG,PS,QA,UA 30:JO,KW,MU 31:MT,SC 32:LC 33:RU
"""
# How long the IBANs of each country are.
_LENGTHS = {
    country: int(entry.partition(":")[0])
    for entry in _COUNTRIES.split()
    for country in entry.partition(":")[2].split(",")
}


def personal_spans(text: str) -> Iterator[Span]:
    """Yield the places of personal data in ``text``."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield match.span()
    if re.search(r"\d", text) is None:
        return
    for match in _PHONE.finditer(text):
        if 8 <= sum(c.isdigit() for c in match[0]) <= 15:
            yield match.span()
    for match in _CARD.finditer(text):
        digits = re.sub("[ -]", "", match[0])
        if _BRAND.fullmatch(digits) and passes_luhn(digits):
            yield match.span()
    for match in _IBAN.finditer(text):
        end = match.start()
        left = _LENGTHS.get(match[0][:2], 0)
        while left > 0 and end < match.end():
            left -= text[end] != " "
            end += 1
        whole = not left and end > match.start() and not text[end : end + 1].isalnum()
        if whole and passes_mod_97(text[match.start() : end].replace(" ", "")):
            yield match.start(), end


def passes_luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others, as on payment cards.

    Example:
        >>> passes_luhn("4242424242424242"), passes_luhn("4242424242424243")
        (True, False)
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def passes_mod_97(iban: str) -> bool:
    """Return whether the two check digits of an IBAN are right.

    Example:
        >>> passes_mod_97("DE89370400440532013000"), passes_mod_97("DE88370400440532013000")
        (True, False)
    """
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1
