"""MLflow's tracking server on a database, with its artifacts in a folder."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.postgres import ServerError

SECONDS_TO_START, SECONDS_TO_STOP = 180, 10
# Starts a command, and kills its whole process group when the standard input ends. It is a pipe of
# this process, so the server does not outlive it, however it ends.
WITH_PARENT = 'exec 3<&0; { cat <&3; kill -KILL 0; } & exec "$@" 3<&-'
ADMIN = "admin"


@contextmanager
def tracking_server(
    database: str,
    folder: Path,
    *,
    host: str,
    port: int,
    workers: int,
    passwords: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """`mlflow server` until the end of the `with` block; it answers when the block begins.

    Clients send artifacts to the server, so they need no access to the folder.

    Args:
        database: the address of the database for runs and models.
        folder: of the artifacts.
        host, port: where it listens.
        workers: how many processes answer requests.
        passwords: the address of the database for users and their passwords; None asks for no
            passwords.

    Raises:
        ServerError: if it does not start.
    """
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)),
        *("--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")),
        *("--workers", str(workers), "--uvicorn-opts", "--log-level=warning"),
    ]
    # without these jobs, which only its pages for GenAI need, MLflow starts seven processes less
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    environment.pop("MLFLOW_TRACKING_URI", None)  # of a client
    if passwords:
        command += ["--app-name", "basic-auth"]
        environment |= _password_settings(folder, passwords)
    _check_port(host, port)
    # a session of its own, so that Ctrl-C in a terminal reaches only this process
    process = subprocess.Popen(
        ["sh", "-c", WITH_PARENT, "sh", *command],
        env=environment,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _wait_for(process, f"http://{host}:{port}/health")
        yield process
    finally:
        _stop(process)


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServerError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _password_settings(folder: Path, database: str) -> dict[str, str]:
    """The environment of MLflow's basic-auth app; the admin's first password is a random one."""
    password_file = folder / "admin-password"
    if not password_file.exists() or not password_file.read_text():
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(16))
    settings = folder / "basic_auth.ini"
    # everybody may log to each other's experiments; only the creator and the admin may delete them
    settings.write_text(f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = {database}\n")
    print(f"the password of {ADMIN} is in {password_file}", flush=True)
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password_file.read_text(),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
    }


def _wait_for(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServerError(f"mlflow server ended with exit code {process.returncode}; see above")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:  # it does not listen yet
            time.sleep(0.2)
    raise ServerError(f"mlflow server does not answer at {address}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server with its processes."""
    for number, seconds in ((signal.SIGTERM, SECONDS_TO_STOP), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
        return
