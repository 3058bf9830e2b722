"""What was found so far, in results/faults.json, and its page, results/faults.md.

All rounds take hours, so that they are added up over many starts of `make faults`. A part is what
was found of one fault, command and store, at one commit on one machine.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.faults import FAULTS, Fault
from tests.faults.promises import PROMISES

BY_HAND = "## Limits of these rounds, and defects that were mended"  # the page is kept from here on
COMMANDS, STORES = ("train", "study"), ("SQLite", "server")


@dataclass
class Part:
    """Some rounds of one fault.

    losses: one line each.
    ends: how often a disturbed command ended how.
    """

    fault: str
    command: str
    store: str
    commit: str
    machine: str
    date: str = ""
    rounds: int = 0
    losses: list[str] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)

    def is_of(self, fault: str, command: str, store: str) -> bool:
        """Whether it belongs to a row of the table."""
        return (self.fault, self.command, self.store) == (fault, command, store)

    def add(self, losses: list[str], ends: Counter[str], date: str) -> None:
        """Add a round."""
        self.rounds += 1
        self.losses += losses
        self.ends = dict(Counter(self.ends) + ends)
        self.date = date


def known_parts(folder: Path) -> list[Part]:
    """What was found before."""
    file = folder / "faults.json"
    return [Part(**part) for part in json.loads(file.read_text())] if file.exists() else []


def begun(folder: Path, new: Part) -> tuple[Part, int]:
    """The part to go on with, and how many rounds of its row there are.

    Rounds with losses at another commit do not count: they are tried again.
    """
    of_row = [
        part
        for part in known_parts(folder)
        if part.is_of(new.fault, new.command, new.store)
        and (part.commit == new.commit or not part.losses)
    ]
    same = [part for part in of_row if (part.commit, part.machine) == (new.commit, new.machine)]
    return (same or [new])[0], sum(part.rounds for part in of_row)


def keep(folder: Path, part: Part) -> None:
    """Put a part into both files, in place of its earlier state.

    Parts of the same row that had losses at other commits are dropped.
    """
    others = [
        known
        for known in known_parts(folder)
        if not known.is_of(part.fault, part.command, part.store)
        or ((known.commit, known.machine) != (part.commit, part.machine) and not known.losses)
    ]
    parts = [*others, part]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(part) for part in parts], indent=1)
    (folder / "faults.json").write_text(f"{text}\n")
    file = folder / "faults.md"
    _, heading, by_hand = (file.read_text() if file.exists() else "").partition(BY_HAND)
    sections = [_page(parts), f"{heading}{by_hand}".strip()]
    file.write_text("\n\n".join(filter(None, sections)) + "\n")


def table(parts: list[Part]) -> list[str]:
    """The rows of the table, in the order of the faults."""
    lines = [
        "| fault | command | store | rounds | losses | the disturbed commands | commits |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, fault in FAULTS.items():
        for store in STORES:
            for command in COMMANDS:
                found = [part for part in parts if part.is_of(name, command, store)]
                if found:
                    lines.append(_row(fault, found))
    return lines


def _row(fault: Fault, parts: list[Part]) -> str:
    ends: Counter[str] = sum((Counter(part.ends) for part in parts), Counter())
    cells = [
        fault.what,
        parts[0].command,
        parts[0].store,
        str(sum(part.rounds for part in parts)),
        str(sum(len(part.losses) for part in parts)),
        ", ".join(f"{count} {how}" for how, count in ends.most_common()),
        ", ".join(dict.fromkeys(part.commit for part in parts)),
    ]
    return f"| {' | '.join(cells)} |"


def _page(parts: list[Part]) -> str:
    dates = sorted({part.date for part in parts})
    promises = "\n".join(f"| {fault.what} | {fault.promise} |" for fault in FAULTS.values())
    losses = [
        f"- {FAULTS[part.fault].what}, {part.command}, {part.store}, at {part.commit}: {loss}"
        for part in parts
        for loss in part.losses
    ]
    rows = "\n".join(table(parts))
    rounds, lost = sum(part.rounds for part in parts), sum(len(part.losses) for part in parts)
    return f"""\
# Faults: what a training and a study lose when they are disturbed

`make faults` disturbs a command, starts the same command once more, and checks what was lost. All
rounds take hours: they were tried in several starts, whose results are added up.

| | |
| --- | --- |
| command | `make faults`; some rounds of one fault by `make faults FAULT=disk ROUNDS=3` |
| commands that are disturbed | `train`, and `study` with one run of each layer; five epochs on \
4,000 images |
| stores | a SQLite file, and the server of `make server`, with PostgreSQL |
| rounds | {rounds}, with {lost} losses |
| machine | {"; ".join(dict.fromkeys(part.machine for part in parts))} |
| dates | {dates[0]} to {dates[-1]} |

## What happened

A loss is a promise that was broken in a round. "The disturbed commands" says how the commands ended
that met the fault. The start after it, which must end well, is not among them. Of two identical
studies, the one that is refused has ended with an error, and so has one that meets a damaged file.
A + after a commit means that there were uncommitted changes.

{rows}

{"Losses:" if losses else "No promise was broken in these rounds."}
{chr(10).join(["", *losses]) if losses else ""}
## What is promised

For each fault: {PROMISES[0].lower()}{PROMISES[1:]}

| fault | promised beside that |
| --- | --- |
{promises}"""
