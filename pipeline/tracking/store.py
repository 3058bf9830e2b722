"""The tracking store: check it, create it, keep processes apart, and say its errors in a line.

The store is MLflow's own default, `sqlite:///mlflow.db` in the working directory, unless
`MLFLOW_TRACKING_URI` names another.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import mlflow
import requests
import sqlalchemy.exc
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from pipeline.errors import PipelineError

if TYPE_CHECKING:  # it takes a second to import
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

# An unreachable server is reported within seconds; MLflow's default of 7 retries takes minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# The files that are read back are small; a bar for each would bury what the command prints.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what MLflow, its store and the file system raise into a PipelineError of one line."""
    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException) as error:
        uri = without_password(mlflow.get_tracking_uri())
        raise PipelineError(f"MLflow ({uri}): {first_line(error)}") from error
    except OSError as error:
        raise PipelineError(first_line(error)) from error


def first_line(error: Exception) -> str:
    """The first line of an error that is not empty, without passwords; else its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_password(lines[0]) if lines else type(error).__name__


def without_password(text: str) -> str:
    """The text with the user and the password left out of any address in it."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def check_store() -> None:
    """Make sure of a store in a SQLite file: that it can be written, and holds MLflow's tables.

    MLflow itself would retry for minutes to write; of several processes that create the tables at
    the same moment, all but one fail; and killed meanwhile, it leaves a store that never opens.

    Raises:
        PipelineError: if it cannot be written, or lacks the run that `mlflow run` has opened.
    """
    path = sqlite_file()
    if path is None:
        return
    if "MLFLOW_RUN_ID" in os.environ and not _has_content(path):
        raise lacks_the_run()
    exists = path.exists()
    parent = next(p for p in path.absolute().parents if p.exists())
    if exists and not path.is_file():
        problem = "is no file"
    elif exists and not os.access(path, os.W_OK):
        problem = "is not writable"
    elif not parent.is_dir() or not os.access(parent, os.W_OK):
        problem = f"cannot be created: {parent} is no folder that you may write to"
    else:
        if not _has_content(path):
            with one_process_at_a_time():
                if not _has_content(path):
                    _create_store(path)
        return
    raise PipelineError(
        f"the tracking store {path} {problem}; set MLFLOW_TRACKING_URI to one that can be written"
    )


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _create_store(path: Path) -> None:
    # under another name first, so that what has the right name is whole
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    store_in(partial)
    os.replace(partial, path)


def store_in(path: Path) -> "SqlAlchemyStore":
    """The store in a SQLite file, with its tables. New experiments keep their artifacts beside it.

    MLflow's own place for them is `mlruns` in the working directory. Under `mlflow run` that is the
    folder of the project's code, and of a Git address MLflow runs a clone that does not last.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    artifacts = path.absolute().parent / "mlruns"
    # MLflow reads both as addresses, in which % begins a code
    return SqlAlchemyStore(f"sqlite:///{quote(str(path))}", quote(str(artifacts)))


def local_folder() -> Path:
    """Where files that belong to the store lie: beside a local store, else the working directory.

    A local store is a SQLite file, or one of the folders that MLflow used before.
    """
    uri = mlflow.get_tracking_uri()
    path = sqlite_file()
    if path is None and is_local_uri(uri):
        path = Path(local_file_uri_to_path(uri))
    return path.absolute().parent if path else Path.cwd()


def sqlite_file() -> Path | None:
    """The file of the store, if it is a SQLite file; None of any other store."""
    uri = mlflow.get_tracking_uri()
    prefix = "sqlite:///"
    return Path(unquote(uri.removeprefix(prefix))) if uri.startswith(prefix) else None


@contextmanager
def one_process_at_a_time() -> Iterator[None]:
    """Keep the other processes of this machine that use the same SQLite store waiting."""
    path = sqlite_file()
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lacks_the_run() -> PipelineError:
    """The error where the run that `mlflow run` has opened is not in the store."""
    return PipelineError(
        f"MLFLOW_TRACKING_URI: got {without_password(mlflow.get_tracking_uri())}, which lacks the "
        f"run that `mlflow run` has opened: a relative path is looked for in {Path.cwd()}, where "
        "the project runs; allowed: a server, or the absolute path of a SQLite file, such as "
        "sqlite:////home/me/mlflow.db"
    )
