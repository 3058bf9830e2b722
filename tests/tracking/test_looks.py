from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.tracking.looks import LONGEST_TAG, MOST_SEEDS, looks_as_text, looks_from_text


def test_seeds_that_follow_each_other_are_a_range():
    assert looks_as_text([{0, 1, 2}, {0, 1, 2, 3, 4, 7}]) == '[["0-2"], ["0-4", 7]]'


@given(st.lists(st.sets(st.integers(0, 2**32 - 1), max_size=20), max_size=10))
def test_the_text_says_the_same(looks):
    assert looks_from_text(looks_as_text(looks)) == looks


def test_single_seeds_are_read_too():
    assert looks_from_text("[[0, 1], [0, 1, 5]]") == [{0, 1}, {0, 1, 5}]


def test_many_looks_at_long_seeds_fit_into_a_tag():
    first = 2**32 - 1001
    looks = [set(range(first, first + runs)) for runs in range(5, 1001, 5)]
    assert sum(map(len, looks)) < MOST_SEEDS
    assert len(looks_as_text(looks)) < LONGEST_TAG
    assert looks_from_text(looks_as_text(looks)) == looks


def test_scattered_seeds_that_do_not_fit_are_an_error():
    with pytest.raises(PipelineError, match="seeds that follow each other"):
        looks_as_text(list(accumulate(({7 * seed} for seed in range(200)), set.union)))


@pytest.mark.parametrize(
    "text", ["", "[", "5", "[5]", '["0-4"]', f'[["0-{10**30}"]]', '[["a"]]', '{"a": 1}', "[[[0]]]"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 any will do
        looks_from_text(text)
