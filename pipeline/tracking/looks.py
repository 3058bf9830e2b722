"""The tag `stn.looks`: the seeds at each look at a study of fixed size, as JSON.

    looks_as_text([{0, 1, 2}, {0, 1, 2, 3, 4, 7}])  # [["0-2"], ["0-4", 7]]

Seeds that follow each other are one range, because MLflow cuts a tag after 8,000 characters.
"""

import json
from itertools import groupby

from pipeline.errors import PipelineError

LONGEST_TAG = 8000  # characters
MOST_SEEDS = 1_000_000  # in a tag; studies have fewer, and others may have edited the tag


def looks_as_text(looks: list[set[int]]) -> str:
    """The text of the tag.

    Raises:
        PipelineError: if it is too long for a tag.
    """
    text = json.dumps([_ranges(seeds) for seeds in looks])
    if len(text) > LONGEST_TAG:
        raise PipelineError(
            f"the seeds of {len(looks)} looks are too many to be recorded; plan a study with "
            "until=decided, or give it seeds that follow each other"
        )
    return text


def looks_from_text(text: str) -> list[set[int]]:
    """The looks that a tag names; single numbers are seeds, too.

    Raises:
        ValueError: if the tag holds anything else.
    """
    try:
        looks = [[_seeds(entry) for entry in entries] for entries in json.loads(text)]
        if sum(len(seeds) for look in looks for seeds in look) > MOST_SEEDS:
            raise ValueError(text)
        return [set().union(*look) for look in looks]
    except (TypeError, RecursionError, OverflowError) as error:
        raise ValueError(text) from error


def _ranges(seeds: set[int]) -> list[int | str]:
    """The seeds in order: `7` for a single one, `0-4` for five that follow each other."""
    # within a range, the seed minus its place in the order is the same
    groups = groupby(enumerate(sorted(seeds)), lambda pair: pair[1] - pair[0])
    found = [[seed for _, seed in group] for _, group in groups]
    return [group[0] if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in found]


def _seeds(entry: object) -> range:
    if isinstance(entry, int):
        return range(entry, entry + 1)
    first, last = map(int, str(entry).split("-"))
    return range(first, last + 1)
