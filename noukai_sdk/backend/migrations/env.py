"""Alembic's entry point: migrate over the connection from ``store/database.py``."""

from alembic import context

from noukai_sdk.backend.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things in place.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
