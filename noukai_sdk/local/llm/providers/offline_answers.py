"""Answer a prompt by rules, for the offline model: corrections, short texts, greetings and the like.

The rules cover the prompts of the bundled flows and of the docs. Any other prompt gets a reply that
quotes it. Where several phrases fit, a number made from the whole request selects one, so that requests
that differ in a detail, such as the temperature, are answered in different words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

_QUOTED_CHARS = 160
_FINDING_CHARS = 200
_FIXES = 3
_WORDS = 200

_MISSPELLINGS = {
    "acheive": "achieve",
    "alot": "a lot",
    "becuase": "because",
    "beleive": "believe",
    "catched": "caught",
    "definately": "definitely",
    "diffrent": "different",
    "freind": "friend",
    "goed": "went",
    "happend": "happened",
    "hte": "the",
    "occured": "occurred",
    "peice": "piece",
    "realy": "really",
    "recieve": "receive",
    "runned": "ran",
    "seperate": "separate",
    "shcool": "school",
    "speling": "spelling",
    "suprise": "surprise",
    "taht": "that",
    "teacer": "teacher",
    "teh": "the",
    "thier": "their",
    "tommorow": "tomorrow",
    "untill": "until",
    "wich": "which",
    "wierd": "weird",
    "writting": "writing",
}
_MISSPELLED = re.compile(rf"\b(?:{'|'.join(_MISSPELLINGS)})\b", re.IGNORECASE)
_GRAMMAR = [
    (re.compile(r"\b([Tt])heir(?= (?:are|is|was|were)\b)"), r"\1here"),
    (re.compile(r"\b([Tt])o(?= (?:many|much)\b)"), r"\1oo"),
    (re.compile(r"\b(I|[Ww]e|[Yy]ou|[Tt]hey) has\b"), r"\1 have"),
    (re.compile(r"\b([Hh]e|[Ss]he) have\b"), r"\1 has"),
    (re.compile(r"\b([Ww]e|[Yy]ou|[Tt]hey) was\b"), r"\1 were"),
    (re.compile(r"\b([Cc]ould|[Ss]hould|[Ww]ould) of\b"), r"\1 have"),
    (re.compile(r"\bi(?= )"), "I"),
]
_WORDINESS = [
    (re.compile(r", (?:in fact|all in all|as it were),"), ""),
    (re.compile(r" (?:really|quite|rather|very)(?= )"), ""),
    (re.compile(r"\bin order to\b"), "to"),
    (re.compile(r"\bdue to the fact that\b"), "because"),
]
_REPORT = {
    "city": "{}",
    "location": "{}",
    "sky": "{}",
    "conditions": "{}",
    "celsius": "{} °C",
    "fahrenheit": "{} °F",
}


class Choice:
    """Select phrases by a number, whose digits are dice rolled in advance."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, *phrases: str) -> str:
        """Return one of the phrases."""
        self._number, index = divmod(self._number, len(phrases))
        return phrases[index]


def answer_prompt(prompt: str, choose: Choice) -> str:
    """Answer a prompt.

    Example:
        >>> answer_prompt("Correct the spelling of this text: I recieve teh letter", Choice(0))
        'I receive the letter.'
    """
    prompt = prompt.strip()
    for pattern, answer in _RULES:
        match = pattern.search(prompt)
        if match is not None:
            return answer(match, choose)
    return _reply(prompt, choose)


def answer_from_tools(findings: Sequence[tuple[str, str]], choose: Choice) -> str:
    """Answer with what tools returned: pairs of a subject and its result.

    Example:
        >>> answer_from_tools([("Oslo", '{"city": "Oslo", "sky": "clear", "celsius": 15}')], Choice(0))
        'Here is what I found. Oslo: clear, 15 °C.'
    """
    opening = choose("Here is what I found.", "I looked it up.", "This is how it looks now.")
    parts = (f"{subject}: {_readable(subject, result)}" for subject, result in findings)
    return _sentence(f"{opening} {'; '.join(parts)}")


def _readable(subject: str, result: str) -> str:
    """Return a weather report in words; any other result as it is."""
    try:
        values = json.loads(result)
    except ValueError:
        values = None
    if isinstance(values, dict) and values and values.keys() <= _REPORT.keys():
        words = (_REPORT[key].format(value) for key, value in values.items() if value != subject)
        result = ", ".join(words)
    return result[:_FINDING_CHARS]


def _correct(match: re.Match[str], _: Choice) -> str:
    text = _MISSPELLED.sub(_respell, match["text"].strip())
    for pattern, replacement in _GRAMMAR:
        text = pattern.sub(replacement, text)
    return _sentence(text[:1].upper() + text[1:]) if " " in text else text


def _respell(match: re.Match[str]) -> str:
    right = _MISSPELLINGS[match[0].lower()]
    return right.capitalize() if match[0][0].isupper() else right


def _tell_pupil(match: re.Match[str], choose: Choice) -> str:
    """Name the differences between a pupil's text and the corrected one, or praise the pupil."""
    wrote, corrected = match["wrote"].strip(), match["corrected"].strip()
    # The last line is the instruction.
    corrected = corrected.rpartition("\n")[0] or corrected
    wrong, right = (re.findall(r"[\w'\u2019-]+", text)[:_WORDS] for text in (wrote, corrected))
    changes = SequenceMatcher(None, wrong, right).get_opcodes()
    pairs = [
        pair
        for kind, i, m, j, n in changes
        if kind == "replace"
        for pair in zip(wrong[i:m], right[j:n], strict=False)
    ]
    fixes = [f'"{after}" instead of "{before}"' for before, after in pairs]
    if not fixes and wrote != corrected:
        fixes = ["a full stop at the end"]
    quoted = _quote(corrected)
    if fixes:
        opening = choose("Good try", "You are nearly there", "Nice work", "Almost", "Well tried")
        verb = choose("practise writing", "remember to write", "next time write", "learn to write")
        return f'{opening}: {verb} {" and ".join(fixes[:_FIXES])}, as in "{quoted}"'
    opening = choose("Well done", "Excellent", "Very good", "Great work", "Lovely")
    step = choose("longer sentences", "harder words", "commas", "new words", "reading it aloud")
    return f'{opening}: "{quoted}" has no mistakes, so practise {step} next.'


def _write(match: re.Match[str], choose: Choice) -> str:
    topic = _quote(match["text"])
    if topic.endswith((".", "!", "?")):
        first = topic
    else:
        first = choose(
            f"There is more to {topic} than meets the eye.",
            f"Everyone has a story about {topic}.",
            f"Few things are as rewarding as a closer look at {topic}.",
            f"It is easy to forget how much depends on {topic}.",
        )
    second = choose(
        "It was, in fact, a small thing, but nobody who was there forgot it.",
        "It had, all in all, been a rather quiet day, and nobody was in a hurry.",
        "It took quite some time until anybody noticed.",
        "It all began, as it were, on a very ordinary morning.",
    )
    third = choose(
        "Sometimes that is really all it takes.",
        "What came next was rather hard to believe.",
        "People still talk about it in order to cheer each other up.",
        "In the end everybody was very happy with that.",
    )
    return f"{first} {second} {third}"


def _clarify(match: re.Match[str], choose: Choice) -> str:
    text = clear = match["text"].strip()
    for pattern, replacement in _WORDINESS:
        clear = pattern.sub(replacement, clear)
    if clear != text:
        return clear
    verdict = choose("This is clear already", "I would leave it as it is", "It reads well as it is")
    return f"{verdict}: {text}"


def _draft_reply(match: re.Match[str], choose: Choice) -> str:
    thanks = choose(
        "Thank you for your message.", "Thank you for writing to us.", "Thanks for asking."
    )
    promise = choose(
        "We are looking into it and will write again today.",
        "We have passed it on and will answer within a day.",
        "We will check this at once and let you know.",
    )
    return f'{thanks} You wrote: "{_quote(match["text"])}" {promise}'


def _summarize(match: re.Match[str], choose: Choice) -> str:
    text = match["text"].strip()
    first = _quote(re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0])
    opening = choose("In short", "In one sentence", "The main point")
    return f"{opening}: {first} (from {len(text.split())} words)"


def _decide(match: re.Match[str], choose: Choice) -> str:
    options = [match["first"].lower(), match["second"].lower()]
    if "question" in options:
        other = next((option for option in options if option != "question"), "question")
        return "question" if "?" in match["text"] else other
    return choose(*options)


def _say(match: re.Match[str], _: Choice) -> str:
    return _sentence(match["text"][:1].upper() + match["text"][1:])


def _greet(match: re.Match[str], choose: Choice) -> str:
    welcome = choose(
        "It is good to hear from you.",
        "Nice to meet you.",
        "Welcome.",
        "Good to see you.",
        "Thank you for stopping by.",
    )
    offer = choose(
        "How can I help you today?",
        "What can I do for you?",
        "What would you like to talk about?",
        "What is on your mind?",
        "What shall we look at first?",
        "Where shall we begin?",
        "Tell me what you need.",
    )
    greeting = match["greeting"].strip()
    return f"{greeting[:1].upper()}{greeting[1:]}! {welcome} {offer}"


def _miss_weather_tool(match: re.Match[str], choose: Choice) -> str:
    limit = choose("I cannot see the weather from here", "I have no weather report at hand")
    offer = choose("With a weather tool I can answer", "Give me a weather tool, and I will answer")
    return f'{limit}. {offer}: "{_quote(match[0])}"'


def _reply(prompt: str, choose: Choice) -> str:
    quoted = _quote(prompt)
    if not quoted:
        return choose("I am listening.", "Go ahead.") + " What would you like to talk about?"
    if quoted.endswith("?"):
        opening = choose("Good question", "Let me think", "That depends", "Interesting")
        step = choose("what you know already", "what has changed", "what matters most to you")
        offer = choose("Shall we begin there?", "Can you tell me more?", "Does that help?")
        return f'{opening}. To answer "{quoted}" I would start with {step}. {offer}'
    opening = choose(
        "Thank you for telling me",
        "I see",
        "Understood",
        "Got it",
        "That is good to know",
        "Let me repeat that",
        "You write",
        "Here is what I read",
    )
    comment = choose(
        "That is clear.",
        "I like how you put it.",
        "That says a lot.",
        "I will remember it.",
        "That makes me curious.",
        "There is something in that.",
    )
    offer = choose(
        "What would you like to do with it?",
        "Shall I say more about it?",
        "What comes next?",
        "Is there more to it?",
        "How can I help with that?",
        "Where shall we go from here?",
    )
    end = "" if quoted.endswith((".", "!")) else "."
    return f'{opening}: "{quoted}"{end} {comment} {offer}'


def _sentence(text: str) -> str:
    """Return the text with a full stop if it ends without punctuation."""
    return f"{text}." if text[-1:].isalnum() else text


def _quote(text: str) -> str:
    """Return the text on one line; of a long one the beginning and the end."""
    text = " ".join(text.split())
    if len(text) <= _QUOTED_CHARS:
        return text
    middle = _QUOTED_CHARS // 2
    return f"{text[:middle].rstrip()} ... {text[-middle:].lstrip()}"


def _rule(
    pattern: str, answer: Callable[[re.Match[str], Choice], str]
) -> tuple[re.Pattern[str], Callable[[re.Match[str], Choice], str]]:
    return re.compile(rf"\A(?:please )?{pattern}", re.IGNORECASE | re.DOTALL), answer


# The first that matches counts. An instruction is short and ends before the text that it is about, so
# that a pattern never has to search a long text.
_RULES = [
    _rule(r"[^\n]{0,40}\bwrote:(?P<wrote>.*?)\ncorrected:(?P<corrected>.*)", _tell_pupil),
    _rule(r"[^:\n]{0,99}\b(?:spelling|grammar|typos)\b[^:\n]{0,99}:(?P<text>.*)", _correct),
    _rule(
        r"(?:draft|write) an? (?:answer|reply|response) to [^:\n]{0,99}:(?P<text>.*)", _draft_reply
    ),
    _rule(r"(?:write|draft|tell)\b[^:\n]{0,99}?\babout:?\s(?P<text>.*)", _write),
    _rule(r"(?:make|improve|polish|rewrite|simplify)\b[^:\n]{0,99}:(?P<text>.*)", _clarify),
    _rule(r"(?:summari[sz]e|shorten)\b[^:\n]{0,99}:(?P<text>.*)", _summarize),
    _rule(
        r"in one word\b[^?\n]{0,99}?\b(?P<first>\w+) or (?:an? )?(?P<second>\w+)\?(?P<text>.*)",
        _decide,
    ),
    _rule(r"(?:say|repeat|echo)\b:? (?P<text>\S.*)", _say),
    _rule(
        r"(?P<greeting>(?:hello|hi|hey|good (?:morning|evening))\b[^.!?\n]{0,40})[.!]*\Z", _greet
    ),
    _rule(r"[^\n]{0,99}\bweather\b[^\n]{0,99}\Z", _miss_weather_tool),
]
