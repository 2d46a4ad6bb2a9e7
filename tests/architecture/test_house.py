"""The house rules that a machine can hold. Each check is tried on a planted violation as well."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("dcops", "dashboards", "agents")
BANNED_MODULES = {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
BANNED_FILES = {"utils.py", "helpers.py", "common.py", "signals.py"}


def product_files() -> list[Path]:
    return [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]


def dangers(source: str) -> Iterator[str]:
    """Yield what could execute or unpickle something received, or run a shell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                alias.name for alias in node.names if alias.name.split(".")[0] in BANNED_MODULES
            )
        elif (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] in BANNED_MODULES
        ):
            yield node.module or ""
        elif isinstance(node, ast.Call):
            yield from _dangerous_call(node)


def _dangerous_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in BANNED_CALLS or name in {"yaml.load", "torch.load", "os.system", "mark_safe"}:
        yield name
    for keyword in node.keywords:
        if keyword.arg == "shell" and getattr(keyword.value, "value", None) is True:
            yield f"{name}(shell=True)"
        if keyword.arg == "object_hook":
            yield f"{name}(object_hook)"
        if keyword.arg is None and re.search(
            r"request\.(GET|POST|data)|payload", ast.unparse(keyword.value)
        ):
            yield f"{name}(**{ast.unparse(keyword.value)})"


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from dill import loads",
        "eval('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "Job.objects.filter(**request.GET)",
    ],
)
def test_the_gate_sees_a_planted_danger(planted: str) -> None:
    assert list(dangers(planted))


def test_nothing_received_can_be_executed_or_unpickled() -> None:
    found = {
        str(path.relative_to(ROOT)): list(dangers(path.read_text()))
        for path in product_files()
        if "sim" not in path.parts
    }
    assert {path: what for path, what in found.items() if what} == {}


def test_no_room_for_odds_and_ends() -> None:
    assert [str(path) for path in product_files() if path.name in BANNED_FILES] == []


def lines_with(pattern: str) -> list[str]:
    expression = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in product_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if expression.search(line)
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        r"\b(TODO|FIXME|XXX|HACK)\b",
        r"receiver\(|django\.dispatch",
        r"csrf_exempt",
    ],
)
def test_banned_words_stay_out(pattern: str) -> None:
    assert lines_with(pattern) == []


TEXT = {".py", ".md", ".html", ".yml", ".toml", ".txt", ".in", ".sql", ".css", ".service", ""}


def tracked_text() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in TEXT and path.is_file() and "vendor" not in path.parts:
            yield name, path.read_text(errors="replace")


def test_no_path_of_a_machine_is_written_down() -> None:
    # Written so that this line does not find itself.
    machine = re.compile("/(work|root|home/[a-z]+)/|file:///[a-z]")
    assert [name for name, text in tracked_text() if machine.search(text)] == []


def test_templates_hold_no_inline_script_style_or_handler() -> None:
    inline = re.compile(
        r"<script(?![^>]*\b(src|type=\"application/json\"))|<style|\sstyle=|\son[a-z]+=|\|safe\b|autoescape off",
        re.IGNORECASE,
    )
    found = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path in sorted((ROOT / "templates").rglob("*.html"))
        for match in inline.finditer(path.read_text())
    ]
    assert found == []


def test_import_contracts_are_kept() -> None:
    run = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]


def modules_after(statement: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize(
    "entry", ["import agents.run", "import agents.sampler", "import dcops.wire.frames"]
)
def test_an_agent_never_loads_the_server(entry: str) -> None:
    assert (
        modules_after(entry)
        & {"django", "celery", "channels", "psycopg", "plotly", "numpy", "pydantic"}
        == set()
    )


def test_the_readme_names_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named - targets == set()
