"""The faults: each is given a command that is not started, and disturbs it.

After each of them the same command is started once more, and must end well; `promises.losses`
looks. A further fault is a function and a line of the table `FAULTS`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.processes import worker_processes
from tests.faults.disk import filled
from tests.faults.promises import must_end_well, unclear_error
from tests.faults.stores import ServerStore
from tests.faults.trial import Trial

LOCKED = 60, 15  # seconds that a store is locked: in every fifth round, and in the others
CLOCK = Path(__file__).parent / "clock"  # what it holds is loaded by a command with a false clock


@dataclass(frozen=True)
class Fault:
    """What happens, and what disturbs a trial like this.

    what: happens.
    promise: what is promised in particular, beside `promises.PROMISES`.
    disturb: returns what was lost on the way.
    commands, stores: where it can happen.
    """

    what: str
    promise: str
    disturb: Callable[[Trial], list[str]]
    commands: tuple[str, ...] = ("train", "study")
    stores: tuple[str, ...] = ("SQLite", "server")


def parent_killed(trial: Trial) -> list[str]:
    for _ in range(2):
        process = trial.start()
        trial.some_moment()
        trial.kill(process)
    return []


def worker_killed(trial: Trial) -> list[str]:
    process = trial.start()
    while process.poll() is None and not worker_processes(process.pid):
        time.sleep(0.05)
    trial.some_moment(share=0.5)  # the rest is the start of the command, and its comparison
    workers = worker_processes(process.pid)
    if workers:
        os.kill(workers[0], signal.SIGKILL)
    else:
        trial.ends["met no worker"] += 1
    return must_end_well(trial, trial.end(process))


def server_killed(trial: Trial) -> list[str]:
    assert isinstance(trial.store, ServerStore)
    process = trial.start()
    trial.some_moment()
    trial.store.kill()
    time.sleep(trial.chance.uniform(0, 10))
    trial.store.start()
    return must_end_well(trial, trial.end(process))


def postgres_killed(trial: Trial) -> list[str]:
    """Its first process, with which all others end; the server starts it again."""
    assert isinstance(trial.store, ServerStore)
    process = trial.start()
    trial.some_moment()
    trial.store.kill_postgres()
    return must_end_well(trial, trial.end(process))


def connection_killed(trial: Trial) -> list[str]:
    """One of PostgreSQL's processes that answer; PostgreSQL starts anew by itself."""
    assert isinstance(trial.store, ServerStore)
    process = trial.start()
    trial.some_moment()
    if not trial.store.kill_connection():
        trial.ends["met no connection"] += 1
    return must_end_well(trial, trial.end(process))


def _signalled(trial: Trial, send: Callable[[subprocess.Popen], None]) -> list[str]:
    process = trial.start()
    trial.some_moment()
    send(process)
    code = trial.end(process)
    lost = [f"still RUNNING: {', '.join(trial.open_runs())}"] if trial.open_runs() else []
    if code in (0, -signal.SIGTERM, -signal.SIGINT):  # it had ended, or Python had not begun
        return lost
    if code != 130 or trial.last_line() != "interrupted":
        lost.append(f"it ended with {code}: {trial.last_line()}")
    return lost


def terminated(trial: Trial) -> list[str]:
    return _signalled(trial, lambda process: process.terminate())


def interrupted(trial: Trial) -> list[str]:
    """As a terminal does it: all processes of the group get the signal."""
    return _signalled(trial, lambda process: os.killpg(process.pid, signal.SIGINT))


def disk_full(trial: Trial) -> list[str]:
    """All files are on the disk: those of the store, and the checkpoints."""
    assert trial.disk, "this user may not mount a small disk"
    process = trial.start()
    trial.wait_for_an_epoch(process)  # before it, there may be no run yet
    time.sleep(trial.chance.uniform(0, 3))
    with filled(trial.disk):
        end = time.monotonic() + (15 if trial.store.waits_for_room else 120)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
    code = trial.end(process)
    lost = unclear_error(trial, code)
    if code and "the disk is full" not in trial.last_line():
        lost.append(f"the disk is not named: {trial.last_line()}")
    if code and trial.open_runs() and not trial.store.waits_for_room:
        lost.append(f"still RUNNING: {', '.join(trial.open_runs())}")
    return lost


def _checkpoints_damaged(trial: Trial, damage: Callable[[bytes], bytes]) -> list[str]:
    process = trial.start()
    trial.wait_for_an_epoch(process)
    trial.kill(process)
    time.sleep(2)  # its workers have noticed that it is gone
    for file in (trial.checkout.folder / "checkpoints").glob("*.pt"):
        file.write_bytes(damage(file.read_bytes()))
    return []


def checkpoint_truncated(trial: Trial) -> list[str]:
    return _checkpoints_damaged(
        trial, lambda content: content[: trial.chance.randrange(len(content))]
    )


def checkpoint_garbage(trial: Trial) -> list[str]:
    return _checkpoints_damaged(trial, lambda content: trial.chance.randbytes(len(content)))


def _must_name(trial: Trial, code: int, name: str) -> list[str]:
    """The loss if the last command did not end with an error that names a file."""
    last = trial.last_line()
    if code == 0 or not last.startswith("Error: ") or name not in last:
        return [f"the damaged {name} was not named: {code}, {last}"]
    return []


def _data_damaged(trial: Trial, damage: Callable[[bytes], bytes]) -> list[str]:
    files = sorted(Path(trial.checkout.folder, "data/MNIST/raw").iterdir())
    file = trial.chance.choice(files)
    content = file.read_bytes()
    file.write_bytes(damage(content))
    code = trial.end(trial.start())
    file.write_bytes(content)
    return _must_name(trial, code, file.name)


def data_truncated(trial: Trial) -> list[str]:
    return _data_damaged(trial, lambda content: content[: trial.chance.randrange(len(content))])


def data_bit_flipped(trial: Trial) -> list[str]:
    return _data_damaged(trial, lambda content: _with_a_bit_flipped(trial, content))


def _with_a_bit_flipped(trial: Trial, content: bytes) -> bytes:
    changed = bytearray(content)
    changed[trial.chance.randrange(len(changed))] ^= 1 << trial.chance.randrange(8)
    return bytes(changed)


def model_damaged(trial: Trial) -> list[str]:
    """A model of a finished command is cut, and evaluated."""
    code = trial.end(trial.start(), note=False)
    if code:
        return [f"it ended with {code}: {trial.last_line()}"]
    run = trial.chance.choice(trial.runs())
    (model,) = run.outputs.model_outputs
    file = trial.store.model_file(trial.checkout, model.model_id)
    content = file.read_bytes()
    file.write_bytes(content[: trial.chance.randrange(len(content))])
    uri = f"runs:/{run.info.run_id}/model"
    evaluation = trial.run("evaluate", "--model_uri", uri, "--experiment", trial.experiment)
    return _must_name(trial, trial.end(evaluation), uri)


def store_locked(trial: Trial) -> list[str]:
    process = trial.start()
    trial.wait_for_an_epoch(process)
    with trial.store.locked(trial.checkout):
        time.sleep(LOCKED[trial.chance.randrange(5) > 0])
        met_the_lock = process.poll() is None  # it cannot end well without the store
    if not met_the_lock:
        trial.ends["met no lock"] += 1
    return must_end_well(trial, trial.end(process))


def clock_set_back(trial: Trial) -> list[str]:
    """The clock of the command and of all later ones; half of the commands are killed after it."""
    offset = trial.checkout.folder / "clock_offset"
    offset.write_text("0")
    trial.checkout.environment.update(PYTHONPATH=str(CLOCK), CLOCK_OFFSET=str(offset))
    process = trial.start()
    trial.some_moment()
    offset.write_text("-3600")
    seen = trial.checkout.run(sys.executable, "-c", "import time; print(time.time())").stdout
    if not 3500 < time.time() - float(seen) < 3700:
        return ["the clock was not set back: nothing was tried"]
    if trial.chance.random() < 0.5:
        return must_end_well(trial, trial.end(process))
    time.sleep(trial.chance.uniform(1, 5))
    trial.kill(process)
    return []


def two_at_once(trial: Trial) -> list[str]:
    """Of two studies, one does the work; the other says so, or repeats the result."""
    processes = [trial.start(), trial.start()]
    lost, codes = [], []
    for process in processes:
        codes.append(trial.end(process))
        refused = "this study is running already" in trial.last_line()
        if codes[-1] and not (refused and trial.command == "study"):
            lost.append(f"one of the two ended with {codes[-1]}: {trial.last_line()}")
    return lost if 0 in codes else [*lost, "neither of the two ended well"]


ENDS_WELL = "it waits, and ends well"
NAMES_FILE = "one line names the file"
FAULTS = {
    "parent": Fault(
        "SIGKILL of the command, twice, at random moments", "the next start goes on", parent_killed
    ),
    "worker": Fault(
        "SIGKILL of a worker at a random moment",
        "the study ends well",
        worker_killed,
        commands=("study",),
    ),
    "server": Fault(
        "SIGKILL of the server at a random moment; it is started again within 10 s",
        ENDS_WELL,
        server_killed,
        stores=("server",),
    ),
    "postgres": Fault(
        "SIGKILL of all of PostgreSQL at a random moment",
        ENDS_WELL,
        postgres_killed,
        stores=("server",),
    ),
    "connection": Fault(
        "SIGKILL of a process of PostgreSQL that answers, at a random moment",
        ENDS_WELL,
        connection_killed,
        stores=("server",),
    ),
    "terminate": Fault("SIGTERM at a random moment", "all runs are closed at once", terminated),
    "interrupt": Fault("Ctrl-C at a random moment", "all runs are closed at once", interrupted),
    "disk": Fault(
        "a full disk after an epoch, which has room again later",
        "one line says that the disk is full, or it waits",
        disk_full,
    ),
    "checkpoint-cut": Fault(
        "SIGKILL, and the checkpoints truncated", "trained anew", checkpoint_truncated
    ),
    "checkpoint-garbage": Fault(
        "SIGKILL, and garbage in the checkpoints", "trained anew", checkpoint_garbage
    ),
    "data-cut": Fault("a truncated data file, restored later", NAMES_FILE, data_truncated),
    "data-bit": Fault("a flipped bit in a data file, restored later", NAMES_FILE, data_bit_flipped),
    "locked": Fault("the store locked for 15 s or a minute", ENDS_WELL, store_locked),
    "model": Fault(
        "a truncated model, evaluated",
        "one line names the model; others can be used",
        model_damaged,
    ),
    "clock": Fault(
        "a clock that jumps back an hour at a random moment",
        "it ends well; if it is killed, the next start goes on",
        clock_set_back,
    ),
    "twice": Fault(
        "two identical commands at once",
        "two trainings end well; of two studies, one may be refused",
        two_at_once,
    ),
}
