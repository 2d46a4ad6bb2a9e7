"""The pages in a real browser, against a real server fed by real (simulated) agents."""

import re
import time

import pytest

from tests.browser.conftest import GPUS, NODES, PATIENCE_S

pytestmark = [
    pytest.mark.needs_chromium,
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(240),
]

PAYLOAD = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def live(page, state="live"):
    page.wait_for_selector(f'#live[data-state="{state}"]')


def changes(page, selector):
    """Wait until the text of an element is another one."""
    before = page.inner_text(selector)
    page.wait_for_function(
        "([selector, before]) => document.querySelector(selector).innerText !== before",
        arg=[selector, before],
    )


def reload_until(page, holds):
    """Load the page again until it shows what the server knows by now."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(page):
        assert time.monotonic() < deadline, page.inner_text("body")
        page.wait_for_timeout(500)
        page.reload()


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?metric=health",
        "/nodes/",
        "/nodes/{node}/",
        "/nodes/{node}/?range=24h",
        "/gpus/{gpu}/",
        "/events/",
        "/password",
    ],
)
def test_a_page_breaks_no_policy_and_logs_no_error(tab, node_name, gpu_uuid, path, scheme):
    with tab(path.format(node=node_name, gpu=gpu_uuid), color_scheme=scheme) as page:
        assert page.inner_text("h1")
        if page.query_selector("#live"):
            live(page)
        for plot in page.query_selector_all(".plot")[:2]:
            plot.scroll_into_view_if_needed()
            plot.hover()
        page.wait_for_load_state("networkidle") if "password" in path else page.wait_for_timeout(
            300
        )


def test_the_sign_in_page_breaks_no_policy(tab):
    with tab("/", signed_in=False) as page:
        assert page.url.endswith("/sign-in")
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("path", ["/", "/nodes/", "/nodes/{node}/", "/gpus/{gpu}/", "/events/"])
def test_a_page_fits_a_telephone(tab, node_name, gpu_uuid, path):
    with tab(path.format(node=node_name, gpu=gpu_uuid), width=390, height=844) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_numbers_change_by_themselves(tab, gpu_uuid):
    with tab("/") as page:
        live(page)
        changes(page, '[data-tile="power"] .v')
        assert page.evaluate("heard.filter(([type]) => type === 'update').length") >= 1
        page.goto(f"/gpus/{gpu_uuid}/")
        live(page)
        changes(page, '[data-number="power_average_w"]')


def test_the_map_is_walked_with_the_keyboard(tab):
    with tab("/") as page:
        live(page)
        page.focus("#map")
        assert page.evaluate("document.querySelectorAll('#map [tabindex]').length") == 0, (
            "one tab stop"
        )
        said = [page.inner_text("#spoken")]
        for key in ["ArrowRight", "ArrowDown", "End", "Home", "PageDown"]:
            page.keyboard.press(key)
            said.append(page.inner_text("#spoken"))
        assert len(set(said)) >= 4
        assert all(re.search(r"GPU \d|host", words) for words in said)
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        place = re.match(r"(\S+) · GPU (\d+)", page.inner_text("#spoken"))
        page.keyboard.press("Enter")
        page.wait_for_url("**/gpus/**")
        assert page.inner_text("h1") == f"GPU {place[2]}"
        assert place[1] in page.inner_text(".crumbs")


def test_the_cell_under_the_pointer_is_spelled_out(tab):
    with tab("/?metric=power") as page:
        live(page)
        page.hover("#map canvas", position={"x": 12, "y": 28})
        page.wait_for_function("() => document.getElementById('readout').textContent !== ''")
        assert re.search(r"GPU 0 · Power .* W|GPU 0 · Power .* kW", page.inner_text("#readout"))
        assert "simulated" in page.inner_text("#readout")


def test_the_table_is_an_alternative_to_the_map(tab):
    with tab("/") as page:
        live(page)
        page.click("#as-table")
        page.wait_for_selector("#map-table tbody tr")
        assert (
            page.evaluate("document.querySelectorAll('#map-table tbody tr').length")
            == NODES * GPUS
        )
        assert page.get_attribute("#as-table", "aria-pressed") == "true"


def test_another_metric_needs_no_new_page(tab):
    with tab("/") as page:
        live(page)
        page.evaluate("window.same = true")
        page.click('#metrics [data-metric="temperature"]')
        page.wait_for_function(
            "document.querySelector('#ramp [data-end=high]').textContent === '90 °C'"
        )
        assert page.evaluate("window.same") is True
        assert "metric=temperature" in page.url


def test_a_cut_socket_is_replaced_by_polling_and_comes_back(tab):
    with tab("/", expect_clean=False) as page:
        live(page)
        page.evaluate("block = true; sockets.forEach((socket) => socket.close())")
        live(page, "polling")
        changes(page, '[data-tile="power"] .v')
        page.evaluate("block = false")
        live(page, "live")
        changes(page, '[data-tile="power"] .v')


def test_a_lost_update_makes_the_page_ask_for_a_snapshot(tab):
    with tab("/") as page:
        live(page)
        page.wait_for_function("() => heard.some(([type]) => type === 'update')")
        page.evaluate("heard.length = 0; said.length = 0; rob = 1")
        page.wait_for_function("() => said.some((message) => message.type === 'resync')")
        page.wait_for_function("() => heard.some(([type]) => type === 'snapshot')")
        changes(page, '[data-tile="power"] .v')


def test_signing_out_elsewhere_ends_the_live_page(tab, server, password):
    with tab("/", signed_in=False, expect_clean=False) as page:
        page.fill("[name=username]", password[0])
        page.fill("[name=password]", password[1])
        page.click("button.main")
        live(page)
        other = page.context.new_page()
        other.goto("/")
        other.click(".who button")
        other.wait_for_url("**/sign-in")
        page.wait_for_url("**/sign-in*")


def test_the_language_is_switched_and_stays(tab):
    with tab("/") as page:
        page.click('button[name="language"][value="zh-hans"]')
        page.wait_for_selector("html[lang=zh-hans]")
        assert page.inner_text("h1") == "总览"
        live(page)
        page.wait_for_function("() => heard.some(([type]) => type === 'update')")
        assert page.inner_text('[data-tile="used"] .k') == "使用中的 GPU"
        page.goto("/nodes/")
        assert page.inner_text("h1") == "节点"


def test_the_theme_is_switched_and_stays(tab):
    with tab("/events/", color_scheme="light") as page:
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click('button[name="theme"][value="dark"]')
        page.wait_for_selector("html[data-theme=dark]")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark != light
        page.goto("/nodes/")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_the_range_lives_in_the_url_and_reaches_the_data(tab, gpu_uuid):
    with tab(f"/gpus/{gpu_uuid}/") as page:
        with page.expect_request(
            lambda request: "/series/" in request.url and "range=6h" in request.url
        ):
            page.click("text='6 h'")
        assert "range=6h" in page.url


def test_charts_never_offer_to_send_data_away(tab, gpu_uuid):
    with tab(f"/gpus/{gpu_uuid}/") as page:
        page.wait_for_selector("#chart-power .main-svg")
        page.hover("#chart-power .plot")
        page.wait_for_selector("#chart-power .modebar-btn", state="attached")
        titles = page.evaluate(
            "[...document.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title ?? '')"
        )
        assert titles
        assert not [
            title
            for title in titles
            if re.search(r"share|cloud|edit|plotly", title, re.IGNORECASE)
        ]
        assert (
            page.evaluate(
                "document.getElementById('chart-power').querySelector('.plot')._context.plotlyServerURL"
            )
            == ""
        )


def test_limits_are_drawn(tab, gpu_uuid):
    with tab(f"/gpus/{gpu_uuid}/") as page:
        page.wait_for_selector("#chart-temperature .annotation-text", state="attached")
        assert "slowdown" in page.evaluate(
            "document.querySelector('#chart-temperature .plot').textContent"
        )


def test_what_agents_report_is_text_and_never_markup(tab, server, node_name, gpu_uuid):
    with server.connect() as connection:
        connection.execute(
            "UPDATE fleet_gpu SET model = %s, serial = %s, vbios = %s", [PAYLOAD] * 3
        )
        connection.execute(
            "UPDATE fleet_node SET hostname = %s, os = %s, cpu_model = %s, kernel = %s",
            [PAYLOAD] * 4,
        )
        connection.execute(
            "INSERT INTO telemetry_event (at, received_at, node_id, gpu_id, kind, severity, message, key, source) "
            "SELECT now(), now(), g.node_id, g.id, %s, 'critical', %s, 'xss', 'test' FROM fleet_gpu g WHERE uuid = %s",
            ["agent", PAYLOAD, gpu_uuid],
        )
    for path in ("/", "/nodes/", f"/nodes/{node_name}/", f"/gpus/{gpu_uuid}/", "/events/"):
        with tab(path) as page:
            reload_until(page, lambda page: PAYLOAD in page.inner_text("body"))
            assert page.evaluate("document.querySelectorAll('img').length") == 0
            if page.query_selector("#live"):
                live(page)
            if "/gpus/" in path:
                page.wait_for_selector("#chart-power .main-svg")
                page.hover("#chart-power .plot")


def test_a_silent_node_looks_stale_and_its_chart_has_a_gap(tab, hall, node_name, gpu_uuid):
    with tab(f"/nodes/{node_name}/") as page:
        live(page)
        hall.stop()
        page.wait_for_selector("#stale:not([hidden])")
        assert "Last sample" in page.inner_text("#last-sample")
        assert page.evaluate("document.getElementById('content').classList.contains('stale-page')")
        assert page.evaluate("document.querySelectorAll('#gpus tr.stale').length") == GPUS
        page.goto("/")
        live(page)
        page.wait_for_function(
            "name => document.getElementById('attention').innerText.includes(`${name} has been silent`)",
            arg=node_name,
        )
        page.focus("#map")
        page.wait_for_function(
            "() => document.getElementById('readout').innerText.includes('stale')"
        )
        hall.start()
        page.goto(f"/gpus/{gpu_uuid}/")
        page.wait_for_selector("#stale", state="hidden")
        page.wait_for_function(
            """() => {
              const y = document.querySelector('#chart-power .plot')?.data?.[0]?.y ?? [];
              const gap = y.lastIndexOf(null);
              return gap > 0 && y.slice(0, gap).some((v) => v !== null) && y.slice(gap).some((v) => v !== null);
            }"""
        )
        pieces = page.evaluate(
            "document.querySelectorAll('#chart-power .scatterlayer .trace:first-child .js-line').length"
        )
        assert pieces >= 2, "a gap is a break in the line"
