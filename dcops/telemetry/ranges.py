"""Sets of record numbers as inclusive ranges, the way the wire and the ledger say them. Pure."""

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def to_ranges(numbers: Iterable[int]) -> list[Range]:
    """Return sorted, disjoint, inclusive ranges that hold exactly these numbers."""
    ranges: list[Range] = []
    first = last = None
    for number in sorted(set(numbers)):
        if last is not None and first is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            ranges.append((first, last))
        first = last = number
    if first is not None and last is not None:
        ranges.append((first, last))
    return ranges


def to_multirange(ranges: Sequence[Range]) -> str:
    """Write ranges as a PostgreSQL int8multirange."""
    return "{" + ",".join(f"[{first},{last}]" for first, last in ranges) + "}"


def from_multirange(text: str) -> list[Range]:
    """Read a PostgreSQL int8multirange, which it prints half-open: {[1,4),[7,8)}."""
    inner = text.strip("{}")
    if not inner:
        return []
    pairs = (piece.strip("[)").split(",") for piece in inner.replace("),[", ")|[").split("|"))
    return [(int(first), int(end) - 1) for first, end in pairs]


def holds(ranges: Sequence[Range], number: int) -> bool:
    """Whether a number lies in one of a few ranges."""
    return any(first <= number <= last for first, last in ranges)
