"""A round of some faults, and how results are added up; `make faults` tries all, many times."""

import os
from collections import Counter

import pytest

from server.postgres import find_programs
from tests.faults.__main__ import Harness
from tests.faults.faults import FAULTS
from tests.faults.report import BY_HAND, Part, begun, keep, known_parts


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    with Harness(tmp_path_factory.mktemp("results")) as harness:
        yield harness


def one_row_of_each():
    """A command and a store for each fault, which change from one fault to the next."""
    for number, (name, fault) in enumerate(FAULTS.items()):
        command = fault.commands[number % len(fault.commands)]
        store = fault.stores[number // 2 % len(fault.stores)]
        marks = [pytest.mark.slow] if name != "parent" else []
        marks += [pytest.mark.postgres] if store == "server" else []
        yield pytest.param(name, command, store, marks=marks)


@pytest.mark.parametrize(("name", "command", "store"), list(one_row_of_each()))
def test_nothing_is_lost(harness, name, command, store):
    if store == "server" and find_programs() is None and "CI" not in os.environ:
        pytest.skip("PostgreSQL is not installed")
    if name == "disk" and harness.disk is None:
        pytest.skip("this user may not mount a small disk")
    assert harness.try_once(name, command, store) == []


def a_round(folder, commit, losses):
    """Keep a further round at a commit; how many rounds of its row there were."""
    part, rounds = begun(folder, Part("disk", "train", "SQLite", commit, "a machine"))
    part.add(losses, Counter({"ended well": 1}), "2026-11-26")
    keep(folder, part)
    return rounds


def test_rounds_are_added_up_over_commits(tmp_path):
    assert [a_round(tmp_path, commit, []) for commit in "aab"] == [0, 1, 2]
    first, second = known_parts(tmp_path)
    assert (first.commit, first.rounds, first.ends) == ("a", 2, {"ended well": 2})
    assert (second.commit, second.rounds) == ("b", 1)
    page = (tmp_path / "faults.md").read_text()
    assert "| train | SQLite | 3 | 0 | 3 ended well | a, b |" in page
    assert "No promise was broken in these rounds." in page


def test_rounds_with_losses_are_tried_again_at_the_next_commit(tmp_path):
    assert a_round(tmp_path, "a", ["a run is lost"]) == 0
    assert a_round(tmp_path, "a", []) == 1
    assert "- a full disk after an epoch" in (tmp_path / "faults.md").read_text()
    assert a_round(tmp_path, "b", []) == 0
    assert [part.commit for part in known_parts(tmp_path)] == ["b"]


def test_what_was_written_by_hand_is_kept(tmp_path):
    (tmp_path / "faults.md").write_text(f"# An old page\n\n{BY_HAND}\n\nOne was mended.\n")
    for _ in range(2):
        a_round(tmp_path, "a", [])
        page = (tmp_path / "faults.md").read_text()
        assert page.endswith(f"{BY_HAND}\n\nOne was mended.\n")
        assert "An old page" not in page
        assert page.count(BY_HAND) == 1
