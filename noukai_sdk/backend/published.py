"""Find flows: working copies in the catalog, published versions in the database; and publish.

A published version never changes, so each process keeps it once it has read it. It is the same flow in
every process: its files are in the database, not in the folder. A version in the folder
(``<slug>.v2.yaml``) is served if no version with its number is published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..local.flow_files.catalog import CatalogEntry, FlowCatalog, unknown_flow
from ..local.flow_files.flow_file import FlowProblem
from ..local.workflow.plan import Flow
from .encoding import Clock, from_column, to_column
from .errors import RequestError
from .store.published_flows import Address, PublishedStore, Row

_MAX_CACHED = 1000


@dataclass(frozen=True)
class ListedFlow:
    """A flow, with the rows of its published versions."""

    entry: CatalogEntry
    published: Sequence[Row]


class Flows:
    """The flows of a running backend: those of the folder, and those that were published."""

    def __init__(self, catalog: FlowCatalog, store: PublishedStore, clock: Clock) -> None:
        self._catalog = catalog
        self._store = store
        self._clock = clock
        self._cache: dict[tuple[str, str, str, int], Flow] = {}

    async def get(self, org: str, project: str, slug: str, version: int | None = None) -> Flow:
        """Return the flow at this address.

        Args:
            org: The organization.
            project: The project.
            slug: The flow's name.
            version: The published version; None or 0 for the working copy.

        Raises:
            FlowNotFoundError: There is no such flow or version.
            FlowExecutionError: It cannot run; code ``INVALID_TREE``.
            StoreUnavailableError: The database cannot be asked for the version.
        """
        if not version:
            with _file_names():
                return self._catalog.get(org, project, slug)
        key = (org, project, slug, version)
        flow = self._cache.get(key)
        if flow is not None:
            return flow
        row = await self._store.get((org, project, slug), version)
        if row is None:
            with _file_names():
                return self._catalog.get(org, project, slug, version)
        frozen = from_column(row["files"])
        # In a thread: the files may contain Python.
        flow = await asyncio.to_thread(self._catalog.frozen, *key, frozen["files"], frozen["model"])
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[key] = flow
        return flow

    async def publish(self, address: Address) -> tuple[Row, bool]:
        """Freeze the working copy; return the row of its version, and whether it is new.

        Raises:
            FlowNotFoundError: There is no such flow.
            RequestError: It cannot be frozen.
        """
        name = "/".join(address)
        with _file_names():
            flow, problems = await asyncio.to_thread(self._catalog.current, *address)
        if problems:
            raise RequestError(
                422,
                "INVALID_TREE",
                f"the flow file is invalid: {'; '.join(map(str, problems))}",
                details={"problems": [vars(problem) for problem in problems]},
            )
        if flow is None or flow.files is None or flow.content_hash is None:
            message = (
                f"{name} is Python, which cannot be frozen: write its steps into {address[2]}.yaml, with "
                "functions in _<name>.py beside it, or deploy a copy as a version of its own, "
                f"{address[2]}.v<N>.py"
            )
            raise RequestError(422, "FLOW_NOT_FREEZABLE", message)
        entries = await asyncio.to_thread(self._catalog.entries, *address[:2])
        versions = next((list(e.versions) for e in entries if e.address == address), [])
        if versions:
            message = (
                f"the versions of {name} are files ({address[2]}.v{versions[-1]}): add the next one there, "
                "or delete them all before you publish"
            )
            raise RequestError(409, "VERSIONS_ARE_FILES", message)
        files = to_column({"files": dict(flow.files), "model": flow.model}) or ""
        return await self._store.add(address, flow.content_hash, files, self._clock.now())

    async def find(self, address: Address) -> ListedFlow:
        """Return one flow with its versions and problems.

        Raises:
            FlowNotFoundError: There is no such flow, nor a published version of it.
        """
        with _file_names():
            entries = await asyncio.to_thread(self._catalog.entries, *address[:2])
        entry = next((entry for entry in entries if entry.address == address), None)
        published = (await self._store.versions([address]))[address]
        if entry is None and not published:
            raise unknown_flow(*address)
        return _listed(entry or CatalogEntry(address), published)

    async def page(
        self,
        org: str | None,
        after: Address | None,
        limit: int,
        *,
        text: str = "",
        only_problems: bool = False,
    ) -> list[ListedFlow]:
        """Return flows with their versions and problems, by address.

        Args:
            org: Only flows of this organization.
            after: Only flows with a later address.
            limit: Their number at most.
            text: Only flows with this text in ``org/project/slug``.
            only_problems: Only flows whose files have problems.
        """
        found = {e.address: e for e in await asyncio.to_thread(self._catalog.entries, org)}
        addresses = sorted({*found, *await self._store.addresses(org)})
        chosen = [
            address
            for address in addresses
            if (after is None or address > after) and text in "/".join(address)
        ]
        if only_problems:
            # Versions in files can be hidden by published ones, which is a problem too.
            entries = {address: found.get(address) for address in chosen}
            chosen = [
                a for a, entry in entries.items() if entry and (entry.problems or entry.versions)
            ]
        else:
            chosen = chosen[:limit]
        published = await self._store.versions(chosen)
        listed = [_listed(found.get(a) or CatalogEntry(a), published[a]) for a in chosen]
        if only_problems:
            listed = [flow for flow in listed if flow.entry.problems]
        return listed[:limit]


@contextmanager
def _file_names() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # The name is too long for a file, or we may not read its folder.
        message = f"cannot look for the flow: {error.strerror}"
        raise RequestError(404, "FLOW_NOT_FOUND", message) from error


def _listed(entry: CatalogEntry, published: Sequence[Row]) -> ListedFlow:
    """Report the files whose number is that of a published version: they are not used."""
    for row in published:
        hidden = entry.versions.pop(row["version"], None)
        if hidden is not None:
            file = f"{hidden}.v{hidden.version}.yaml"
            message = f"not used: version {hidden.version} is published"
            entry.problems.append(FlowProblem(file, None, None, message))
    return ListedFlow(entry, published)
