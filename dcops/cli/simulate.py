"""`dcops simulate`: replay a job trace with the planner of the real fleet."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dcops.domain.errors import Invalid
from dcops.domain.planning.policy import POLICIES
from dcops.domain.planning.simulate import Report, Setup, Traced, simulate
from dcops.local.errors import LocalError

COLUMNS = ("submit_s", "job_id", "gpus", "duration_s")


class PolicyName(StrEnum):
    """The policies of dcops.domain.planning.policy, for the command line."""

    SERVICE = "service"
    FIFO = "fifo"
    BACKFILL = "backfill"


def command(
    trace: Annotated[
        Path, typer.Argument(help=f"A CSV file with the columns {', '.join(COLUMNS)}.")
    ],
    nodes: Annotated[int, typer.Option(min=1, max=100_000, help="Nodes of the imagined fleet.")],
    gpus_per_node: Annotated[int, typer.Option(min=1, max=64)] = 8,
    policy: Annotated[
        PolicyName,
        typer.Option(
            help="service: least GPU time first, interrupting; fifo: in turn, skipping what does not fit; "
            "backfill: fifo with nodes kept for the oldest large jobs."
        ),
    ] = PolicyName.SERVICE,
    every: Annotated[
        float, typer.Option(min=1, max=86_400, help="Decide every so many seconds.")
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay a trace of jobs in virtual time and report waits, completion times and utilization."""
    setup = Setup(nodes, gpus_per_node, POLICIES[policy], every)
    try:
        report = simulate(read_trace(trace, most_gpus=nodes * gpus_per_node), setup)
    except Invalid as error:
        raise LocalError(error.message) from None
    typer.echo(json.dumps(asdict(report)) if as_json else told(report))


def read_trace(path: Path, most_gpus: int) -> list[Traced]:
    """Return the rows of a trace. Raises Invalid, naming the line, if one cannot be used."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_rows(path, csv.DictReader(file), most_gpus))
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error):
        raise Invalid(f"{path} is not a CSV file in UTF-8.") from None
    if not rows:
        raise Invalid(f"{path} holds no jobs: add a row under the header.")
    return rows


def _rows(path: Path, reader: "csv.DictReader[str]", most_gpus: int) -> Iterator[Traced]:
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise Invalid(
            f"{path} has no column {' or '.join(missing)}: the first line must name {', '.join(COLUMNS)}."
        )
    for row in reader:
        try:
            yield _row(row, most_gpus)
        except ValueError as error:
            raise Invalid(f"{path}, line {reader.line_num}: {error}.") from None


def _row(row: dict[str, str], most_gpus: int) -> Traced:
    gpus = _number(row, "gpus", least=1)
    if gpus != int(gpus):
        raise ValueError(f"gpus is {row['gpus']!r}; write a whole number")
    if gpus > most_gpus:
        raise ValueError(
            f"the job needs {int(gpus)} GPUs and the fleet has {most_gpus}; use more --nodes"
        )
    return Traced(
        _number(row, "submit_s", least=0),
        row["job_id"] or "",
        int(gpus),
        _number(row, "duration_s", least=0),
    )


def _number(row: dict[str, str], name: str, least: float) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {row[name] or ''!r}; write a number") from None
    if not least <= value < math.inf:
        raise ValueError(f"{name} is {row[name]}; write {least:g} or more")
    return value


def told(report: Report) -> str:
    """The report as a person reads it."""
    lines = [
        ("", "mean", "median", "p99", "p99.9"),
        ("completion, s", *_cells(report, "jct")),
        ("wait, s", *_cells(report, "wait")),
    ]
    table = "\n".join(
        f"{line[0]:14}" + "".join(f"{cell:>12}" for cell in line[1:]) for line in lines
    )
    return (
        f"{table}\n\n{report.jobs:,} jobs in {report.makespan_s / 86_400:.1f} days, "
        f"GPUs busy {report.utilization:.1%}, {report.preemptions:,} interruptions"
    )


def _cells(report: Report, what: str) -> list[str]:
    return [
        f"{getattr(report, f'{part}_{what}_s'):,.0f}" for part in ("mean", "median", "p99", "p999")
    ]
