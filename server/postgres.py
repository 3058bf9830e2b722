"""PostgreSQL with its data in a folder of its own, started and stopped with the server.

It listens on no network, only on a Unix socket in a folder that nobody else may enter. PostgreSQL
refuses to run as root, so root starts it as the user `postgres`, which Debian's package creates.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBIANS = Path("/usr/lib/postgresql")  # where its package has the programs, by version
UNPRIVILEGED = "postgres"
WATCH_SECONDS = 2.0


class ServerError(Exception):
    """A reason in one line why the server cannot be started."""


@contextmanager
def postgres(folder: Path, databases: list[str]) -> Iterator[list[str]]:
    """PostgreSQL until the end of the `with` block.

    If a PostgreSQL works in this folder already, because the process that started it was killed,
    it is stopped first. If it ends meanwhile, it is started again.

    Args:
        folder: of the data; created if it is missing.
        databases: their names; those that are missing are created.

    Yields:
        The address of each database, as SQLAlchemy understands it.

    Raises:
        ServerError: if PostgreSQL is not installed, or does not start.
    """
    programs = find_programs()
    if programs is None:
        raise ServerError("PostgreSQL is not installed; on Debian, `make postgres` installs it")
    _make_folder(folder)
    control = [str(programs / "pg_ctl"), "--pgdata", str(folder), "--wait"]
    if not (folder / "PG_VERSION").exists():
        _run(
            *(str(programs / "initdb"), "--pgdata", str(folder), "--username", UNPRIVILEGED),
            *("--encoding", "UTF8", "--no-locale", "--auth", "trust"),
        )
    elif _try(*control, "status") is None:
        _run(*control, "stop", "--mode", "fast")
    # the path of a socket must be short
    with tempfile.TemporaryDirectory(prefix="postgres-") as socket_folder:
        _give_away(Path(socket_folder))
        settings = f"-c listen_addresses='' -c unix_socket_directories={socket_folder}"
        start = (*control, "start", "--options", settings, "--log", str(folder / "log"))
        _run(*start)
        done = threading.Event()
        watch = threading.Thread(target=_start_again, args=(folder, start, done), daemon=True)
        watch.start()
        try:
            connection = ["--host", socket_folder, "--username", UNPRIVILEGED]
            for name in databases:
                if _try(str(programs / "psql"), *connection, "--command", "", name):
                    _run(str(programs / "createdb"), *connection, name)
            address = f"postgresql+psycopg://{UNPRIVILEGED}@/{{}}?host={socket_folder}"
            yield [address.format(name) for name in databases]
        finally:
            done.set()
            watch.join()
            if _runs(folder):
                _run(*control, "stop", "--mode", "fast")


def _start_again(folder: Path, start: tuple[str, ...], done: threading.Event) -> None:
    """Start a PostgreSQL that has ended, such as one that was killed, again and again."""
    while not done.wait(WATCH_SECONDS):
        if not _runs(folder):
            problem = _try(*start)
            message = f"could not be started again: {problem}" if problem else "was started again"
            print(f"PostgreSQL has ended, and {message}", file=sys.stderr, flush=True)


def _runs(folder: Path) -> bool:
    """Whether the first process of the PostgreSQL in a folder lives."""
    try:
        os.kill(int((folder / "postmaster.pid").read_text().split()[0]), 0)
    except PermissionError:  # of another user
        return True
    except (OSError, ValueError, IndexError):
        return False
    return True


def find_programs() -> Path | None:
    """The folder of PostgreSQL's programs; of several versions, the newest; None without any."""
    on_path = shutil.which("pg_ctl")
    if on_path:
        return Path(on_path).resolve().parent
    found = sorted(DEBIANS.glob("*/bin/pg_ctl"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _give_away(folder)
    if _try("test", "-w", str(folder)):
        raise ServerError(
            f"the user {UNPRIVILEGED} may not write to {folder}, perhaps because a folder above it "
            "is private; choose another one (make server FOLDER=…), or do not start the server "
            "as root"
        )


def _give_away(folder: Path) -> None:
    """Let the unprivileged user own a folder, if we are root."""
    if os.geteuid() == 0:
        try:
            shutil.chown(folder, UNPRIVILEGED)
        except LookupError:
            raise ServerError(
                f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED}; "
                "do not start the server as root"
            ) from None


def _run(*command: str) -> None:
    problem = _try(*command)
    if problem:
        raise ServerError(problem)


def _try(*command: str) -> str | None:
    """Run a program as a user other than root; the reason if it fails, else None."""
    as_user = ["runuser", "-u", UNPRIVILEGED, "--"] if os.geteuid() == 0 else []
    # a file, because the PostgreSQL that pg_ctl starts would keep a pipe open
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [*as_user, *command], cwd="/", stdout=output, stderr=subprocess.STDOUT, check=False
        )
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    if done.returncode == 0:
        return None
    return f"{Path(command[0]).name} failed: {lines[-1] if lines else f'exit {done.returncode}'}"
