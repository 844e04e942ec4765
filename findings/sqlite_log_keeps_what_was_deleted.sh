#!/usr/bin/env bash
# SQLite as Python 3.11 brings it (seen with 3.40.1), journal_mode=WAL: a text that was deleted with
# `PRAGMA secure_delete=ON` and committed is still in a file beside the database.
#
# Seen: after DELETE and COMMIT the text is found in `x.db-wal`, in pages written when it was inserted; in `x.db` it is
# not. Even `PRAGMA wal_checkpoint(FULL)`, which copies all pages into the database, leaves it there: the log is used again
# from its start later, not cut. `wal_checkpoint(TRUNCATE)` cuts it and the text is gone.
#
# What this product does: `forget` waits for a TRUNCATE checkpoint, tries again while readers are in its way, and
# remembers acts of forgetting whose traces may still be in files.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR="$folder"
python3 - <<'PYTHON'
import sqlite3
import sys
import tempfile
from pathlib import Path

SECRET = b"the text that was forgotten"


def files_with_it(folder):
    return sorted(path.name for path in folder.iterdir() if SECRET in path.read_bytes())


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    database = sqlite3.connect(folder / "x.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA secure_delete=ON")
    database.execute("CREATE TABLE turns (id INTEGER PRIMARY KEY, text TEXT)")
    database.execute("INSERT INTO turns (text) VALUES (?)", (SECRET.decode(),))
    database.execute("DELETE FROM turns")
    seen = {"deleted": files_with_it(folder)}
    for kind in ("FULL", "TRUNCATE"):
        database.execute(f"PRAGMA wal_checkpoint({kind})")
        seen[kind] = files_with_it(folder)
    database.close()
print(f"SQLite {sqlite3.sqlite_version}: {seen}")
sys.exit(0 if seen == {"deleted": ["x.db-wal"], "FULL": ["x.db-wal"], "TRUNCATE": []} else 1)
PYTHON
