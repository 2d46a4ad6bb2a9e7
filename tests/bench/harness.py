"""How a figure is declared, run, printed and kept.

A benchmark takes seconds to minutes, a soak up to hours; both return one Result, and each is one row of an issue's table:

    @benchmark("ingest-values", issue="First light", row="values stored per CPU-second", unit="x", goal=2.0)
    def ingest_values() -> Result:
        return Result(4.1, peers={"prometheus": 1.0, "victoria-metrics": "not installed"})

`goal` is a number that the value must reach (or stay under, with better="lower"), or a sentence; with a sentence the Result
says itself whether it holds. Every figure runs in a process of its own. build/figures.json keeps the newest entry of each
name, true values also where they fall short.
"""

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "build" / "figures.json"
NOT_INSTALLED = "not installed"

Peer = float | str
Better = Literal["higher", "lower"]
Kind = Literal["bench", "soak"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured. `holds` None lets the harness compare `value` with the goal; `peers` are in the same unit."""

    value: float | None
    holds: bool | None = None
    peers: dict[str, Peer] = field(default_factory=dict)
    note: str = ""
    # False for a run too short or too small to keep the promise; it can still break it.
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    """A declared benchmark or soak."""

    kind: Kind
    name: str
    issue: str
    row: str
    unit: str
    goal: float | str
    better: Better
    run: Callable[[], Result]


REGISTRY: dict[str, Figure] = {}


def _declare(
    kind: Kind, name: str, issue: str, row: str, unit: str, goal: float | str, better: Better
):
    def register(run: Callable[[], Result]) -> Callable[[], Result]:
        if name in REGISTRY:
            raise ValueError(f"two figures are called {name!r}; give one another name")
        REGISTRY[name] = Figure(kind, name, issue, row, unit, goal, better, run)
        return run

    return register


def benchmark(
    name: str,
    *,
    issue: str = "First light",
    row: str,
    unit: str,
    goal: float | str,
    better: Better = "higher",
):
    """Declare a benchmark: a figure measured in seconds to minutes."""
    return _declare("bench", name, issue, row, unit, goal, better)


def soak(
    name: str,
    *,
    issue: str = "First light",
    row: str,
    unit: str,
    goal: float | str,
    better: Better = "higher",
):
    """Declare a soak: a long run, often with faults."""
    return _declare("soak", name, issue, row, unit, goal, better)


def holds(figure: Figure, result: Result) -> bool | None:
    """Whether the goal is met; None when the figure could not be measured and nobody can say."""
    verdict = _compared(figure, result)
    return verdict if result.whole or verdict is False else None


def _compared(figure: Figure, result: Result) -> bool | None:
    if result.holds is not None:
        return result.holds
    if result.value is None or isinstance(figure.goal, str):
        return None
    return (
        result.value >= figure.goal if figure.better == "higher" else result.value <= figure.goal
    )


def entry(figure: Figure, result: Result, when: datetime) -> dict[str, Any]:
    """The row of figures.json."""
    return {
        "issue": figure.issue,
        "name": figure.name,
        "row": figure.row,
        "value": result.value,
        "unit": figure.unit,
        "goal": figure.goal,
        "better": figure.better,
        "holds": holds(figure, result),
        "peers": result.peers,
        "note": result.note,
        "when": when.isoformat(timespec="seconds"),
    }


def merge(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write entries into the file, replacing those of the same name and keeping the others."""
    kept = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    kept |= {row["name"]: row for row in entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(list(kept.values()), indent=1, ensure_ascii=False) + "\n")
    partial.replace(path)


def number(value: float | str | None) -> str:
    """A figure as people read it: three significant digits, thousands apart."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if value and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def table(entries: list[dict[str, Any]]) -> str:
    """One aligned text table."""
    head = ("figure", "value", "unit", "goal", "holds", "peers", "note")
    verdict = {True: "yes", False: "NO", None: "unknown"}
    rows = [
        (
            f"{row['name']}: {row['row']}",
            number(row["value"]),
            row["unit"],
            _goal(row),
            verdict[row["holds"]],
            ", ".join(f"{name} {number(value)}" for name, value in row["peers"].items()),
            row["note"],
        )
        for row in entries
    ]
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *rows]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _goal(row: dict[str, Any]) -> str:
    if isinstance(row["goal"], str):
        return row["goal"]
    return f"{'>=' if row['better'] == 'higher' else '<='} {number(row['goal'])}"


def discover(package: str, prefix: str) -> None:
    """Import every module `prefix*` of the package, which declares its figures."""
    path = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(path):
        if module.name.startswith(prefix):
            importlib.import_module(f"{package}.{module.name}")


def run_here(figure: Figure) -> dict[str, Any]:
    """Run a figure in this process. A crash is a figure too: without a value, not holding, saying why."""
    try:
        result = figure.run()
    except Exception as error:  # noqa: BLE001 - one broken figure must not hide the others
        traceback.print_exc()
        result = Result(
            None, holds=False, note=f"failed: {type(error).__name__}: {error}".splitlines()[0]
        )
    return entry(figure, result, datetime.now(UTC))


def _run_apart(module: str, figure: Figure) -> dict[str, Any]:
    """Run a figure in a fresh interpreter, so that no figure inherits another's settings, memory or threads."""
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "entry.json"
        code = subprocess.run(
            [sys.executable, "-m", module, "--only", figure.name, "--to", str(answer)], cwd=ROOT
        ).returncode
        if answer.exists():
            return json.loads(answer.read_text())
    return entry(
        figure, Result(None, holds=False, note=f"its process ended with {code}"), datetime.now(UTC)
    )


def main(kind: Kind, package: str) -> int:
    """The command line of `python -m tests.bench` and `python -m tests.soak`: 0 when every figure run holds."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}")
    parser.add_argument(
        "--only", action="append", default=[], help="run the figure of this name; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    discover(package, f"{kind}_")
    figures = {name: figure for name, figure in REGISTRY.items() if figure.kind == kind}
    if asked.list:
        print("\n".join(f"{name}\t{figure.row}" for name, figure in figures.items()))
        return 0
    if unknown := set(asked.only) - set(figures):
        parser.error(
            f"no figure is called {', '.join(sorted(unknown))}; there are: {', '.join(figures)}"
        )
    chosen = [figures[name] for name in asked.only] or list(figures.values())
    if asked.to is not None:
        asked.to.write_text(json.dumps(run_here(chosen[0])))
        return 0
    return _run_all(package, chosen)


def _run_all(package: str, figures: list[Figure]) -> int:
    entries = []
    for figure in figures:
        print(f"-- {figure.name}: {figure.row}", file=sys.stderr, flush=True)
        entries.append(_run_apart(package, figure))
        merge(FIGURES, entries[-1:])  # at once, so that a run cut short keeps what it measured
    print(table(entries))
    return 0 if all(row["holds"] is not False for row in entries) else 1
