"""What was vendored is what npm served, with its licence, and Plotly is the version that plotly.py brings."""

import json
import re

import plotly.offline
import pytest

from dashboards.vendor import PACKAGES, STATIC, VENDOR, digest

FOLDERS = sorted(path for path in VENDOR.iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_vendored_files_are_unchanged(folder):
    record = json.loads((folder / "vendor.json").read_text())
    found = {
        path.name: digest(path.read_bytes())
        for path in folder.iterdir()
        if path.name != "vendor.json"
    }
    assert found == record["files"]
    assert "LICENSE" in found
    assert folder.name.endswith(f"-{record['version']}")


def test_all_packages_are_vendored_and_nothing_else():
    assert [path.name for path in FOLDERS] == sorted(f"{p.folder}-{p.version}" for p in PACKAGES)


def test_plotly_is_the_version_of_plotly_py():
    assert (VENDOR / f"plotly-{plotly.offline.get_plotlyjs_version()}").is_dir()


def test_every_icon_a_template_names_is_in_the_sprite():
    sprite = (VENDOR / "lucide-1.62.0" / "sprite.svg").read_text()
    there = set(re.findall(r'<symbol id="([^"]+)"', sprite))
    templates = (STATIC.parent.parent / "templates").rglob("*.html")
    named = {
        name
        for path in templates
        for name in re.findall(r'icon\.html" with name="([^"]+)"', path.read_text())
    }
    assert named <= there


def test_no_script_or_sheet_names_another_host():
    own = [*STATIC.glob("js/*.js"), *STATIC.glob("css/*.css")]
    assert own
    for path in own:
        assert not re.search(r"https?://", path.read_text()), path.name
