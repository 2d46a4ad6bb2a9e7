"""The browser's socket: who may open it, what it says, and when it ends."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.test import Client

from dashboards import frames, live
from dcops.access.models import Role, User

pytestmark = pytest.mark.django_db(transaction=True)
HOST = "localhost:8000"
ORIGIN = f"http://{HOST}"
PASSWORD = "a long enough password"


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch):
    frames.state.cache_clear()
    monkeypatch.setattr(live, "hub", live.Hub())
    monkeypatch.setattr(live, "TICK_S", 0.05)
    yield
    frames.state.cache_clear()


@pytest.fixture
def client():
    user = User(username="viewer", role=Role.VIEWER)
    user.set_password(PASSWORD)
    user.save()
    signed_in = Client()
    signed_in.force_login(user)
    return signed_in


def headers(client=None, origin=ORIGIN, language=""):
    found = {settings.SESSION_COOKIE_NAME: client.session.session_key} if client else {}
    if language:
        found[settings.LANGUAGE_COOKIE_NAME] = language
    cookie = "; ".join(f"{name}={value}" for name, value in found.items())
    return [(b"host", HOST.encode()), (b"origin", origin.encode()), (b"cookie", cookie.encode())]


@asynccontextmanager
async def opened(sent_headers, path=live.PATH):
    scope = {"type": "websocket", "path": path, "headers": sent_headers}
    socket = ApplicationCommunicator(live.live_application, scope)
    await socket.send_input({"type": "websocket.connect"})
    try:
        yield socket
    finally:
        socket.stop(exceptions=False)
        for task in live.hub._tasks:
            task.cancel()


async def ask(socket, **message):
    await socket.send_input({"type": "websocket.receive", "text": json.dumps(message)})


async def told(socket):
    message = await socket.receive_output(5)
    assert message["type"] == "websocket.send", message
    return json.loads(message["text"])


async def told_until(socket, kind):
    while True:
        data = await told(socket)
        if data["type"] == kind:
            return data


async def signed_in(client, **more):
    return await live.in_thread(lambda: headers(client, **more))


@pytest.mark.parametrize("origin", ["http://evil.example", "", "null", "http://localhost:8001"])
async def test_a_page_of_another_origin_opens_nothing(client, origin):
    async with opened(await signed_in(client, origin=origin)) as socket:
        assert await socket.receive_output(5) == {"type": "websocket.close", "code": live.POLICY}


async def test_nobody_is_turned_away():
    async with opened(headers()) as socket:
        assert (await socket.receive_output(5))["type"] == "websocket.accept"
        assert await socket.receive_output(5) == {
            "type": "websocket.close",
            "code": live.SIGNED_OUT,
        }


async def test_a_viewer_gets_a_snapshot_and_then_numbered_updates(client):
    async with opened(await signed_in(client)) as socket:
        await socket.receive_output(5)
        await ask(socket, type="subscribe", panel="overview", metric="power")
        first = await told(socket)
        assert (first["type"], first["metric"], first["nodes"]) == ("snapshot", "power", [])
        following = [await told(socket) for _ in range(3)]
        assert [data["type"] for data in following] == ["update"] * 3
        assert [data["seq"] for data in following] == [first["seq"] + n for n in (1, 2, 3)]


async def test_a_resync_starts_from_a_new_snapshot(client):
    async with opened(await signed_in(client)) as socket:
        await socket.receive_output(5)
        await ask(socket, type="subscribe", panel="overview", metric="power")
        before = await told_until(socket, "update")
        await ask(socket, type="resync")
        again = await told_until(socket, "snapshot")
        assert again["seq"] >= before["seq"]
        assert (await told_until(socket, "update"))["seq"] == again["seq"] + 1


async def test_the_panel_speaks_the_viewers_language(client):
    async with opened(await signed_in(client, language="zh-hans")) as socket:
        await socket.receive_output(5)
        await ask(socket, type="subscribe", panel="overview", metric="power")
        assert (await told(socket))["tiles"][0]["label"] == "上报中的节点"


async def test_a_wrong_request_is_answered_and_the_socket_stays(client):
    async with opened(await signed_in(client)) as socket:
        await socket.receive_output(5)
        await socket.send_input({"type": "websocket.receive", "text": "{not json"})
        assert (await told(socket))["type"] == "error"
        await ask(socket, type="subscribe", panel="node", node="nowhere")
        assert (await told(socket))["message"]
        await ask(socket, type="subscribe", panel="overview", metric="health")
        assert (await told(socket))["type"] == "snapshot"


async def test_a_message_that_is_too_long_ends_the_socket(client):
    async with opened(await signed_in(client)) as socket:
        await socket.receive_output(5)
        await socket.send_input(
            {"type": "websocket.receive", "text": "x" * (live.MAX_MESSAGE + 1)}
        )
        assert await socket.receive_output(5) == {"type": "websocket.close", "code": live.POLICY}


def sign_out(client):
    client.post("/sign-out")


def disable(client):
    User.objects.update(is_active=False)


def change_password(client):
    user = User.objects.get()
    user.set_password("another long password")
    user.save()


@pytest.mark.parametrize("revoke", [sign_out, disable, change_password])
async def test_the_socket_ends_when_the_session_does(client, revoke, monkeypatch):
    monkeypatch.setattr(live, "RECHECK_S", 0.05)
    async with opened(await signed_in(client)) as socket:
        await socket.receive_output(5)
        await live.in_thread(lambda: revoke(client))
        assert await socket.receive_output(5) == {
            "type": "websocket.close",
            "code": live.SIGNED_OUT,
        }


async def test_a_panel_is_computed_once_for_all_its_viewers(client, monkeypatch):
    made = []

    def counted(key, view, kind, seq):
        made.append((kind, seq))
        return frames.frame_bytes(key, view, kind, seq)

    monkeypatch.setattr(live, "make_frame", counted)
    key = frames.PanelKey("overview", "", "power", "en")
    viewers = [live.Viewer("en") for _ in range(50)]
    for viewer in viewers:
        await live.hub.subscribe(viewer, key)
    view = await live.in_thread(lambda: frames.state().view(live.clock.now()))
    await live.hub._send_all(view)
    assert made == [("snapshot", 0), ("update", 1)]
    assert len({id(viewer.take()[-1]) for viewer in viewers}) == 1


def test_a_slow_reader_holds_a_snapshot_and_the_newest_update_at_most():
    viewer = live.Viewer("en")
    viewer.start(b"snapshot")
    for number in range(100):
        viewer.offer(b"update %d" % number)
    assert viewer.take() == [b"snapshot", b"update 99"]
    assert viewer.take() == []


async def test_a_panel_nobody_watches_is_forgotten(client):
    key = frames.PanelKey("overview", "", "power", "en")
    viewer = live.Viewer("en")
    await live.hub.subscribe(viewer, key)
    await live.hub.subscribe(viewer, key._replace(metric="memory"))
    assert [watched.metric for watched in live.hub.watched] == ["memory"]
    live.hub.leave(viewer)
    assert live.hub.watched == {}


def test_polling_gives_the_same_snapshot(client):
    answer = client.get("/live/overview", {"metric": "power"})
    assert answer.status_code == 200
    assert answer.json()["type"] == "snapshot"
    assert {"tiles", "nodes", "trends", "values", "marks"} <= set(answer.json())
    assert client.get("/live/overview", {"metric": "colour"}).status_code == 404
    assert Client().get("/live/overview").status_code in (302, 401)


def test_closing_the_loop_leaves_no_task():
    assert asyncio.run(_start_and_stop()) == []


async def _start_and_stop():
    live.hub.start()
    await asyncio.sleep(0)
    for task in live.hub._tasks:
        task.cancel()
    await asyncio.gather(*live.hub._tasks, return_exceptions=True)
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
