"""Try each fault, print a table, and write it to results/faults.md.

python -m tests.faults                       20 rounds of each fault: hours
python -m tests.faults --rounds 1 worker     one round of one fault; nothing is written
"""

import argparse
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from pipeline.machine import cpu
from tests.conftest import PROJECT
from tests.faults.faults import FAULTS
from tests.faults.trial import losses, new_trial

PROMISES = """\
No finished run is lost. None is double. None stays RUNNING. The final table, and every metric of
every epoch, are those of the undisturbed study, bit by bit. No command prints a traceback. Every
later start of the same command goes on."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    unknown = set(arguments.faults) - FAULTS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; allowed: {', '.join(FAULTS)}")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        rows = tried(Path(folder), arguments.faults or list(FAULTS), arguments.rounds)
    table = "\n".join(
        ["| fault | rounds | losses |", "| --- | --- | --- |"]
        + [f"| {FAULTS[name].what} | {arguments.rounds} | {len(lost)} |" for name, lost in rows]
    )
    print(table)
    if not arguments.faults:
        (PROJECT / "results/faults.md").write_text(page(table, arguments.rounds))
    sys.exit(any(lost for _, lost in rows))


def tried(folder: Path, names: list[str], rounds: int) -> list[tuple[str, list[str]]]:
    """The losses of each fault, over all rounds."""
    undisturbed = new_trial(folder / "undisturbed", random.Random(0))
    started = time.monotonic()
    if undisturbed.end(undisturbed.start()) != 0:
        sys.exit(f"the undisturbed study failed:\n{undisturbed.screens[-1]}")
    seconds = time.monotonic() - started
    print(f"the undisturbed study takes {seconds:.0f} s", flush=True)
    rows = []
    for name in names:
        lost = []
        for number in range(1, rounds + 1):
            # a folder of its own: MLflow keeps a database open, even where its file is replaced
            place = folder / f"{name}-{number}"
            trial = new_trial(place, random.Random(f"{name} {number}"), seconds)
            found = FAULTS[name].disturb(trial)
            found += losses(trial, undisturbed.result())
            print(f"{name} {number}/{rounds}: {'; '.join(found) or 'nothing lost'}", flush=True)
            if found:
                kept = Path(tempfile.gettempdir(), f"faults-{name}-{number}")
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(place, kept)
                (kept / "screens.txt").write_text("\n\n".join(trial.screens))
                print(f"what it left is kept in {kept}", flush=True)
            shutil.rmtree(place)
            lost += found
        rows.append((name, lost))
    return rows


def page(table: str, rounds: int) -> str:
    """The page of results."""
    commit = subprocess.run(
        ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return f"""\
# Faults: what a study loses when it is disturbed

| | |
| --- | --- |
| command | `make faults`, {rounds} rounds |
| study | one run of each layer, two epochs on 4,000 images, on a SQLite store |
| machine | {cpu()}; Python {platform.python_version()} |
| commit | {commit.stdout.strip()} |
| date | {date.today()} |

{PROMISES}

A loss is a promise that was broken in a round. After each fault, the same command is started again.

{table}
"""


if __name__ == "__main__":
    main()
