"""A whole dcops with a small simulated hall, and a browser that keeps account of every complaint."""

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.server import PASSWORD, ROOT, USER, ScratchServer

NODES, GPUS = 3, 4
PATIENCE_S = 40.0

# Kept by the page itself: violations of the CSP, and a WebSocket that a test can cut, block and rob of frames.
WATCH = """
window.complaints = [];
document.addEventListener("securitypolicyviolation", (event) => complaints.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
window.sockets = [];
window.heard = [];
window.said = [];
window.block = false;
window.rob = 0;
const Real = WebSocket;
window.WebSocket = class extends Real {
  constructor(address) {
    super(window.block ? `${address}/nowhere` : address);
    window.sockets.push(this);
  }
  send(text) {
    window.said.push(JSON.parse(text));
    super.send(text);
  }
  set onmessage(handler) {
    super.onmessage = (event) => {
      const { type, seq } = JSON.parse(event.data);
      if (type === "update" && window.rob > 0) {
        window.rob -= 1;
        return;
      }
      window.heard.push([type, seq]);
      handler(event);
    };
  }
};
"""


class Hall:
    """The simulated nodes of this run: one process that a test may end and start again."""

    def __init__(self, server, directory):
        self.directory = directory
        self.command = [
            sys.executable, "-m", "agents.sim", "--server", server.url, "--state-dir", str(directory / "hall"),
            "--nodes", str(NODES), "--gpus-per-node", str(GPUS), "--seed", "7", "--xids-per-hour", "0", "--silence-every", "0", "--quiet",
        ]  # fmt: skip
        self.token = server.hall_token(NODES)
        self.process = None

    def start(self):
        if self.process is None:
            log = (self.directory / "hall.log").open("ab")
            self.process = subprocess.Popen(
                [*self.command, "--token", self.token], cwd=ROOT, stdout=log, stderr=log
            )

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None


@pytest.fixture(scope="module")
def server():
    with ScratchServer(env={"DCOPS_SILENT_AFTER_S": "5"}) as running:
        yield running


@pytest.fixture(scope="module")
def hall(server):
    directory = Path(tempfile.mkdtemp(prefix="dcops-browser-"))
    made = Hall(server, directory)
    made.start()
    deadline = time.monotonic() + PATIENCE_S
    with server.connect() as connection:
        while (
            connection.execute("SELECT count(DISTINCT subject_id) FROM gpu_sample").fetchone()[0]
            < NODES * GPUS
        ):
            assert time.monotonic() < deadline, (directory / "hall.log").read_text() + server.log(
                "web"
            )[-2000:]
            time.sleep(0.2)
    yield made
    made.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def _hall_runs(hall):
    """A test that ended the hall does not leave the next one without."""
    hall.start()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def session_cookies(server):
    found = [pair.split("=", 1) for pair in server.sign_in().split("; ")]
    return [{"name": name, "value": value, "url": server.url} for name, value in found]


@pytest.fixture
def tab(chromium, server, session_cookies):
    """Open a signed-in page; at the end it must have had nothing to complain about."""
    opened = []

    @contextmanager
    def open_tab(
        path="/", *, signed_in=True, expect_clean=True, width=1440, height=900, **options
    ):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            base_url=server.url,
            reduced_motion="reduce",
            **options,
        )
        context.add_init_script(WATCH)
        if signed_in:
            context.add_cookies(session_cookies)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        errors, hosts = [], set()
        page.on(
            "console",
            lambda message: (
                errors.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        page.on(
            "request",
            lambda request: hosts.add(request.url.split("/")[2]) if "://" in request.url else None,
        )
        opened.append(context)
        page.goto(path)
        yield page
        if expect_clean:
            assert page.evaluate("window.complaints") == []
            assert errors == []
            assert {host for host in hosts if not host.startswith("localhost:")} == set()
        context.close()

    yield open_tab
    for context in opened:
        context.close()


@pytest.fixture(scope="module")
def password():
    return USER, PASSWORD


@pytest.fixture
def gpu_uuid(server, hall):
    with server.connect() as connection:
        return connection.execute("SELECT uuid FROM fleet_gpu ORDER BY id LIMIT 1").fetchone()[0]


@pytest.fixture
def node_name(server, hall):
    with server.connect() as connection:
        return connection.execute("SELECT name FROM fleet_node ORDER BY id LIMIT 1").fetchone()[0]
