"""The faults: each is given a study that is not started, and disturbs it.

After each of them the study is started once more, and must end well; `trial.losses` looks.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.conftest import last_line
from tests.end_to_end.processes import worker_processes
from tests.faults.trial import Trial


@dataclass(frozen=True)
class Fault:
    """What happens, and what disturbs a study like this; it returns what was lost on the way."""

    what: str
    disturb: Callable[[Trial], list[str]]


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
    trial.some_moment()
    for worker in worker_processes(process.pid)[:1]:
        os.kill(worker, 9)
    code = trial.end(process)
    trial.note_finished()
    return [f"the study ended with {code}: {last_line(trial.screens[-1])}"] if code else []


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


def _data_damaged(trial: Trial, damage: Callable[[bytes], bytes]) -> list[str]:
    """The study must name the file; then the file is restored."""
    files = sorted(Path(trial.checkout.folder, "data/MNIST/raw").iterdir())
    file = trial.chance.choice(files)
    content = file.read_bytes()
    file.write_bytes(damage(content))
    code = trial.end(trial.start())
    file.write_bytes(content)
    last = last_line(trial.screens[-1])
    if code == 0 or not last.startswith("Error: ") or file.name not in last:
        return [f"the damaged {file.name} was not named: {code}, {last}"]
    return []


def data_truncated(trial: Trial) -> list[str]:
    return _data_damaged(trial, lambda content: content[: trial.chance.randrange(len(content))])


def data_bit_flipped(trial: Trial) -> list[str]:
    def damage(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[trial.chance.randrange(len(changed))] ^= 1 << trial.chance.randrange(8)
        return bytes(changed)

    return _data_damaged(trial, damage)


def two_at_once(trial: Trial) -> list[str]:
    """One of the two does the work; the other says that the study is running, or repeats it."""
    processes = [trial.start(), trial.start()]
    codes = [trial.end(process) for process in processes]
    trial.note_finished()
    refused = [screen for screen, code in zip(trial.screens, codes, strict=True) if code]
    if 0 not in codes:
        return [f"neither study ended well: {' / '.join(map(last_line, refused))}"]
    return [
        f"the second study did not say why it ended: {last_line(screen)}"
        for screen in refused
        if "this study is running already" not in last_line(screen)
    ]


FAULTS = {
    "parent": Fault("SIGKILL of the command, twice, at random moments", parent_killed),
    "worker": Fault("SIGKILL of a worker at a random moment", worker_killed),
    "checkpoint-cut": Fault("killed, and its checkpoints truncated", checkpoint_truncated),
    "checkpoint-garbage": Fault("killed, and garbage in its checkpoints", checkpoint_garbage),
    "data-cut": Fault("a truncated data file, restored later", data_truncated),
    "data-bit": Fault("a flipped bit in a data file, restored later", data_bit_flipped),
    "twice": Fault("two identical studies started at once", two_at_once),
}
