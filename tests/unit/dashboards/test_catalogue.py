"""Simplified Chinese is complete: every text has a translation, and the compiled file is what the source says."""

import ast
import gettext
import re
from pathlib import Path

import pytest

from dashboards.messages import LOCALE, ROOT, registry_names

FOLDER = ROOT / "dcops" / "locale" / LOCALE / "LC_MESSAGES"
CALLS = {"_", "gettext", "gettext_lazy", "ngettext"}


def unquoted(text):
    return "".join(ast.literal_eval(part) for part in re.findall(r'"(?:[^"\\]|\\.)*"', text))


def entries():
    """(msgid, msgstr, flags) of every entry of the source."""
    found = []
    for block in (FOLDER / "django.po").read_text(encoding="utf-8").split("\n\n")[1:]:
        key = re.search(r'^msgid ((?:".*"\n?)+)', block, re.MULTILINE)
        value = re.search(r'^msgstr(?:\[0\])? ((?:".*"\n?)+)', block, re.MULTILINE)
        found.append(
            (
                unquoted(key[1]),
                unquoted(value[1]),
                [line for line in block.split("\n") if line.startswith("#,")],
            )
        )
    return found


def texts_of_python():
    for folder in ("dashboards", "dcops"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
                if name in CALLS and isinstance(node.args[0], ast.Constant):
                    yield path, node.args[0].value


def texts_of_templates():
    for path in (ROOT / "templates").rglob("*.html"):
        for found in re.finditer(
            r"""translate (?:"([^"]*)"|'([^']*)')|_\("([^"]*)"\)""",
            path.read_text(encoding="utf-8"),
        ):
            yield path, next(group for group in found.groups() if group is not None)


def test_no_text_is_untranslated_or_guessed():
    assert [
        key
        for key, value, flags in entries()
        if not value or any("fuzzy" in flag for flag in flags)
    ] == []


def test_the_compiled_file_is_what_the_source_says():
    with (FOLDER / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)._catalog
    spoken = {
        key[0] if isinstance(key, tuple) else key: value for key, value in compiled.items() if key
    }
    assert spoken == {key: value for key, value, _ in entries()}


@pytest.mark.parametrize(
    "texts", [texts_of_python, texts_of_templates], ids=["python", "templates"]
)
def test_every_text_is_in_the_catalogue(texts):
    known = {key for key, _, _ in entries()}
    missing = {
        text: str(Path(path).relative_to(ROOT)) for path, text in texts() if text not in known
    }
    assert missing == {}, "run: python -m dashboards.messages, then translate"


def test_every_name_of_the_registry_is_in_the_catalogue():
    assert set(registry_names()) <= {key for key, _, _ in entries()}


def test_placeholders_survive_translation():
    places = re.compile(r"%\(\w+\)s|%s|\{\w+\}")
    for key, value, _ in entries():
        assert sorted(places.findall(key)) == sorted(places.findall(value)), key
