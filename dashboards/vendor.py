"""The maintainer's tool that vendors JavaScript, CSS, fonts and icons: `python -m dashboards.vendor`.

Users need only Python: what this writes under static/vendor is committed, with its licence and a vendor.json that records the
npm name, version, the tarball's digest and each file's digest. A test compares the digests with the files.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).parent / "static"
VENDOR = STATIC / "vendor"

ICONS = (
    "activity", "chart-line", "check", "chevron-right", "circle-help", "cpu", "gauge", "hard-drive", "key-round", "languages", "layout-grid",
    "log-out", "map", "memory-stick", "microchip", "moon", "network", "plug-zap", "plus", "rows-3", "scroll-text", "server", "sun",
    "sun-moon", "table-2", "thermometer", "user", "zap",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Package:
    """One npm package at one version, and which of its files we keep under which name."""

    npm: str
    version: str
    folder: str
    files: dict[str, str]
    licence: str = "LICENSE"


PACKAGES = (
    Package("plotly.js", "4.1.1", "plotly", {
        "dist/plotly-cartesian.min.js": "plotly-cartesian.min.js",
        "dist/plotly-locale-zh-cn.js": "plotly-locale-zh-cn.js",
        "dist/plotly.css": "plotly.css",
    }),
    Package("uplot", "1.6.32", "uplot", {"dist/uPlot.iife.min.js": "uPlot.iife.min.js", "dist/uPlot.min.css": "uPlot.min.css"}),
    Package("@fontsource-variable/inter", "5.3.0", "inter", {"files/inter-latin-wght-normal.woff2": "inter-latin-wght-normal.woff2"}),
    Package("@fontsource/jetbrains-mono", "5.3.0", "jetbrains-mono", {
        "files/jetbrains-mono-latin-400-normal.woff2": "jetbrains-mono-latin-400-normal.woff2",
    }),
    Package("lucide-static", "1.62.0", "lucide", {}),
)  # fmt: skip


def digest(data: bytes, algorithm: str = "sha256") -> str:
    """Hex digest of the bytes."""
    return hashlib.new(algorithm, data).hexdigest()


def sprite(icons: Path) -> bytes:
    """One SVG file with a <symbol> per icon, its strokes in the colour of the text around it."""
    symbols = []
    for name in ICONS:
        text = (icons / f"{name}.svg").read_text(encoding="utf-8")
        body = re.sub(r"<!--.*?-->", "", text, flags=re.S)
        inner = body[body.index(">", body.index("<svg")) + 1 : body.rindex("</svg>")]
        paths = re.sub(r"\s+", " ", inner).strip()
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{paths}</symbol>')
    return ('<svg xmlns="http://www.w3.org/2000/svg">' + "".join(symbols) + "</svg>\n").encode()


def wanted(package: Package, root: Path) -> dict[str, bytes]:
    """The files to keep, by name. A source map that is not shipped is not pointed at either."""
    kept = {target: (root / source).read_bytes() for source, target in package.files.items()}
    if package.folder == "lucide":
        kept["sprite.svg"] = sprite(root / "icons")
    kept["LICENSE"] = (root / package.licence).read_bytes()
    return {
        name: re.sub(rb"\n?(//# |/\*# )sourceMappingURL=.*", b"", data)
        for name, data in kept.items()
    }


def fetch(package: Package, work: Path) -> bytes:
    """The package's tarball, as the npm registry serves it."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed. Vendoring needs it; running dcops does not.")
    answer = subprocess.run(  # noqa: S603 - fixed arguments
        [npm, "pack", "--json", f"{package.npm}@{package.version}"],
        cwd=work,
        check=True,
        capture_output=True,
    )
    name: str = json.loads(answer.stdout)[0]["filename"]
    return (work / name).read_bytes()


def vendor(package: Package) -> None:
    """Fetch one package and write its kept files and vendor.json."""
    target = VENDOR / f"{package.folder}-{package.version}"
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        tarball = fetch(package, work)
        (work / "package.tgz").write_bytes(tarball)
        with tarfile.open(work / "package.tgz") as archive:
            archive.extractall(work, filter="data")
        kept = wanted(package, work / "package")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, data in kept.items():
        (target / name).write_bytes(data)
    record = {
        "npm": package.npm,
        "version": package.version,
        "tarball_sha512": digest(tarball, "sha512"),
        "files": {name: digest(data) for name, data in sorted(kept.items())},
    }
    (target / "vendor.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Vendor all packages, or those whose folder is named on the command line."""
    chosen = set(sys.argv[1:])
    for package in PACKAGES:
        if not chosen or package.folder in chosen:
            vendor(package)


if __name__ == "__main__":
    main()
