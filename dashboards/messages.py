"""The maintainer's tool for translations: `python -m dashboards.messages` collects every text and compiles what is translated.

Needs the gettext programs; running dcops does not. The names of the metric registry, which is plain data, are collected too.
"""

import os
import shutil
import subprocess
from pathlib import Path

import django
from django.core.management import call_command

from dcops.domain.metrics import CLOCK_EVENT_REASONS, RECOVERY_ACTIONS, TABLES
from dcops.domain.xid import XIDS

ROOT = Path(__file__).resolve().parent.parent
LOCALE = "zh_Hans"
COLLECTED = ROOT / "dashboards" / "_registry_names.py"


def registry_names() -> list[str]:
    """Names of the registry that pages show through gettext, each once."""
    labels = [metric.label for table in TABLES for metric in table.metrics]
    titles = [title for _, title in XIDS.values()]
    return sorted({*labels, *titles, *CLOCK_EVENT_REASONS.values(), *RECOVERY_ACTIONS})


def compile_catalogue() -> None:
    """Compile our own django.po; Django's command would walk into every package below, too."""
    msgfmt = shutil.which("msgfmt")
    if msgfmt is None:
        raise SystemExit("msgfmt is not installed. On Debian or Ubuntu: apt install gettext")
    catalogue = ROOT / "dcops" / "locale" / LOCALE / "LC_MESSAGES" / "django.po"
    subprocess.run([msgfmt, "-o", catalogue.with_suffix(".mo"), catalogue], check=True)  # noqa: S603


def main() -> None:
    """Rewrite django.po with all texts, keeping translations, and compile it."""
    os.environ.setdefault("DCOPS_SECRET_KEY", "only to collect texts")
    os.environ.setdefault("DCOPS_DATABASE_URL", "postgresql://nobody@localhost/none")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")
    os.chdir(ROOT)
    django.setup()
    lines = [f"gettext_noop({name!r})" for name in registry_names()]
    COLLECTED.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        call_command(
            "makemessages",
            locale=[LOCALE],
            no_wrap=True,
            no_location=True,
            no_obsolete=True,
            ignore_patterns=[".venv/*", "tests/*", "agents/*", "build/*", ".dcops/*"],
        )
    finally:
        COLLECTED.unlink()
    compile_catalogue()


if __name__ == "__main__":
    main()
