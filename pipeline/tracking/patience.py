"""Wait for a store that is away for a while, instead of giving up a training.

    with patience(minutes=10):
        run.log_metrics({"train_loss": 0.1}, step=3)  # while a server is away: waits, then logs

A store is away if its server cannot be reached or answers with an error of its own (5xx), if its
database refuses connections, or if another process has locked its SQLite file.

The functions that log and read are decorated with `waits_for_store`. They may be repeated, because
what has arrived already is not logged twice.
"""

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    HTTPError,
    RetryError,
    Timeout,
)
from sqlalchemy.exc import InterfaceError, OperationalError
from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.tracking.store import first_line, sqlite_file, store_address

RETRY_SECONDS = 2.0
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class StoreAway(PipelineError):
    """The store has been away for longer than the patience."""


@dataclass
class _Settings:
    """Of this process: how long it waits, whether it says so, and whether it has said so."""

    seconds: float = 0.0
    quiet: bool = False
    announced: bool = False


_settings = _Settings()
_announcing = threading.Lock()
_no_waiting = ContextVar("_no_waiting", default=False)  # of this thread


@contextmanager
def patience(minutes: float, *, quiet: bool = False) -> Iterator[None]:
    """Have all threads of this process wait for a store that is away, in the `with` block.

    Args:
        minutes: how long a call waits before it raises `StoreAway`.
        quiet: do not print that there is an outage.
    """
    before = _settings.seconds, _settings.quiet
    retries = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    _settings.seconds, _settings.quiet = 60 * minutes, quiet or _settings.quiet
    if minutes:
        # MLflow itself would repeat single requests, even those that must not be sent twice
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        yield
    finally:
        _settings.seconds, _settings.quiet = before
        _settings.announced = False
        if retries is not None:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = retries
        elif minutes:
            del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]


@contextmanager
def without_waiting() -> Iterator[None]:
    """Skip the rest of the `with` block if the store is away; for work that may be skipped."""
    token = _no_waiting.set(True)
    try:
        yield
    except Exception as error:
        if not is_outage(error):
            raise
        _announce()
    else:
        _announce_end()
    finally:
        _no_waiting.reset(token)


def waits_for_store(
    what: str,
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Decorate a function that uses the store, so that it waits for a store that is away.

    Args:
        what: it does, for the error, such as `logging metrics`.
    """

    def decorate(call: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @functools.wraps(call)
        def waiting(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            return until_it_answers(what, lambda: call(*args, **kwargs))

        return waiting

    return decorate


def until_it_answers(what: str, call: Callable[[], _Result]) -> _Result:
    """What a call returns, which is repeated while the store is away.

    Args:
        what: the call does, for the error.
        call: may be repeated after any part of it has arrived.

    Raises:
        StoreAway: if the store was away for longer than the patience.
    """
    first_error: Exception | None = None
    began = time.monotonic()
    while True:
        try:
            result = call()
        except StoreAway:  # of a call within this one, which has waited
            raise
        except Exception as error:
            if not is_outage(error) or not _settings.seconds or _no_waiting.get():
                raise
            first_error = first_error or error
        else:
            if first_error:
                _announce_end()
            return result
        left = began + _settings.seconds - time.monotonic()
        if left <= 0:
            raise StoreAway(
                f"{store_address()} has been away for {_settings.seconds / 60:g} minutes, "
                f"which began while {what}: {first_line(first_error)}"
            ) from first_error
        _announce()
        time.sleep(min(RETRY_SECONDS, left))


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the store is away, and not that something is wrong."""
    # MLflow raises its own exception in place of the other one
    return any(map(_tells_of_outage, (error, error.__cause__, error.__context__)))


def _tells_of_outage(error: BaseException | None) -> bool:
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code >= 500
    # the third is that of an answer which breaks off
    if isinstance(error, (ConnectionError, Timeout, ChunkedEncodingError, RetryError)):
        return True
    if isinstance(error, (OperationalError, InterfaceError)):
        return sqlite_file() is None or "is locked" in str(error.orig)
    return False


def _announce() -> None:
    with _announcing:
        if not _settings.announced and not _settings.quiet:
            _settings.announced = True
            minutes = _settings.seconds / 60
            _print(f"{store_address()} does not answer; waiting for it, up to {minutes:g} minutes")


def _announce_end() -> None:
    with _announcing:
        if _settings.announced:
            _settings.announced = False
            _print(f"{store_address()} answers again")


def _print(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
