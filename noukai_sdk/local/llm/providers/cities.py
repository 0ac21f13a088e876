"""Which cities a message names: well-known ones anywhere, others behind a preposition."""

from __future__ import annotations

import re

_KNOWN = (
    "Accra|Amsterdam|Athens|Auckland|Baghdad|Bangkok|Barcelona|Beijing|Belgrade|Berlin|Bern|Bogota|"
    "Boston|Brussels|Bucharest|Budapest|Buenos Aires|Cairo|Cape Town|Caracas|Chicago|Copenhagen|"
    "Dakar|Delhi|Dhaka|Dubai|Dublin|Edinburgh|Frankfurt|Geneva|Hamburg|Hanoi|Havana|Helsinki|"
    "Hong Kong|Istanbul|Jakarta|Johannesburg|Karachi|Kinshasa|Kyiv|Kyoto|Lagos|Lima|Lisbon|London|"
    "Los Angeles|Madrid|Manila|Melbourne|Mexico City|Miami|Milan|Montreal|Moscow|Mumbai|Munich|"
    "Nairobi|New Delhi|New York|Osaka|Oslo|Paris|Prague|Reykjavik|Riga|Rio de Janeiro|Rome|"
    "San Francisco|Santiago|Sao Paulo|Seattle|Seoul|Shanghai|Singapore|Sofia|Stockholm|Sydney|"
    "Tallinn|Tehran|Tokyo|Toronto|Tunis|Vancouver|Vienna|Vilnius|Warsaw|Washington|Zagreb|Zurich"
)
_CANONICAL = {name.casefold(): name for name in _KNOWN.split("|")}
# Capitalised, and yet no place: "in March", "in Celsius".
_NO_PLACES = frozenset(
    {"january", "february", "march", "april", "may", "june", "july", "august", "september"}
    | {"october", "november", "december", "monday", "tuesday", "wednesday", "thursday", "friday"}
    | {"saturday", "sunday", "celsius", "fahrenheit", "kelvin", "english"}
)

_WORD = r"[A-ZÀ-ÖØ-Þ][\w'\u2019-]+"
_NAME = rf"{_WORD}(?: {_WORD}){{0,2}}"
_AND = r"(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|&)\s+(?:in\s+)?)"
_KNOWN_CITY = re.compile(rf"\b(?:{_KNOWN})\b", re.IGNORECASE)
_PLACES = re.compile(rf"\b(?:in|at|near|for|of)\s+({_NAME}(?:{_AND}{_NAME})*)")
_PLACE = re.compile(_NAME)


def cities_in(text: str) -> list[str]:
    """The cities that a message names, in its order, each once.

    Example:
        >>> cities_in("What is the weather in Paris, Lyon and rome?")
        ['Paris', 'Lyon', 'Rome']
    """
    found = [(*match.span(), _canonical(match.group())) for match in _KNOWN_CITY.finditer(text)]
    for places in _PLACES.finditer(text):
        hits = _PLACE.finditer(text, *places.span(1))
        found.extend(
            (*hit.span(), _canonical(hit.group())) for hit in hits if _is_place(hit.group())
        )
    return _without_overlaps(found)


def _is_place(name: str) -> bool:
    return name.casefold() not in _NO_PLACES


def _canonical(name: str) -> str:
    return _CANONICAL.get(name.casefold(), name)


def _without_overlaps(found: list[tuple[int, int, str]]) -> list[str]:
    names: dict[str, str] = {}
    covered = -1
    for start, end, name in sorted(found, key=lambda hit: (hit[0], -hit[1])):
        if start >= covered:
            covered = end
            names.setdefault(name.casefold(), name)
    return list(names.values())
