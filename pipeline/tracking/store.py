"""The tracking store: check and create it, keep processes apart, and report its errors in one line.

The store is MLflow's own default, `sqlite:///mlflow.db` in the working directory, unless
`MLFLOW_TRACKING_URI` names another.
"""

import fcntl
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import mlflow
import requests
import sqlalchemy
import sqlalchemy.exc
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from pipeline.errors import PipelineError
from pipeline.tracking.credentials import has_unencoded_credentials, without_credentials
from pipeline.tracking.full_disk import is_full_disk

if TYPE_CHECKING:  # importing it takes a second
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

# An unreachable server is reported within seconds; MLflow's default of 7 retries takes minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# The files that are read back are small, and a progress bar for each would hide the output.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# These two loggers print a traceback, or a warning for each attempt, of the error that is reported
# in one line.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

_IN_MEMORY = ":memory:"  # what SQLite takes for no file


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn the errors of MLflow, of its store and of the file system into a PipelineError."""
    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException) as error:
        raise PipelineError(f"MLflow ({store_address()}): {first_line(error)}") from error
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"a package is missing ({first_line(error)}); install it, or, if the store needs it, "
            "use another store"
        ) from error
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"a file or an answer that was read is no text in UTF-8 ({error.reason})"
        ) from error
    except UnicodeEncodeError as error:
        # its text may hold a password
        raise PipelineError(
            "a name of a file or folder, an address, MLFLOW_TRACKING_USERNAME or another value "
            f"holds characters that cannot be encoded ({error.reason}); "
            "give the folder another name, or set the value to text in UTF-8"
        ) from error
    except OSError as error:
        raise PipelineError(first_line(error)) from error


@contextmanager
def errors_printed(what: str) -> Iterator[None]:
    """Print an error of the store instead of raising it, where something else matters more.

    Args:
        what: does not happen, such as `the run could not be closed`.
    """
    try:
        with plain_errors():
            yield
    except PipelineError as problem:
        print(f"{what}: {problem}", file=sys.stderr)


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not empty, without credentials; else its class.

    Of a full disk, the text says that and where, which the first line of a database's error does
    not. A line in which SQLAlchemy tells when the database failed is left out.
    """
    if is_full_disk(error):
        filename = getattr(error, "filename", None)
        return (
            f"the disk is full: {filename or local_folder()} has no room; make some and try again"
        )
    lines = [line.strip() for line in without_credentials(str(error)).splitlines()]
    told = (line for line in lines if line and not line.startswith("(raised as a result of Query-"))
    return next(told, type(error).__name__)


def ensure_store() -> None:
    """Check that the store can be used; a store in a SQLite file is created if it is missing.

    MLflow itself would retry for minutes to write to a file that is not writable. Of several
    processes that create the tables at the same time, all but one fail. If MLflow is killed while
    it creates the tables, it leaves a store that can never be opened.

    Raises:
        PipelineError: if the store cannot be written, if it is a database whose Python driver is
            not installed, or if it lacks the run that `mlflow run` has opened.
    """
    path = sqlite_file()
    if path is None:
        _check_address(mlflow.get_tracking_uri())
        return
    if "MLFLOW_RUN_ID" in os.environ and not _has_content(path):
        raise lacks_the_run()
    problem = _problem_of(path)
    if problem:
        raise PipelineError(
            f"the tracking store {path} {problem}; "
            "set MLFLOW_TRACKING_URI to one that can be written"
        )
    if not _has_content(path):
        with one_process_at_a_time():
            if not _has_content(path):
                _create_store(path)


def _check_address(uri: str) -> None:
    if has_unencoded_credentials(uri):
        raise PipelineError(
            f"MLFLOW_TRACKING_URI: got {without_credentials(uri)} with a user or password in which "
            "a character such as @ or / ends it too early, or with an @ in its path; write @ as "
            "%40, / as %2F, ? as %3F and # as %23, or, for a tracking server, leave user and "
            "password out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    try:
        scheme = urlsplit(uri).scheme
        if scheme.partition("+")[0] in DATABASE_ENGINES:
            url = sqlalchemy.make_url(uri)
            url.get_dialect().import_dbapi()
            if scheme.startswith("sqlite") and url.database in (None, "", _IN_MEMORY):
                raise ValueError("it names no file, and what is kept in memory is lost at the end")
    except ValueError as error:
        problem = f"is no valid address ({first_line(error)}); use"
    except ImportError as error:
        problem = f"needs a driver that is missing ({first_line(error)}); install it, or use"
    else:
        return
    raise PipelineError(
        f"MLFLOW_TRACKING_URI: got {without_credentials(uri)}, which {problem} a tracking server, "
        "or the absolute path of a SQLite file, such as sqlite:////home/me/mlflow.db"
    )


def _problem_of(path: Path) -> str | None:
    """Why a SQLite file cannot be written or created; None if it can."""
    if path.exists():
        if not path.is_file():
            return "is no file"
        if not os.access(path, os.W_OK):
            return "is not writable"
        # SQLite keeps its journal beside the file, where a link leads, and this project its lock
        folders, fault = [path.absolute().parent, path.resolve().parent], "cannot be changed"
    else:
        folders = [next(parent for parent in path.absolute().parents if parent.exists())]
        fault = "cannot be created"
    for folder in folders:
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            return f"{fault}: {folder} is no folder that you may write to"
    return None


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _create_store(path: Path) -> None:
    # under another name first, so that a file with the right name is complete
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    store_in(partial)
    os.replace(partial, path)


def store_in(path: Path) -> "SqlAlchemyStore":
    """The store in a SQLite file, with its tables. New experiments keep their artifacts beside it.

    MLflow itself would keep them in `mlruns` in the working directory. Under `mlflow run`, that is
    the folder of the project's code; for a Git address, it is a clone that MLflow deletes.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    artifacts = path.absolute().parent / "mlruns"
    # MLflow reads both as addresses, in which % begins a code
    return SqlAlchemyStore(f"sqlite:///{quote(str(path))}", quote(str(artifacts)))


def store_address() -> str:
    """The address of the store, without credentials."""
    return without_credentials(mlflow.get_tracking_uri())


def local_folder() -> Path:
    """The folder for files that belong to the store.

    It is the folder of a local store, which is a SQLite file or one of the folders that MLflow
    used before; of any other store it is the working directory.
    """
    uri = mlflow.get_tracking_uri()
    path = sqlite_file()
    if path is None and is_local_uri(uri):
        path = Path(local_file_uri_to_path(uri))
    return path.absolute().parent if path else Path.cwd()


def is_on_this_machine() -> bool:
    """Whether the store is a file or a folder, so that only processes of this machine use it."""
    return sqlite_file() is not None or is_local_uri(mlflow.get_tracking_uri())


def sqlite_file() -> Path | None:
    """The file of the store, if it is a SQLite file; None for any other store.

    It is the file that SQLAlchemy opens for MLflow: without a query such as `?timeout=5`.
    """
    uri = mlflow.get_tracking_uri()
    of_sqlite = re.match(r"sqlite(\+\w+)?:///", uri)  # the address may name a driver, too
    database = sqlalchemy.make_url(uri).database if of_sqlite else None
    return None if database in (None, "", _IN_MEMORY) else Path(database)


@contextmanager
def one_process_at_a_time() -> Iterator[None]:
    """Hold a lock that the other processes of this machine with the same SQLite store wait for.

    For any other store, there is no lock.
    """
    path = sqlite_file()
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lacks_the_run() -> PipelineError:
    """The error for a store that lacks the run that `mlflow run` has opened."""
    return PipelineError(
        f"MLFLOW_TRACKING_URI: got {store_address()}, which lacks the run that `mlflow run` has "
        f"opened; a relative path starts at {Path.cwd()}, where the project runs; allowed: a "
        "server, or the absolute path of a SQLite file, such as sqlite:////home/me/mlflow.db"
    )


def environment_of_client() -> dict[str, str]:
    """The environment variables by which a process on another machine uses the same store.

    They may contain passwords.
    """
    own = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    own.pop("MLFLOW_RUN_ID", None)
    return {**own, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
