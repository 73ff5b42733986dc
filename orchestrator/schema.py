"""The tables, and how a database of an older version becomes one of this. SQLite's dialect.

A run is one document in `runs` (see run_record.py); what grows with time has a table of its own.
"""

from __future__ import annotations

import sqlite3

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE runs (run_id INTEGER PRIMARY KEY AUTOINCREMENT, record BLOB NOT NULL);
    CREATE TABLE statuses (run_id INTEGER PRIMARY KEY REFERENCES runs, status BLOB NOT NULL);
    CREATE TABLE results (
        run_id INTEGER NOT NULL REFERENCES runs, result_id TEXT NOT NULL, stage TEXT NOT NULL,
        received_at TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (run_id, result_id)
    ) WITHOUT ROWID;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs,
        ts TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL
    );
    CREATE INDEX events_of_run ON events (run_id, id);
    CREATE TABLE logs (
        id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs, instance_id TEXT NOT NULL, seq INTEGER,
        ts TEXT NOT NULL, level TEXT NOT NULL, stage TEXT NOT NULL, text TEXT NOT NULL,
        UNIQUE (run_id, instance_id, seq)
    );
    CREATE INDEX logs_of_run ON logs (run_id, id);
    CREATE TABLE samples (
        id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs, batch BLOB NOT NULL
    );
    CREATE INDEX samples_of_run ON samples (run_id, id);
    CREATE TABLE hold_keys (
        run_id INTEGER PRIMARY KEY REFERENCES runs, private_key TEXT NOT NULL, authorized_key TEXT NOT NULL,
        expires_at TEXT NOT NULL
    );
    CREATE TABLE evidence (
        id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs, stage TEXT NOT NULL,
        result_id TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL, received_at TEXT NOT NULL,
        UNIQUE (run_id, stage, result_id, sha256)
    );
    """,
    """
    CREATE TABLE documents (
        kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL, entry BLOB NOT NULL);
    """,
    """
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, type TEXT NOT NULL, created_at TEXT NOT NULL,
        receiver TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, due_at TEXT NOT NULL, tried_at TEXT,
        problem TEXT NOT NULL, body BLOB NOT NULL
    );
    CREATE INDEX outbox_due ON outbox (receiver, state, due_at);
    """,
    """
    CREATE TABLE marks (
        kind TEXT NOT NULL, ts TEXT NOT NULL, last_id INTEGER NOT NULL, PRIMARY KEY (kind, ts)
    ) WITHOUT ROWID;
    """,
)


class SchemaTooNew(Exception):
    """The database was written by a newer version of this program."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to this version. Raises SchemaTooNew."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise SchemaTooNew(f"the database has schema version {version}, this program knows {len(MIGRATIONS)}")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
