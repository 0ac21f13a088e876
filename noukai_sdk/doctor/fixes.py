"""Say what a line reads, and what to write instead."""

from __future__ import annotations

from ..replaying.controls import clean_lines
from .diagnosis import KIND_OF, Finding
from .run_comparison import Change
from .source_lines import calls_at, text_of, words
from .source_reads import Reads

_TIME = words(
    "now utcnow today time time_ns gmtime localtime strftime ctime monotonic monotonic_ns "
    "perf_counter perf_counter_ns process_time process_time_ns thread_time thread_time_ns "
    "default_timer"
)
_DURATIONS = ("monotonic", "perf_counter", "process_time", "thread_time")
_UUID = words("uuid1 uuid4 uuid6 uuid7")
_RANDOM = words(
    "random choice choices shuffle sample randint randrange uniform gauss betavariate "
    "expovariate normalvariate triangular getrandbits randbytes token_hex token_bytes "
    "token_urlsafe randbelow randbits urandom Random SystemRandom default_rng rand randn "
    "integers hash id"
)
_ENVIRONMENT = words(
    "getenv get gethostname getfqdn getpid getppid getlogin getcwd cwd cpu_count uname "
    "listdir get_ident get_native_id node platform machine release version processor getuser"
)
_ZONE = words("fromtimestamp astimezone localtime ctime mktime timestamp strftime")
_ORDER = words("as_completed wait get")
_NAMES = {
    "time": _TIME,
    "uuid": _UUID,
    "random": _RANDOM,
    "environment": _ENVIRONMENT,
    "zone": _ZONE,
    "completion": _ORDER,
}
_UNEXPLAINED = (
    "two runs with equal sources differ here: record what they read, with @noukai_sdk.recorded"
)


def finding_at(factor: str, reads: Reads | None, changes: list[Change]) -> Finding:
    """Return the finding of one line, or of a change whose line is not known."""
    kind = KIND_OF.get(factor, "unexplained")
    if reads is None:
        site = next((change.site for change in changes if change.site is not None), None)
        file, line = site if site is not None else (None, None)
        text = "" if file is None or line is None else clean_lines(text_of(file, line))
        if kind == "unexplained":
            is_address = all(change.is_address for change in changes)
            expression = "the address of an object" if is_address else "differs by itself"
            if factor == "live":
                expression = "differs between two live runs"
            kind = "random" if is_address else kind
            fix = "give the class a __repr__" if is_address else _UNEXPLAINED
            return Finding(kind, file, line, text, expression, fix, changes)
        expression, fix = _of_place_without_line(kind)
        return Finding(kind, file, line, text, expression, fix, changes)
    expression = _expression(factor, reads)
    return Finding(
        kind=kind,
        file=reads.file,
        line=reads.line,
        source=clean_lines(text_of(reads.file, reads.line)),
        expression=expression,
        fix=_fix(factor, reads, expression),
        changes=changes,
        reads=reads.count,
        at_start=reads.at_start,
    )


def _of_place_without_line(kind: str) -> tuple[str, str]:
    if kind == "order of a set":
        return "a set that gets here", "sorted(...) where the set is iterated"
    return "calls that complete in another order", "use the results in the order of the calls"


def _expression(factor: str, reads: Reads) -> str:
    if factor in ("set", "made set"):
        return "iterates a set" if factor == "set" else "makes a set"
    if factor == "completion" and reads.name == "changes":
        return "changes in the order in which calls complete"
    calls = calls_at(reads.file, reads.line, _NAMES.get(factor, frozenset()))
    if factor == "environment" and reads.name.isidentifier():
        return f"the variable {reads.name}"
    if calls:
        return clean_lines(calls[0])[:80]
    return reads.name


def _fix(factor: str, reads: Reads, expression: str) -> str:
    function = expression.partition("(")[0].rpartition(".")[2]
    if factor in ("time", "loop"):
        if any(name in reads.name for name in _DURATIONS) or reads.factor == "loop":
            return "leave the duration out, or measure it in a function with @noukai_sdk.recorded"
        return "noukai_sdk.now()"
    if factor == "uuid":
        return "noukai_sdk.uuid4()"
    if factor == "random":
        if reads.name == "hash":
            return "hashlib: hash() of a text is another number in each process"
        if reads.name == "id":
            return "a number of your own: id() is another in each process"
        if function == "random":
            return "noukai_sdk.random()"
        return "choose by noukai_sdk.random(), or in a function with @noukai_sdk.recorded"
    if factor in ("set", "made set"):
        return "sorted(...)"
    if factor == "completion":
        if reads.name == "changes":
            return "return the value, and take the results of gather(...) in the order of the calls"
        return "gather(...), or sort the results: they come in the order of completion"
    if factor == "zone":
        return "pass a time zone: datetime.fromtimestamp(t, timezone.utc)"
    if reads.name == "os.listdir":
        return "sorted(...)"
    if reads.name.isidentifier():
        name = reads.name.lower()
        return f'noukai_sdk.recorded.value("{name}", lambda: os.environ["{reads.name}"])'
    name = reads.name.rpartition(".")[2]
    return f'noukai_sdk.recorded.value("{name}", {reads.name})'
