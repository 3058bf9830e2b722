"""A lock in the store, which keeps processes on different machines apart.

The holder writes its name and a counter into a tag of a run, again and again. A holder whose
counter stands still for `BEATS_MISSED` beats has died, and another process takes over. Nobody
compares clocks, as those of two machines may differ. A tag that somebody has set by hand to
anything else counts as a holder on an unknown machine: its process cannot be looked for, so only a
tag that goes on changing is alive.
"""

import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import mlflow

from pipeline.errors import PipelineError
from pipeline.tracking.patience import waits_for_store
from pipeline.tracking.vocabulary import Tag

BEAT_SECONDS = 10.0
BEATS_MISSED = 6  # until a holder counts as dead
SETTLE_SECONDS = 2.0  # after which the last of several that write at once has written


def _end_at_once() -> None:
    """End this process without touching the runs, which another one works on."""
    print("Error: another process has taken this study over", file=sys.stderr, flush=True)
    os._exit(1)  # worker processes notice it and end, too


@contextmanager
def lease(run_id: str, on_loss: Callable[[], None] = _end_at_once) -> Iterator[None]:
    """Hold the lock of a run.

    Args:
        run_id: the run whose tag is the lock.
        on_loss: called, in another thread, if another process has taken the lock, because this one
            was not heard from.

    Raises:
        PipelineError: if another process holds it.
        StoreAway: if the store is away for longer than the patience while the lock is taken.
    """
    me = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"
    _take(run_id, me)
    ended = threading.Event()

    def keep() -> None:
        number = 0
        while not ended.wait(BEAT_SECONDS):
            with suppress(Exception):  # a store that cannot be reached now may be so later
                if _holder(_value(run_id)) not in (me, ""):
                    on_loss()
                    return
                number += 1
                _beat(run_id, me, number)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(Exception):  # the next one takes the lease of a process that has ended
            if _holder(_value(run_id)) == me:
                mlflow.MlflowClient().delete_tag(run_id, Tag.LEASE)


@waits_for_store("taking the lock of a study")
def _take(run_id: str, me: str) -> None:
    """Take the lock, or raise a PipelineError that names the holder."""
    value = _value(run_id)
    if _holder(value) != me and not is_abandoned(run_id):
        raise _held(value)
    _beat(run_id, me, 0)
    time.sleep(SETTLE_SECONDS)
    value = _value(run_id)
    if _holder(value) != me:  # another one has written at the same moment
        raise _held(value)


def is_abandoned(run_id: str) -> bool:
    """Whether nobody holds the lock of a run any more; this may take a minute to see."""
    value = _value(run_id)
    if not value or _has_died_here(value):
        return True
    host, _ = _place(value)
    print(f"looking whether this study is still running on {host}", file=sys.stderr, flush=True)
    for _ in range(BEATS_MISSED):
        time.sleep(BEAT_SECONDS)
        now = _value(run_id)
        if now != value:
            return not now
    return True


def _has_died_here(value: str) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    host, process = _place(value)
    if host != socket.gethostname() or process is None:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user
        pass
    return False


def _held(value: str) -> PipelineError:
    host, process = _place(value)
    where = f"on {host}" if process is None else f"on {host} in the process {process}"
    return PipelineError(
        f"this study is running already, {where}; wait for it, or stop it and start again to "
        "continue"
    )


def _place(value: str) -> tuple[str, int | None]:
    """The machine and the process of the holder, as far as the tag tells them."""
    match value.split():
        case [host, process, _, _] if re.fullmatch("[0-9]{1,9}", process):
            return host, int(process)
    return f"an unknown machine (its tag {Tag.LEASE} is {value!r})", None


def _beat(run_id: str, holder: str, number: int) -> None:
    mlflow.MlflowClient().set_tag(run_id, Tag.LEASE, f"{holder} {number}")


def _value(run_id: str) -> str:
    return mlflow.get_run(run_id).data.tags.get(Tag.LEASE, "")


def _holder(value: str) -> str:
    return value.rpartition(" ")[0]
