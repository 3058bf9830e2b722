"""The examples of docs/extending.md, carried out word by word in a copy of the project."""

import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import PROJECT
from tests.end_to_end.conftest import Checkout, reduce_mnist

PAGE = (PROJECT / "docs/extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
AT_THE_END = re.compile(r"At the end of `([^`]+)`:")
IN_A_TABLE = re.compile(r"In the table `(\w+)` of `([^`]+)`:")
NEW_FILE = re.compile(r"In a new file `([^`]+)`:")


class Block(NamedTuple):
    """A block of code, its language, and the paragraph before it."""

    before: str
    language: str
    code: str


def blocks_of(section: str) -> list[Block]:
    fence = r"^([^\n]*)\n\n```(\w*)\n(.*?)^```$"
    found = re.findall(fence, SECTIONS[section], re.MULTILINE | re.DOTALL)
    return [Block(*block) for block in found]


def insert(block: Block, folder: Path) -> None:
    """Write a block of code where the line before it says."""
    if place := AT_THE_END.fullmatch(block.before):
        file = folder / place[1]
        file.write_text(f"{file.read_text()}\n\n{block.code}")
    elif place := IN_A_TABLE.fullmatch(block.before):
        file = folder / place[2]
        start = rf"^{place[1]}(: [^=]+)? = \{{\n"
        table = re.compile(rf"({start}.*?)(?=^\}})", re.MULTILINE | re.DOTALL)
        text, count = table.subn(lambda found: found[0] + block.code, file.read_text())
        assert count == 1, f"{place[2]} has no table {place[1]}"
        file.write_text(text)
    else:
        place = NEW_FILE.fullmatch(block.before)
        assert place, f"the line before a block of code does not say where it goes: {block.before}"
        (folder / place[1]).write_text(block.code)


@pytest.mark.parametrize(
    "section",
    [
        # one in `make test`, as each takes half a minute or more; the others in `make test-slow`
        pytest.param(section, marks=[pytest.mark.slow] if number else [])
        for number, section in enumerate(SECTIONS)
    ],
)
def test_an_example_trains_is_evaluated_and_compared(checkout: Checkout, section):
    blocks = blocks_of(section)
    code = [block for block in blocks if block.language == "python"]
    assert sum(len(block.code.splitlines()) for block in code) <= 10
    for block in code:
        insert(block, checkout.folder)
    checkout.environment.pop("COVERAGE_PROCESS_CONFIG", None)  # the lines are not the project's
    reduce_mnist(checkout)
    (checkout.folder / ".venv").symlink_to(sys.prefix)
    (commands,) = [block.code.splitlines() for block in blocks if block.language == "sh"]
    assert [shlex.split(command)[3] for command in commands] == ["train", "evaluate", "compare"]
    outputs = []
    for command in commands:
        done = checkout.run(*shlex.split(command))
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    trained, evaluated, compared = outputs
    scores = r"accuracy [\d.]+%, macro F1 [\d.]+%"
    assert re.findall(scores, evaluated) == re.findall(scores, trained)
    assert "Verdict" in compared
    assert set(checkout.statuses()) == {"FINISHED"}
