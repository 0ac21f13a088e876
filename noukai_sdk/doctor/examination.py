"""Decide what to change from run to run, and name the lines that cause what differs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import islice

from .completion import AS_RECORDED
from .completion_lines import lines_that_see_order
from .diagnosis import KIND_OF, Diagnosis, Finding, by_place
from .fixes import finding_at
from .observation import Observation
from .run_comparison import Change, changes_of
from .source_lines import reference_to
from .source_reads import Plan, Reads, reads_from

Run = Callable[[Sequence[Plan]], list[Observation]]

# Read line by line: more sources of one kind are taken together.
_MOST_SOURCES = 40
_MOST_ON_A_LINE = 8
_VALUES_OF_LINES = 2
_ZONE = "Asia/Kathmandu"
_MOST_UUIDS = 2
_SETS = 2
_VALUES = 2  # of a variable of the environment


class Examination:
    """The examination of one request, or of one test.

    Args:
        run: Runs plans, and returns what came out of each.
        clock: The time of all runs that do not change it.
        runs: How many other values are tried, where there are many.
        ignore: What may differ in the response, such as ``$.id``.
        of_app: An app is examined, not a test. What a framework reads before it calls the user's code
            counts, then; what pytest reads does not.
    """

    def __init__(
        self,
        run: Run,
        *,
        clock: float,
        runs: int = 5,
        ignore: Sequence[str] = (),
        of_app: bool = True,
    ) -> None:
        self._owners = ("user", "library") if of_app else ("user",)
        self._run = run
        self._plan = Plan(clock=clock)
        self._runs = runs
        self._ignore = ignore
        self._diagnosis = Diagnosis()
        self._base = Observation()
        self._areas: set[Hashable] = set()
        self._noise: set[Hashable] = set()  # places that differ by themselves

    def examine(self) -> Diagnosis:
        """Run the request many times, and return what was found."""
        base, again = self._run([self._plan, self._plan])
        diagnosis = self._diagnosis
        diagnosis.problem = base.problem or again.problem
        if diagnosis.problem is not None:
            return diagnosis
        self._base = base
        by_itself = changes_of(base, again, self._ignore)
        self._noise = {change.place for change in by_itself}
        if base.refusal is not None:
            diagnosis.notes.append(f"the replay itself fails: {base.refusal}")
        elif base.failure is not None:
            diagnosis.notes.append(f"the app raises {base.failure}")
        sources = {
            each.factor
            for each in reads_from(base.reads) + reads_from(again.reads)
            if each.owner in self._owners
        }
        for factor, variants in (
            ("time", self._runs),
            ("uuid", min(self._runs, _MOST_UUIDS)),
            ("random", max(self._runs, 2)),
            ("set", _SETS),
        ):
            if factor in sources:
                self._vary(factor, variants)
        self._vary_hashes("made set" in sources)
        if base.overlaps or "completion" in sources:
            self._vary_completions()
        if "environment" in sources:
            self._vary_environment()
        if "zone" in sources:
            self._vary_zone()
        self._explain(by_itself)
        diagnosis.findings = by_place(_merged(diagnosis.findings))
        return diagnosis

    def add_live(self, changes: Sequence[Change]) -> None:
        """Report what differs between two live runs and is not known."""
        self._explain(changes, "live")
        self._diagnosis.findings = by_place(self._diagnosis.findings)

    def _vary(self, factor: str, variants: int) -> None:
        """Change one kind of source in several ways, and then line by line."""
        plans = [replace(self._plan, factor=factor, variant=each) for each in range(variants)]
        found = self._changes(plans)
        reads = self._reads_of(factor, [each for each, _ in found])
        changed = [(plan, own) for plan, (_, own) in zip(plans, found, strict=True) if own]
        if changed:
            self._attribute(reads, changed)

    def _attribute(
        self, reads: Sequence[Reads], changed: Sequence[tuple[Plan, Sequence[Change]]]
    ) -> None:
        """Find the lines that cause changes: run with each line changed alone.

        Args:
            reads: All lines that read sources of this kind.
            changed: The plans that changed all of them, and what differed.
        """
        factor = changed[0][0].factor or ""
        changes = list({change.place: change for _, own in changed for change in own}.values())
        places: set[Hashable] = {change.place for change in changes}
        covered: set[Hashable] = set()
        users = [each for each in reads if each.owner == "user"]
        others = [each for each in reads if each.owner != "user"]
        if len(reads) == 1 or len(users) > _MOST_SOURCES:
            for each in users or others:
                self._found(factor, each, changes)
            return
        for some in (users, others):
            left = list(some)
            # A line may make no difference by one value: a choice that is the same by chance.
            for plan, _ in sorted(changed, key=lambda pair: -len(pair[1]))[:_VALUES_OF_LINES]:
                if covered == places and some is others:
                    break
                plans = [replace(plan, keys=[each.key]) for each in left]
                for each, (_, own) in zip(list(left), self._changes(plans), strict=True):
                    caused = [change for change in own if change.place in places]
                    if caused:
                        self._found(factor, each, caused)
                        covered |= {change.place for change in caused}
                        left.remove(each)
        if not covered:
            # Only together do they make a difference.
            for each in users or others:
                self._found(factor, each, changes)

    def _vary_hashes(self, has_made_sets: bool) -> None:
        """Change the hashes of texts, which orders all sets, those in libraries too."""
        plans = [replace(self._plan, hash_seed=each) for each in range(1, self._runs // 2 + 2)]
        found = self._changes(plans)
        if has_made_sets:
            plan = replace(self._plan, factor="made set")
            ((other, changes),) = self._changes([plan])
            left = [change for change in changes if change.place not in self._places()]
            if left:
                self._attribute(self._reads_of("made set", [other]), [(plan, left)])
        for other, changes in found:
            left = [each for each in changes if each.area not in self._areas]
            # Each process has other addresses.
            addresses = [each for each in left if each.is_address]
            if addresses:
                self._found("address", None, addresses)
                left = [each for each in left if not each.is_address]
            if left:
                made = [each for each in self._reads_of("made set", [other]) if _is_in(each, left)]
                causes = made or self._unchanged_reads()
                for each in causes:
                    self._found(each.factor, each, left)
                if not causes:
                    self._found("set", None, left)

    def _vary_completions(self) -> None:
        """Let overlapping calls complete in other orders."""
        plans = [
            replace(self._plan, factor="completion", variant=each) for each in range(self._runs)
        ]
        found = self._changes(plans)
        changed = [(other, changes) for other, changes in found if changes]
        if not changed:
            return
        _, changes = max(changed, key=lambda pair: len(pair[1]))
        lines = lines_that_see_order(
            reads_from(self._base.reads), [reads_from(each.reads) for each, _ in changed]
        )
        plan = plans[[own for _, own in found].index(changes)]
        for each in self._without_innocent(lines, plan, changes):
            self._found("completion", each, changes)
        if not lines:
            self._found("completion", None, changes)

    def _without_innocent(
        self, lines: Sequence[Reads], plan: Plan, changes: Sequence[Change]
    ) -> list[Reads]:
        """Leave out the lines that ask which call is first and do no harm.

        A line that gets the order of the calls instead, and changes nothing by that, is innocent.
        """
        asking = [each for each in lines if each.name in ("as_completed", "wait")]
        if len(lines) == 1 or not asking:
            return list(lines)
        plans = [
            replace(plan, keys=[each.key], variant=variant)
            for each in asking
            for variant in (AS_RECORDED, plan.variant)
        ]
        found = self._changes(plans)
        places = {change.place for change in changes}
        innocent = set()
        for number, each in enumerate(asking):
            (recorded, _), (other, _) = found[2 * number : 2 * number + 2]
            if places <= {change.place for change in changes_of(recorded, other, self._ignore)}:
                innocent.add(each.key)
        return [each for each in lines if each.key not in innocent or each not in asking]

    def _vary_environment(self) -> None:
        """Change what is read of the environment: first all, then each alone."""
        plan = replace(self._plan, factor="environment")
        reads = self._reads_of("environment", [])
        ((other, changes),) = self._changes([plan])
        if not changes and not other.failed and other.problem is None:
            return
        groups = _by_line_if_many(reads)[:_MOST_SOURCES]
        plans = [
            replace(plan, keys=[each.key for each in group], variant=variant)
            for group in groups
            for variant in range(_VALUES if len(group) == 1 else 1)
        ]
        results = iter(self._changes(plans))
        for group in groups:
            caused: list[Change] = []
            for other, own in islice(results, _VALUES if len(group) == 1 else 1):
                # A value that the app does not know proves nothing, and neither does another flow.
                if other.problem is None and (not other.failed or self._base.failed):
                    known = {change.place for change in caused}
                    caused += [change for change in own if change.place not in known]
            if caused:
                self._found("environment", group[0], caused)

    def _vary_zone(self) -> None:
        """Run in another time zone."""
        found = self._changes([replace(self._plan, zone=_ZONE)], "time zone")
        known = self._places()
        changes = [change for change in found[0][1] if change.place not in known]
        for each in self._reads_of("zone", []) if changes else ():
            self._found("zone", each, changes)

    def _explain(self, changes: Sequence[Change], factor: str = "unexplained") -> None:
        """Report what differs between two runs with equal sources."""
        left = [each for each in changes if each.area not in self._areas]
        if not left:
            return
        reads = self._unchanged_reads()
        for each in reads:
            self._found(each.factor, each, left)
        if not reads:
            self._found(factor, None, left)

    def _unchanged_reads(self) -> list[Reads]:
        """Return the reads of sources that no run changes.

        Programs act on them: they send signals to processes, and event loops run by their times.
        """
        return [
            each
            for factor in ("environment", "loop")
            for each in self._reads_of(factor, [])
            if factor == "loop" or each.name in ("os.getpid", "os.getppid", "threading.get_ident")
        ]

    def _changes(
        self, plans: Sequence[Plan], name: str | None = None
    ) -> list[tuple[Observation, list[Change]]]:
        """Run plans; return what came out of each, and what differs from the first run."""
        results: list[tuple[Observation, list[Change]]] = []
        for plan, other in zip(plans, self._run(plans), strict=True):
            factor = name or (KIND_OF[plan.factor] if plan.factor else "order of a set")
            tried = self._diagnosis.tried
            tried[factor] = tried.get(factor, 0) + 1
            if other.problem is not None:
                # An app need not know the value of a variable.
                if plan.factor != "environment":
                    self._note(f"a run with another {factor}: {other.problem}")
                results.append((other, []))
            else:
                changes = changes_of(self._base, other, self._ignore)
                results.append((other, [each for each in changes if each.place not in self._noise]))
        return results

    def _note(self, text: str) -> None:
        if text not in self._diagnosis.notes:
            self._diagnosis.notes.append(text)

    def _reads_of(self, factor: str, others: Sequence[Observation]) -> list[Reads]:
        """Return the sources of a kind that were read in any run, by line."""
        found: dict[str, Reads] = {}
        for observation in (self._base, *others):
            for each in reads_from(observation.reads):
                if each.factor == factor and each.owner in self._owners:
                    found.setdefault(each.key, each)
        return list(found.values())

    def _places(self) -> set[Hashable]:
        return {change.place for finding in self._diagnosis.findings for change in finding.changes}

    def _found(self, factor: str, reads: Reads | None, changes: Sequence[Change]) -> None:
        self._areas |= {change.area for change in changes}
        if reads is not None and reads.owner != "user":
            # A library calls a function that the user's code names: a default_factory.
            files = sorted(
                {each.file for each in reads_from(self._base.reads) if each.owner == "user"}
                | {change.site[0] for change in changes if change.site is not None}
                | {call.site[0] for call in self._base.calls if call.site is not None}
            )
            named = reference_to(reads.name, files)
            if named is not None:
                reads = replace(reads, file=named[0], line=named[1])
        self._diagnosis.findings.append(finding_at(factor, reads, list(changes)))


def _by_line_if_many(reads: Sequence[Reads]) -> list[list[Reads]]:
    """Return each source alone, but those together that one line copies: ``dict(os.environ)``."""
    lines: dict[tuple[str, int], list[Reads]] = {}
    for each in reads:
        lines.setdefault((each.file, each.line), []).append(each)
    groups: list[list[Reads]] = []
    for line in lines.values():
        groups += [line] if len(line) > _MOST_ON_A_LINE else [[each] for each in line]
    return groups


def _is_in(made: Reads, changes: Sequence[Change]) -> bool:
    """Return whether elements of a set stand in a text that changed: a copy of it was iterated."""
    texts = "\n".join(change.before for change in changes)
    return sum(token in texts and token != "" for token in made.tokens) > 1


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """Merge the findings of one kind on one line."""
    merged: dict[Hashable, Finding] = {}
    for finding in findings:
        key: Hashable = (finding.kind, finding.file, finding.line)
        if finding.file is None:
            key = id(finding)
        known = merged.setdefault(key, finding)
        if known is not finding:
            places = {change.place for change in known.changes}
            known.changes += [each for each in finding.changes if each.place not in places]
            known.reads = max(known.reads, finding.reads)
    return list(merged.values())
