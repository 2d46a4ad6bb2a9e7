"""From a sample on a node to the number on the page, with a whole hall connected."""

import os
import shutil

from tests.bench.harness import NOT_INSTALLED, Result, soak
from tests.bench.server import ScratchServer
from tests.soak.hallprocess import HallProcess, directory, seconds

NODES = int(os.environ.get("SOAK_NODES", "1000"))
GPUS = 8

# Note, for every update, how old its sample is once the browser has drawn the next frame. One machine, one clock.
WATCH = """
window.ages = [];
window.seen = 0;
const Real = WebSocket;
window.WebSocket = class extends Real {
  set onmessage(handler) {
    super.onmessage = (event) => {
      handler(event);
      const data = JSON.parse(event.data);
      if (data.type !== "update" || data.at_us <= window.seen) return;
      window.seen = data.at_us;
      requestAnimationFrame(() => window.ages.push(Date.now() - data.at_us / 1000));
    };
  }
};
"""


@soak(
    "sample-to-page",
    row="sample taken to number changed on the page, 8,000 GPUs connected",
    unit="s, p95",
    goal=2.0,
    better="lower",
)
def sample_to_page() -> Result:
    """A GPU's page in Chromium for SOAK_SECONDS (60): the age of each new sample when its number stands on the page."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return Result(None, note=f"Chromium: {NOT_INSTALLED}")
    with (
        ScratchServer(directory=directory()) as server,
        HallProcess(server, NODES, gpus=GPUS) as hall,
    ):
        hall.wait_until_settled()
        ages = sorted(_ages(server, chromium, seconds("SOAK_SECONDS", 60.0)))
        hall.finish()

    def at(share: float) -> float:
        return round(ages[int(share * (len(ages) - 1))] / 1000, 2)

    return Result(
        at(0.95),
        note=f"p50 {at(0.5)} s, worst {at(1.0)} s of {len(ages)} updates; {NODES} nodes x {GPUS} GPUs",
    )


def _ages(server, chromium, duration_s):
    from playwright.sync_api import sync_playwright

    with server.connect() as connection:
        uuid = connection.execute("SELECT uuid FROM fleet_gpu ORDER BY id LIMIT 1").fetchone()[0]
    pairs = [pair.split("=", 1) for pair in server.sign_in().split("; ")]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.add_init_script(WATCH)
        page.context.add_cookies(
            [{"name": name, "value": value, "url": server.url} for name, value in pairs]
        )
        page.goto(f"{server.url}/gpus/{uuid}/")
        page.wait_for_selector('#live[data-state="live"]')
        page.wait_for_timeout(duration_s * 1000)
        ages = page.evaluate("window.ages")
        browser.close()
    return ages
