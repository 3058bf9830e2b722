"""Try each fault, print what it came to, and add it to results/faults.md.

python -m tests.faults                                20 rounds of everything: many hours
python -m tests.faults worker disk --rounds 3         three further rounds of two faults
python -m tests.faults --command train --store SQLite
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import date
from functools import cache
from pathlib import Path

from pipeline.machine import cpu
from tests.conftest import PROJECT
from tests.faults.disk import small_disk
from tests.faults.faults import FAULTS
from tests.faults.promises import Undisturbed, losses
from tests.faults.report import COMMANDS, STORES, Part, begun, keep, known_parts, table
from tests.faults.stores import ServerStore, SqliteStore, Store
from tests.faults.trial import Trial, new_trial


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--command", choices=COMMANDS, help="both, if it is not given")
    parser.add_argument("--store", choices=STORES, help="both, if it is not given")
    parser.add_argument(
        "--results", type=Path, default=PROJECT / "results", help="folder of faults.json and .md"
    )
    given = parser.parse_args()
    unknown = set(given.faults) - FAULTS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; allowed: {', '.join(FAULTS)}")
    rows = [
        (name, command, store)
        for store in STORES
        for name, fault in FAULTS.items()
        for command in COMMANDS
        if name in (given.faults or FAULTS)
        and command in fault.commands
        and store in fault.stores
        and given.command in (None, command)
        and given.store in (None, store)
    ]
    lost = False
    with Harness(given.results) as harness:
        for row in rows:
            for _ in range(given.rounds):
                lost = bool(harness.try_once(*row)) or lost
    print("\n".join(table(known_parts(given.results))))
    sys.exit(lost)


class Harness(ExitStack):
    """The disk, the stores and the undisturbed commands that all trials share."""

    def __init__(self, results: Path) -> None:
        super().__init__()
        self._results = results
        self._folder, mounted = self.enter_context(small_disk())
        self.disk = self._folder if mounted else None
        self._stores: dict[str, Store] = {"SQLite": SqliteStore()}
        self._undisturbed: dict[str, Undisturbed] = {}

    def try_once(self, name: str, command: str, store: str) -> list[str]:
        """Try a fault, keep what was found, and return what was lost."""
        new = Part(name, command, store, commit=_commit(), machine=_machine())
        part, rounds = begun(self._results, new)
        undisturbed = self.undisturbed(command)
        trial = new_trial(
            self._folder / f"{name}-{command}-{store}-{rounds + 1}",
            command,
            self.store(store),
            seconds=undisturbed.seconds,
            disk=self.disk,
        )
        found = FAULTS[name].disturb(trial) + losses(trial, undisturbed)
        line = f"{trial.experiment}: {'; '.join(found) or 'nothing lost'}"
        print(f"{time.strftime('%H:%M:%S')} {line} ({dict(trial.ends)})", flush=True)
        if found:
            self._save(trial)
        shutil.rmtree(trial.checkout.folder)
        part.add(found, trial.ends, str(date.today()))
        keep(self._results, part)
        return found

    def undisturbed(self, command: str) -> Undisturbed:
        """What the undisturbed command comes to, on SQLite."""
        if command not in self._undisturbed:
            trial = new_trial(self._folder / f"undisturbed-{command}", command, SqliteStore())
            started = time.monotonic()
            if trial.end(trial.start()) != 0:
                sys.exit(f"the undisturbed {command} failed:\n{trial.screens[-1]}")
            seconds = time.monotonic() - started
            print(f"the undisturbed {command} takes {seconds:.0f} s", flush=True)
            histories = {name: found[0] for name, found in trial.histories().items()}
            self._undisturbed[command] = Undisturbed(seconds, trial.table(), histories)
        return self._undisturbed[command]

    def store(self, name: str) -> Store:
        """The store of this name; the server is started when it is needed."""
        if name not in self._stores:
            server = ServerStore(self._folder / "server")
            self.callback(server.stop)
            self._stores[name] = server
        return self._stores[name]

    def _save(self, trial: Trial) -> None:
        """Keep what a trial with losses has left."""
        kept = Path(tempfile.gettempdir(), f"faults-{trial.experiment}")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(trial.checkout.folder, kept)
        (kept / "screens.txt").write_text("\n\n".join(trial.screens))
        print(f"what it left is kept in {kept}", flush=True)


def _machine() -> str:
    return f"{cpu()}; Python {platform.python_version()}"


@cache  # of the start: another commit may come while it runs
def _commit() -> str:
    """The commit that is tried, with + if it has been changed."""
    commit = _git("rev-parse", "--short", "HEAD")
    return f"{commit}+" if _git("status", "--porcelain", "pipeline", "server", "tests") else commit


def _git(*words: str) -> str:
    command = ["git", "-C", str(PROJECT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
