"""`dcops demo`: run a simulated hall against a dcops server."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from agents.sim.enrol import EnrolError, enrol
from agents.sim.hall import SILENCE_EVERY_S, XIDS_PER_HOUR, Hall, Options
from agents.sim.plan import lay_out, node_name

REPORT_EVERY_S = 2.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="dcops demo",
        description="Join simulated nodes to a dcops server and let them measure. They are marked as simulated everywhere.",
    )
    options.add_argument(
        "--server", required=True, help="address of the server, such as http://localhost:8000"
    )
    options.add_argument(
        "--token",
        default=os.environ.get("DCOPS_SIM_TOKEN", ""),
        help="join token for a simulated hall (or DCOPS_SIM_TOKEN); not needed again once joined",
    )
    options.add_argument(
        "--state-dir", type=Path, required=True, help="where the nodes' keys are kept"
    )
    options.add_argument("--nodes", type=_positive, default=20)
    options.add_argument("--gpus-per-node", type=_positive, default=8)
    options.add_argument("--rate", type=float, default=1.0, help="samples a second and GPU")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--duration", type=float, help="seconds to run; until Ctrl-C if not given"
    )
    options.add_argument(
        "--drain", type=float, default=5.0, help="seconds to wait at the end for acknowledgements"
    )
    options.add_argument(
        "--xids-per-hour",
        type=float,
        default=XIDS_PER_HOUR,
        help="driver errors in the whole hall",
    )
    options.add_argument(
        "--silence-every",
        type=float,
        default=SILENCE_EVERY_S,
        help="mean seconds between two nodes losing their network for a while; 0 for never",
    )
    options.add_argument("--journal", type=Path, help="write every record made into this file")
    options.add_argument("--report", type=Path, help="keep exact counts in this file, as JSON")
    options.add_argument("--quiet", action="store_true")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main() -> int:
    """Run until stopped. Returns 0, 1 if the hall could not join, 2 if something was left unacknowledged."""
    asked = parser().parse_args()
    try:
        hall = prepare(asked)
    except (EnrolError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(hall, asked))
    return 2 if hall.summary()["unacknowledged"] else 0


def prepare(asked: argparse.Namespace) -> Hall:
    """Join what has not joined yet, and build the hall. Raises EnrolError, or ValueError for a damaged token."""
    names = [node_name(index) for index in range(asked.nodes)]
    say = _quiet if asked.quiet else _say
    server, state = enrol(
        asked.server,
        asked.token,
        asked.state_dir,
        names,
        lambda count: say(f"joined {count} of {len(names)} simulated nodes"),
    )
    options = Options(
        gpus=asked.gpus_per_node,
        rate_hz=asked.rate,
        seed=asked.seed,
        xids_per_hour=asked.xids_per_hour,
        silence_every_s=asked.silence_every,
        journal=asked.journal,
    )
    plan = lay_out(asked.nodes, asked.gpus_per_node, asked.seed, state.salt)
    return Hall(plan, state, server, options)


async def run(hall: Hall, asked: argparse.Namespace) -> None:
    """Run the hall until a signal or its duration, showing progress on the way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    progress = asyncio.create_task(_progress(hall, asked.report, _quiet if asked.quiet else _say))
    try:
        await hall.run(stop, duration_s=asked.duration, drain_s=asked.drain)
    finally:
        progress.cancel()
        _write(hall, asked.report)


async def _progress(hall: Hall, report: Path | None, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        now = hall.summary()
        late = (
            f", acknowledged in {now['ack_p99_s']:.2f} s (p99)"
            if now["ack_p99_s"] is not None
            else ""
        )
        say(
            f"{now['connected']} of {now['nodes']} nodes connected, {now['silent']} silent; "
            f"{now['acked']:,} of {now['produced']:,} records stored{late}"
        )
        _write(hall, report)


def _write(hall: Hall, report: Path | None) -> None:
    """Keep the counts in the report, whole at any moment."""
    if report is not None:
        partial = report.with_suffix(".partial")
        partial.write_text(json.dumps(hall.summary()))
        partial.replace(report)


def _say(line: str) -> None:
    """Progress: one line that renews itself on a terminal, plain lines elsewhere."""
    sys.stderr.write(f"\r\x1b[K{line}" if sys.stderr.isatty() else f"{line}\n")
    sys.stderr.flush()


def _quiet(line: str) -> None:
    """Say nothing."""


if __name__ == "__main__":
    sys.exit(main())
