"""docker-compose.yml, as it stands, runs the product: every service's own command, split behind a real nginx."""

import asyncio
import json
import re
import shutil
import signal
import ssl
import subprocess

import httpx2
import pytest
import websockets

from tests.acceptance.compose import BIN, Compose
from tests.acceptance.launcher import clean_environment, wait_until
from tests.servers import ROOT, make_data_dir

pytestmark = [pytest.mark.needs_nginx, pytest.mark.xdist_group("compose")]
PASSWORD = "correct horse battery staple 7"


@pytest.fixture(scope="module")
def compose():
    home = make_data_dir()
    running = Compose(home)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def trust(compose):
    return ssl.create_default_context(cafile=compose.secrets / "ca.pem")


@pytest.fixture(scope="module")
def browser(compose, trust):
    """Somebody who came by the set-up link and made an account."""
    link = compose.run("web", ["dcops", "setup-link"])
    assert link.startswith(compose.url)
    with httpx2.Client(verify=trust, follow_redirects=True) as client:
        form = client.get(link)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)[1]
        fields = {
            "csrfmiddlewaretoken": token,
            "username": "ada",
            "password": PASSWORD,
            "password_again": PASSWORD,
        }
        answer = client.post(form.url, data=fields, headers={"Referer": str(form.url)})
        assert answer.status_code == 200, answer.text
        yield client


def test_plain_http_only_leads_to_tls(compose):
    answer = httpx2.get(f"http://localhost:{compose.ports['http']}/agent/v1/identity")
    assert answer.status_code == 308
    assert answer.headers["location"].startswith("https://")


def test_pages_and_their_files_come_through_the_proxy(compose, browser):
    page = browser.get(compose.url + "/")
    assert page.status_code == 200
    assert str(page.url) == compose.url + "/"
    assert "max-age" in page.headers["strict-transport-security"]
    paths = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert paths
    for path in paths:
        assert browser.get(compose.url + path).status_code == 200, path


def test_the_session_is_bound_to_tls_and_this_host(browser):
    session = next(c for c in browser.cookies.jar if "session" in c.name)
    assert session.name.startswith("__Host-dcops_session_")
    assert session.secure


def test_who_asks_is_taken_from_the_proxy_and_not_from_the_client(compose, browser, trust):
    with httpx2.Client(verify=trust) as stranger:
        form = stranger.get(compose.url + "/sign-in")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)[1]
        stranger.post(
            form.url,
            data={"csrfmiddlewaretoken": token, "username": "eve", "password": "guess"},
            headers={"Referer": str(form.url), "X-Forwarded-For": "203.0.113.7"},
        )
    events = browser.get(compose.url + "/api/v1/audit").json()["items"]
    refused = next(event for event in events if event["decision"] != "allowed")
    assert refused["source_ip"] == "127.0.0.1"


def test_a_node_joins_through_the_proxy_and_its_numbers_arrive_live(
    compose, browser, trust, tmp_path
):
    given = json.loads(
        compose.run("web", ["dcops", "node", "token", "--approve", "--name", "rack-1", "--json"])
    )
    state, env = tmp_path / "agent", clean_environment(DCOPS_JOIN_TOKEN=given["token"])
    join = [BIN / "dcops-agent", "join", "--server", compose.url, "--state-dir", state]
    subprocess.run(join, env=env, check=True, capture_output=True, timeout=60)
    agent = subprocess.Popen(
        [BIN / "dcops-agent", "run", "--state-dir", state],
        env=clean_environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(
            lambda: _node(compose, browser)["last_seen_at"], 60, lambda: compose.log("ingest")
        )
        frames = asyncio.run(_watch(compose, browser, trust))
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(20) == 0
    assert frames[0]["type"] == "snapshot"
    assert [frame["type"] for frame in frames[1:]] == ["update", "update"]
    numbers = [frame["seq"] for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def _node(compose, browser):
    answer = browser.get(compose.url + "/api/v1/nodes/rack-1")
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "approved"
    return answer.json()


async def _watch(compose, browser, trust):
    cookie = "; ".join(f"{entry.name}={entry.value}" for entry in browser.cookies.jar)
    address = compose.url.replace("https", "wss") + "/live/socket"
    async with websockets.connect(
        address, ssl=trust, origin=compose.url, additional_headers={"Cookie": cookie}
    ) as socket:
        await socket.send(json.dumps({"type": "subscribe", "panel": "node", "node": "rack-1"}))
        return [json.loads(await asyncio.wait_for(socket.recv(), 20)) for _ in range(3)]


def test_the_services_own_health_checks_pass_and_notice_an_end(compose, browser):
    for name in ("web", "live", "ingest", "worker"):
        assert compose.health(name), f"{name}: {compose.log(name)}"
    live = compose.processes["live"]
    live.send_signal(signal.SIGTERM)
    live.wait(20)
    assert not compose.health("live")
    assert browser.get(compose.url + "/").status_code == 200


def test_no_service_is_reachable_but_the_proxy_and_none_has_a_default_password(compose):
    for name, service in compose.file["services"].items():
        assert ("ports" in service) == (name == "proxy"), name
        for key, value in service.get("environment", {}).items():
            assert (
                not ("PASSWORD" in key or "SECRET" in key or "_URL" in key)
                or key.endswith("_FILE")
                or key == "DCOPS_PUBLIC_URL"
            ), (name, key, value)
    for secret in compose.file["secrets"].values():
        assert (ROOT / secret["file"]).parent.name == "secrets"


def test_each_service_gets_only_the_secrets_it_uses(compose):
    uses = {
        name: set(service.get("secrets", [])) for name, service in compose.file["services"].items()
    }
    assert [name for name, secrets in uses.items() if "owner_database_url" in secrets] == [
        "migrate"
    ]
    assert [name for name, secrets in uses.items() if "postgres_admin" in secrets] == ["postgres"]
    assert [name for name, secrets in uses.items() if "tls_key" in secrets] == ["proxy"]
    for name, service in compose.file["services"].items():
        text = json.dumps([service.get("environment", {}), service.get("command", [])])
        named = set(re.findall(r"/run/secrets/(\w+)", text))
        assert named <= uses[name], name
