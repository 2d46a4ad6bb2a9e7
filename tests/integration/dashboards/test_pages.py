"""The pages as Django answers them: who sees what, what a form does, how many queries a page may cost."""

import re

import pytest
from django.test import Client

from dashboards import frames
from dcops import clock
from dcops.access.models import Role, User
from dcops.fleet.models import Gpu, JoinToken, Node

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh_state():
    frames.state.cache_clear()
    yield
    frames.state.cache_clear()


def signed_in(role):
    client = Client()
    client.force_login(User.objects.create(username=f"the-{role}", role=role))
    return client


@pytest.fixture
def viewer():
    return signed_in(Role.VIEWER)


@pytest.fixture
def administrator():
    return signed_in(Role.ADMINISTRATOR)


def make_node(name, gpus=0, state="approved", **more):
    now = clock.now()
    token, _ = JoinToken.objects.get_or_create(
        id="test",
        defaults={
            "secret_sha256": b"",
            "uses_left": 0,
            "created_at": now,
            "created_by": "",
            "expires_at": now,
        },
    )
    node = Node.objects.create(
        name=name,
        state=state,
        state_changed_at=now,
        public_key=name.encode(),
        join_token=token,
        enrolled_at=now,
        **more,
    )
    for index in range(gpus):
        Gpu.objects.create(
            uuid=f"GPU-{name}-{index}",
            node=node,
            index=index,
            model="H100",
            first_seen_at=now,
            last_seen_at=now,
        )
    return node


PATHS = [
    "/",
    "/nodes/",
    "/nodes/a/",
    "/nodes/bare/",
    "/gpus/GPU-a-1/",
    "/events/",
    "/nodes/a/?range=30d",
    "/events/?level=critical",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_a_page_is_there_before_any_sample_and_in_both_languages(viewer, path, language):
    make_node("a", gpus=2)
    make_node("bare")
    answer = viewer.get(path, headers={"Accept-Language": language})
    assert answer.status_code == 200
    assert f'<html lang="{language}"' in answer.content.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/nodes/none/",
        "/gpus/GPU-none/",
        "/nodes/a/gpus/9/",
        "/series/gpu_sample/GPU-none?metrics=energy_mj",
    ],
)
def test_what_is_not_there_is_a_404(viewer, path):
    make_node("a", gpus=1)
    assert viewer.get(path).status_code == 404


def test_a_seat_leads_to_the_gpu_that_sits_there(viewer):
    make_node("a", gpus=2)
    assert viewer.get("/nodes/a/gpus/1/").url == "/gpus/GPU-a-1/"


@pytest.mark.parametrize("nodes", [1, 40])
@pytest.mark.parametrize(
    ("path", "queries"),
    [("/", 20), ("/nodes/", 20), ("/nodes/a0/", 30), ("/gpus/GPU-a0-0/", 30), ("/events/", 20)],
)
def test_a_page_costs_a_bounded_number_of_queries_at_any_size(
    viewer, django_assert_max_num_queries, path, queries, nodes
):
    for i in range(nodes):
        make_node(f"a{i}", gpus=8)
    # A first look fills the trends of a small fleet subject by subject, once per process.
    viewer.get("/")
    with django_assert_max_num_queries(queries):
        assert viewer.get(path).status_code == 200


def test_only_an_administrator_is_offered_tokens_and_approval(viewer, administrator):
    make_node("new", state="pending")
    page = viewer.get("/nodes/").content.decode()
    assert "/nodes/new/approve" not in page
    assert "/nodes/add" not in page
    page = administrator.get("/nodes/").content.decode()
    assert "/nodes/new/approve" in page
    assert "/nodes/add" in page


def test_a_viewer_may_neither_approve_nor_make_tokens(viewer):
    make_node("new", state="pending")
    assert viewer.post("/nodes/new/approve").status_code == 403
    assert viewer.post("/nodes/add").status_code == 403
    assert Node.objects.get().state == "pending"


def test_approving_is_one_click(administrator):
    make_node("new", state="pending")
    assert administrator.post("/nodes/new/approve").status_code == 302
    assert Node.objects.get().state == "approved"


def test_a_new_token_is_shown_with_the_exact_command(administrator):
    page = administrator.post(
        "/nodes/add", {"node_name": "gpu-7", "auto_approve": "on"}
    ).content.decode()
    assert re.search(
        r"dcops-agent join --server http://testserver --token dcops1\.[0-9a-f]{64}\.\w+\.\w+", page
    )
    token = JoinToken.objects.get()
    assert (token.node_name, token.auto_approve, token.uses_left) == ("gpu-7", True, 1)


def test_a_bad_node_name_is_said_at_its_field(administrator):
    answer = administrator.post("/nodes/add", {"node_name": "No Good"})
    assert answer.status_code == 422
    assert "hyphens inside" in answer.content.decode()
    assert not JoinToken.objects.exists()


@pytest.mark.parametrize(
    "query",
    [
        "metrics=",
        "metrics=nonsense",
        "metrics=energy_mj&points=0",
        "metrics=energy_mj&points=x",
        "metrics=energy_mj&range=1y",
    ],
)
def test_a_series_that_cannot_be_answered_says_so(viewer, query):
    make_node("a", gpus=1)
    answer = viewer.get(f"/series/gpu_sample/GPU-a-0?{query}")
    assert answer.status_code == 422


def test_a_series_without_samples_is_all_gaps(viewer):
    make_node("a", gpus=1)
    answer = viewer.get(
        "/series/gpu_sample/GPU-a-0?metrics=power_average_w,energy_mj&range=1h&points=100"
    ).json()
    assert len(answer["t_ms"]) <= 101
    assert set(answer["columns"]) == {"power_average_w", "energy_mj"}
    assert all(value is None for column in answer["columns"].values() for value in column)


def test_preferences_are_kept_and_lead_back(viewer):
    answer = viewer.post("/preferences", {"theme": "dark", "next": "/nodes/?x=1"})
    assert (answer.url, answer.cookies["dcops_theme"].value) == ("/nodes/?x=1", "dark")
    assert 'data-theme="dark"' in viewer.get("/nodes/").content.decode()


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "javascript:alert(1)", ""]
)
def test_preferences_never_lead_elsewhere(viewer, target):
    assert viewer.post("/preferences", {"theme": "dark", "next": target}).url == "/"


def test_preferences_take_only_what_exists(viewer):
    answer = viewer.post("/preferences", {"theme": '"><script>', "language": "xx"})
    assert not answer.cookies


def test_simulated_is_said_on_every_page_that_shows_it(viewer):
    make_node("hall", gpus=1, simulated=True)
    for path in ("/", "/nodes/", "/nodes/hall/", "/gpus/GPU-hall-0/"):
        assert re.search(r'class="pill sim">\s*simulated', viewer.get(path).content.decode()), path
