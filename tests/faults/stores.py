"""The two stores in which trials run: a SQLite file, and a tracking server on PostgreSQL.

Both have the same methods. A fault that only a server can have is in its own class.
"""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from selenium.webdriver.common.utils import free_port

from tests.end_to_end.conftest import Checkout, with_server
from tests.server.running import RunningServer

TABLES = "runs, metrics, latest_metrics, params, tags"


class SqliteStore:
    """A SQLite file in the folder of each trial."""

    name = "SQLite"
    waits_for_room = False  # whether a command waits until a full disk has room again

    def used_by(self, checkout: Checkout) -> Checkout:
        """A copy of the project whose commands use the store."""
        return checkout

    def exists(self, checkout: Checkout) -> bool:
        """Whether the store can be read."""
        return (checkout.folder / "mlflow.db").exists()

    @contextmanager
    def locked(self, checkout: Checkout) -> Iterator[None]:
        """Lock the store, as another process may do."""
        file = checkout.folder / "mlflow.db"
        connection = sqlite3.connect(file, timeout=60, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("COMMIT")
            connection.close()

    def model_file(self, checkout: Checkout, model_id: str) -> Path:
        """The archive of a logged model."""
        return _archive_below(checkout.folder / "mlruns", model_id)


class ServerStore:
    """A server on PostgreSQL that all trials use, each in an experiment of its own."""

    name = "server"
    waits_for_room = True

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        self.folder = folder
        self.server = RunningServer(folder, free_port())

    def used_by(self, checkout: Checkout) -> Checkout:
        return with_server(checkout, self.server)

    def exists(self, checkout: Checkout) -> bool:
        return True

    @contextmanager
    def locked(self, checkout: Checkout) -> Iterator[None]:
        with psycopg.connect(self._address()) as connection:
            connection.execute(f"LOCK TABLE {TABLES} IN ACCESS EXCLUSIVE MODE")
            yield

    def model_file(self, checkout: Checkout, model_id: str) -> Path:
        return _archive_below(self.folder / "artifacts", model_id)

    def kill(self) -> None:
        """SIGKILL to the server; PostgreSQL lives on."""
        self.server.stop(signal.SIGKILL)

    def kill_postgres(self) -> None:
        """SIGKILL to PostgreSQL's first process."""
        os.kill(self._postmaster(), signal.SIGKILL)

    def kill_connection(self) -> bool:
        """SIGKILL to one of the processes of PostgreSQL that answer, if there is one."""
        with psycopg.connect(self._address(), autocommit=True) as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE datname = 'mlflow' AND pid != %s"
            found = connection.execute(query, [connection.info.backend_pid]).fetchone()
        if found:
            os.kill(found[0], signal.SIGKILL)
        return found is not None

    def start(self) -> None:
        """Start a server that was killed."""
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def _postmaster(self) -> int:
        return int(self._postmaster_file()[0])

    def _address(self) -> str:
        return f"host={self._postmaster_file()[4]} dbname=mlflow user=postgres"

    def _postmaster_file(self) -> list[str]:
        return (self.folder / "postgres/postmaster.pid").read_text().splitlines()


Store = SqliteStore | ServerStore


def _archive_below(folder: Path, model_id: str) -> Path:
    (file,) = folder.glob(f"**/{model_id}/**/*.pt2")
    return file
