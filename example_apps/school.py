"""What the graders read besides their flows: pupils in a database, and the rules of the school over HTTP.

``python -m example_apps.school [PORT]`` creates the database with three pupils and serves the rules.

SCHOOL_DATABASE is the address of the database, ``sqlite:///school.db`` if it is not set. SCHOOL_URL is
where the apps find the rules, ``http://127.0.0.1:8010`` if it is not set.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

DATABASE = os.environ.get("SCHOOL_DATABASE", "sqlite:///school.db")
URL = os.environ.get("SCHOOL_URL", "http://127.0.0.1:8010")


class Base(DeclarativeBase):
    """The tables of the school."""


class PupilRow(Base):
    __tablename__ = "pupils"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    level: Mapped[int]


class GradeRow(Base):
    __tablename__ = "grades"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    pupil_id: Mapped[int] = mapped_column(ForeignKey("pupils.id"))
    graded_at: Mapped[datetime]
    grade: Mapped[str]


@dataclass(frozen=True)
class Pupil:
    """What the graders know of a pupil. A row belongs to its database session and cannot be recorded."""

    name: str
    level: int


class Rules(BaseModel):
    version: int
    hints: list[str]


NO_RULES = Rules(version=0, hints=[])


def create_database() -> None:
    """Create the tables, with three pupils if there are none."""
    engine = create_engine(DATABASE)
    Base.metadata.create_all(engine)
    names = ("Ada", "Grace", "Linus")
    with Session(engine) as session, session.begin():
        if session.get(PupilRow, 1) is None:
            session.add_all(PupilRow(id=n, name=name, level=n) for n, name in enumerate(names, 1))
    engine.dispose()


class RulesHandler(BaseHTTPRequestHandler):
    """Serves the rules of the school, with a version that each request counts up."""

    version = 0

    def do_GET(self) -> None:
        RulesHandler.version += 1
        rules = {"version": RulesHandler.version, "hints": ["One error, one point."]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(rules).encode())


def main() -> None:
    create_database()
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8010
    server = ThreadingHTTPServer(("127.0.0.1", port), RulesHandler)
    print(f"{DATABASE} has its pupils; http://127.0.0.1:{port} serves the rules", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
