"""The life of a node's identity, and its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcops.domain.nodes import (
    MAX_NAME,
    MOVES,
    NodeState,
    Verb,
    is_name,
    name_from_host,
    numbered,
)


def test_every_verb_has_a_move():
    assert set(MOVES) == set(Verb)


def test_nothing_leads_out_of_revoked():
    assert all(NodeState.REVOKED not in sources for sources, _target in MOVES.values())


def test_no_move_stays_where_it_is():
    assert all(target not in sources for sources, target in MOVES.values())


def test_every_other_state_can_be_revoked_and_reached():
    assert MOVES[Verb.REVOKE][0] == set(NodeState) - {NodeState.REVOKED}
    assert {target for _sources, target in MOVES.values()} == set(NodeState) - {NodeState.PENDING}


@given(st.text())
def test_any_hostname_gives_a_name(hostname):
    assert is_name(name_from_host(hostname))


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True), st.integers(2, 10**6))
def test_a_numbered_name_is_a_name_and_another(name, number):
    assert is_name(numbered(name, number))
    assert numbered(name, number) != name or name.endswith(f"-{number}")
    assert len(numbered(name, number)) <= MAX_NAME


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "A", "a\n", "a b", "a.b", "a_b", "x" * 64, "é", "../a", "a\0"]
)
def test_what_is_no_name(text):
    assert not is_name(text)


@pytest.mark.parametrize("text", ["a", "0", "gpu-1", "x" * 63])
def test_what_is_a_name(text):
    assert is_name(text)
