"""`make server`: PostgreSQL, and MLflow's tracking server in front of it, until it is stopped."""

import fcntl
import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from server.postgres import ServerError, postgres
from server.tracking import tracking_server


@click.command()
@click.option(
    "--folder",
    default="server-data",
    show_default=True,
    help="where runs and artifacts are kept; created if it is missing",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="IPv4 address to listen on")
@click.option(
    "--port",
    default=5000,
    show_default=True,
    help="port to listen on",
    type=click.IntRange(1, 65535),
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    help="processes that answer requests",
    type=click.IntRange(min=1),
)
@click.option("--auth", is_flag=True, help="ask for a user name and a password")
def main(folder: Path, host: str, port: int, workers: int, auth: bool) -> None:
    """Serve a tracking server on PostgreSQL until Ctrl-C or SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        _serve(folder, host=host, port=port, workers=workers, auth=auth)
    except (ServerError, OSError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("stopped")


def _serve(folder: Path, *, host: str, port: int, workers: int, auth: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ["mlflow", "passwords"] if auth else ["mlflow"]
    with (
        _alone(folder),
        postgres(folder / "postgres", names) as (runs, *passwords),
        tracking_server(
            runs,
            folder,
            host=host,
            port=port,
            workers=workers,
            passwords=passwords[0] if auth else None,
        ) as process,
    ):
        if not auth and not _is_loopback(host):
            click.echo("everybody who reaches this address may change and delete runs; see AUTH=1")
        name = reached_at(host)
        if name != host:
            click.echo(f"on other machines, write the address of this one in place of {name}")
        click.echo(f"the server is ready: export MLFLOW_TRACKING_URI=http://{name}:{port}")
        raise ServerError(f"mlflow server ended with exit code {process.wait()}; see above")


def reached_at(host: str) -> str:
    """The host by which this machine reaches a server; 0.0.0.0 stands for all of its addresses."""
    address = ipaddress.ip_address(socket.gethostbyname(host))
    return "127.0.0.1" if address.is_unspecified else host


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a server's folder, which ends with the process, however it ends."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError(f"a server works in {folder} already") from None
        yield


if __name__ == "__main__":
    main(prog_name="python -m server")
