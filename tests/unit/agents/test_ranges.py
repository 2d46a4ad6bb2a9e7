"""RangeSet against Python's own set."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agents.ranges import RangeSet

PARTS = st.tuples(st.integers(0, 60), st.integers(-2, 12)).map(lambda p: (p[0], p[0] + p[1]))
STEPS = st.lists(st.tuples(st.booleans(), PARTS), max_size=30)


@given(STEPS, PARTS)
def test_it_is_a_set_kept_as_sorted_disjoint_ranges(steps, window):
    ranges, model = RangeSet(), set()
    for adds, (first, last) in steps:
        if adds:
            ranges.add(first, last)
            model |= set(range(first, last + 1))
        else:
            ranges.remove(first, last)
            model -= set(range(first, last + 1))
    listed = list(ranges)
    assert {n for first, last in listed for n in range(first, last + 1)} == model
    assert all(b[0] > a[1] + 1 for a, b in pairwise(listed))
    assert ranges.count() == len(model)
    inside = set(range(window[0], window[1] + 1))
    assert {n for f, last in ranges.within(*window) for n in range(f, last + 1)} == model & inside
    assert {n for f, last in ranges.missing(*window) for n in range(f, last + 1)} == inside - model
    assert ranges.covers(*window) == (inside <= model)
    assert all((n in ranges) == (n in model) for n in range(-1, 75))
    assert RangeSet(listed) == ranges
