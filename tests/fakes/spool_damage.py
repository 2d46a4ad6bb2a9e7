"""What disks and people do to a spool, and the check that it costs exactly what was damaged. Shared by tests and soaks."""

import copy
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from agents.adapters.spool import Spool
from tests.fakes.disk import FakeDisk, PowerCut
from tests.fakes.ledger import Ledger

HOME = Path("/spool")
SMALL = {"metrics_segment_bytes": 600, "events_segment_bytes": 600, "events_spares": 2}


def open_spool(disk: FakeDisk, **options: object) -> Spool:
    return Spool(HOME, disk=disk, now_us=lambda: 1_000_000, **(SMALL | options))  # type: ignore[arg-type]


def payload(number: int, size: int = 60) -> bytes:
    return (f"record {number} ".encode() * (size // 8 + 1))[:size]


def filled(disk: FakeDisk, count: int, *, size: int = 60, **options: object) -> Ledger:
    """A closed spool of `count` metrics and a tenth as many events, nothing acknowledged."""
    ledger, spool = Ledger(), open_spool(disk, **options)
    for number in range(count):
        ledger.append(spool, "metrics", payload(number, size))
        if number % 10 == 5:
            ledger.append(spool, "events", b"\x90" + payload(number, size))
    spool.close()
    return ledger


def copied(disk: FakeDisk) -> FakeDisk:
    return disk.after_power_cut("killed", random.Random(0))


def segments(disk: FakeDisk) -> list[Path]:
    return sorted(path for path in disk.files if path.suffix == ".seg")


def check_after(ledger: Ledger, disk: FakeDisk, **options: object) -> Ledger:
    """Open what is left, go on, drain, and check that every number is stored or a gap. Returns what the server saw."""
    seen = Ledger(dict(ledger.produced), set(ledger.unsaved))
    spool = open_spool(disk, **options)
    seen.append(spool, "metrics", b"afterwards")
    seen.append(spool, "events", b"\x90afterwards")
    for lane in (spool.metrics, spool.events):
        for run in lane.sequences([]):
            seen.next_numbers.setdefault(run.spool_id, run.next_seq)
    seen.drain(spool)
    seen.check(damaged=True)
    return seen


def truncate_everywhere(ledger: Ledger, disk: FakeDisk, path: Path, offsets: Iterable[int], **options: object) -> int:  # fmt: skip
    """Cut a file off at each of these offsets in turn. Exactly the records not wholly before the cut are gaps."""
    whole = bytes(disk.files[path].data)
    tries = 0
    for offset in offsets:
        tries += 1
        damaged = copied(disk)
        del damaged.files[path].data[offset:]
        seen = check_after(ledger, damaged, **options)
        lost = sum(gap.last_seq - gap.first_seq + 1 for gap in seen.gaps)
        expected = len(ledger.produced) - sum(key in seen.delivered for key in ledger.produced)
        assert lost == expected, (
            f"cut at {offset} of {len(whole)}: gaps {lost}, missing {expected}"
        )
    return tries


def flip_bits(ledger: Ledger, disk: FakeDisk, flips: int, seed: int, **options: object) -> None:
    """Flip single bits anywhere in the spool's files, one spool a flip. A flip costs at most one record."""
    rng = random.Random(seed)
    paths = sorted(disk.files)
    sizes = [len(disk.files[path].data) for path in paths]
    for number in range(flips):
        damaged = copied(disk)
        path = rng.choices(paths, sizes)[0]
        data = damaged.files[path].data
        position = rng.randrange(len(data))
        data[position] ^= 1 << rng.randrange(8)
        seen = check_after(ledger, damaged, **options)
        lost = [gap for gap in seen.gaps for _ in range(gap.first_seq, gap.last_seq + 1)]
        assert len(lost) <= 1, f"seed {seed}, flip {number}: {path.name}@{position}: {lost}"


def mangle_segments(ledger: Ledger, disk: FakeDisk, rounds: int, seed: int) -> None:
    """Delete, duplicate, swap, zero, cut and flip whole segments at random, several at once."""
    for number in range(rounds):
        rng = random.Random(f"{seed}/{number}")
        damaged = copied(disk)
        for _ in range(rng.randint(1, 4)):
            rng.choice(MANGLES)(damaged, rng)
        try:
            check_after(ledger, damaged)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, round {number}: {error}") from error


def _delete(disk: FakeDisk, rng: random.Random) -> None:
    if present := segments(disk):
        del disk.files[rng.choice(present)]


def _duplicate(disk: FakeDisk, rng: random.Random) -> None:
    if present := segments(disk):
        source, target = rng.choice(present), rng.choice(present)
        disk.files[target] = copy.deepcopy(disk.files[source])
        disk.files[source.with_name(source.name + ".copy")] = copy.deepcopy(disk.files[source])


def _zero(disk: FakeDisk, rng: random.Random) -> None:
    if present := segments(disk):
        data = disk.files[rng.choice(present)].data
        first = rng.randrange(len(data) + 1)
        last = rng.choice((len(data), rng.randint(first, len(data))))
        data[first:last] = bytes(last - first)


def _cut(disk: FakeDisk, rng: random.Random) -> None:
    if present := segments(disk):
        data = disk.files[rng.choice(present)].data
        del data[rng.randrange(len(data) + 1) :]


def _grow(disk: FakeDisk, rng: random.Random) -> None:
    if present := segments(disk):
        disk.files[rng.choice(present)].data.extend(rng.randbytes(rng.randint(1, 300)))


def _lose_a_state_file(disk: FakeDisk, rng: random.Random) -> None:
    disk.files.pop(HOME / rng.choice(("state.a", "state.b")), None)


MANGLES: tuple[Callable[[FakeDisk, random.Random], None], ...] = (
    _delete,
    _duplicate,
    _zero,
    _cut,
    _grow,
)


def crash_scenario(disk: FakeDisk, ledger: Ledger, rng: random.Random, steps: int) -> None:
    """Appends, acks, restarts and a spool at its limit, in an order that the seed decides."""
    limit = {"metrics_limit_bytes": 2400}
    spool = open_spool(disk, **limit)
    for number in range(steps):
        lane = rng.choice(("metrics", "metrics", "metrics", "events"))
        prefix = b"\x90" if lane == "events" else b""
        ledger.append(spool, lane, prefix + payload(number, rng.randint(1, 200)))
        if rng.random() < 0.2 and (taken := ledger.deliver(spool, lane, records=5)):
            spool.acknowledge(taken[0], [(taken[1][0], taken[1][-1])])
        if rng.random() < 0.08:
            spool.close()
            if rng.random() < 0.5:  # then a new spool id begins, and the old one drains beside it
                disk.files.pop(HOME / lane / "tail", None)
            spool = open_spool(disk, **limit)
    spool.close()


def crash_everywhere(seed: int, steps: int, mode: str, stride: int = 1) -> int:
    """Cut the power after each (stride-th) operation of a scenario; at most the tick being written is lost."""
    disk = FakeDisk()
    crash_scenario(disk, Ledger(), random.Random(seed), steps)
    points = range(1, disk.operations + 1, stride)
    for cut_at in points:
        _crash_at(cut_at, seed, steps, mode)
    return len(points)


def _crash_at(cut_at: int, seed: int, steps: int, mode: str) -> None:
    disk, ledger = FakeDisk(), Ledger()
    disk.cut_at = cut_at
    try:
        crash_scenario(disk, ledger, random.Random(seed), steps)
    except PowerCut:
        pass
    else:
        return
    spool = open_spool(disk.after_power_cut(mode, random.Random(cut_at)), metrics_limit_bytes=2400)
    ledger.append(spool, "metrics", b"after the cut")
    ledger.append(spool, "events", b"\x90after the cut")
    ledger.drain(spool)
    try:
        ledger.check(damaged=True, may_overlap=True)
        lost = [gap for gap in ledger.gaps if "limit" not in gap.reason]
        assert sum(gap.last_seq - gap.first_seq + 1 for gap in lost) <= 1, lost
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {mode}, cut at {cut_at}: {error}") from error
