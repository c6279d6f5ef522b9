"""The page in a real browser: what an operator sees and does.

Screenshots are kept in the folder that PAGE_SHOTS names, else in one that is printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.state import controls
from ingest.store import keys

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: see the test extra")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

ROOT = Path(__file__).parents[3]
TOKEN = "correct-horse-battery"
HANDLERS = """
import os
from workers import Handlers, Reject

handlers = Handlers()

@handlers.message()
def on_message(message):
    with open(os.environ["SEEN"], "a") as out:
        out.write(message.text + "\\n")
    if not os.path.exists(os.environ["SEEN"] + ".mended"):
        raise Reject("no")
"""

Open = Callable[..., Any]


def message(text: str) -> bytes:
    return json.dumps({"messages": [{"from": "1555", "id": text, "type": "text", "text": {"body": text}}]}).encode()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window."""
    with api.sync_playwright() as playwright:
        api.expect.set_options(timeout=30_000)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("PAGE_SHOTS") or tmp_path_factory.mktemp("page"))
    folder.mkdir(exist_ok=True, parents=True)
    print(f"screenshots: {folder}")
    return folder


@pytest.fixture
def open_page(browser: Any, shots: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Open the page of a receiver. At the end: a screenshot, no error on the console, nothing asked of other hosts."""
    opened: list[Any] = []
    said: list[str] = []
    asked: set[str] = set()
    here: set[str] = set()

    def begin(receiver: Any, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        page = context.new_page()
        opened.append(page)
        page.on("console", lambda line: said.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda it: asked.add(re.sub(r"^(\w+:(?://[^/]*)?).*", r"\1", it.url, flags=re.S)))
        address = f"http://127.0.0.1:{receiver.admin_port}"
        here.add(address)
        page.goto(address)
        api.expect(page.locator("#freshness-text")).to_have_text("live")
        return page

    yield begin
    for n, page in enumerate(opened):
        name = request.node.name.removeprefix("test_")
        page.screenshot(path=shots / f"{name}{n or ''}.png", full_page=True)
        page.context.close()
    # Chromium itself tells of every 401, which is the right answer to a wrong token.
    assert [line for line in said if line.startswith(("error", "warning")) and "status of 401" not in line] == []
    assert asked == here


@pytest.fixture(scope="module")
def shared_receiver(valkey: Any, start_module_receiver: Callable[..., Any]) -> Any:
    """One receiver for the module, whose page may act."""
    return start_module_receiver(f"unix://{valkey.unix_socket_path}", WA_ADMIN_TOKEN=TOKEN)


@pytest.fixture
def receiver(shared_receiver: Any, redis: Redis) -> Any:
    """That one, its Redis empty."""
    return shared_receiver


def headline(page: Any, text: str) -> None:
    api.expect(page.locator("#headline")).to_contain_text(text)


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def unlock(page: Any, token: str = TOKEN) -> None:
    button(page, "Unlock actions").click()
    page.get_by_label("Admin token").fill(token)
    button(page, "Unlock").click()


def write_letters(redis: Redis, count: int, reason: str = "failed", lane: str = "messages") -> None:
    for _ in range(count):
        fields: Any = {"reason": reason, "kind": "message", "detail": "Kerry", "attempt": 8, "body": b"Fisher"}
        redis.xadd(keys.dead_key(lane), fields)


def alive(redis: Redis) -> None:
    """A worker is alive for the next hour."""
    seconds: Any = redis.time()[0]  # type: ignore[index]
    redis.zadd(keys.ALIVE, {"8e2f0a4bc1d2e3f4": (seconds + 3600) * 1000})


def test_figures_change_by_themselves(receiver: Any, redis: Redis, open_page: Open) -> None:
    """What is committed shows within moments, in figures and in words, without a reload."""
    alive(redis)
    page = open_page(receiver)
    headline(page, "All is well")
    for n in range(3):
        assert receiver.post(message(str(n))).status == 200
    card = page.get_by_role("article", name="messages")
    api.expect(card.locator(".big")).to_have_text("3")
    api.expect(page.locator("#findings")).to_contain_text("messages: 3 waiting, oldest")
    redis.delete(keys.ALIVE)
    headline(page, "No worker is alive: 3 notifications wait")
    api.expect(page.locator("#announce")).to_contain_text("No worker is alive")
    assert page.title().startswith("No worker is alive")
    alt = card.get_by_role("img").first.get_attribute("aria-label")
    assert re.fullmatch(r"Waiting in messages, last hour: now \d+, at most \d+", alt)


def test_figures_at_first(receiver: Any, redis: Redis, browser: Any) -> None:
    """When the page has loaded it shows figures, before its stream begins; what only strict order knows is hidden."""
    alive(redis)
    context = browser.new_context()
    page = context.new_page()
    page.route("**/events", lambda route: None)  # never answered
    page.goto(f"http://127.0.0.1:{receiver.admin_port}")
    while page.locator("#headline").text_content() != "All is well":
        page.reload()  # it may have brought what the stream of the test before this one told last
    api.expect(page.get_by_role("article", name="messages").locator(".big")).to_have_text("0")
    api.expect(page.get_by_text("Behind a retry").first).to_be_hidden()
    context.close()


def test_a_dead_letter_is_retried(
    receiver: Any, redis: Redis, redis_url: str, open_page: Open, run_module: Any, wait_for: Any, tmp_path: Path
) -> None:
    """A letter that a real worker gave up is handled by it after a click, and is gone from the page."""
    (tmp_path / "bot.py").write_text(HANDLERS)
    seen = tmp_path / "seen"
    env = os.environ | {"WA_HANDLERS": "bot:handlers", "PYTHONPATH": str(ROOT), "SEEN": str(seen)}
    run_module("workers.engine.worker", cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    page = open_page(receiver)
    assert receiver.post(message("hello")).status == 200
    row = page.get_by_role("row", name="messages rejected message")
    api.expect(row).to_contain_text("rejected")
    headline(page, "1 dead letter, the newest ")
    assert "hello" not in page.content()
    api.expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    unlock(page)
    Path(f"{seen}.mended").touch()
    button(page, "Retry 1 of messages, rejected, message, bot.on_message").click()
    dialog = page.get_by_role("dialog", name="Retry 1 dead letter?")
    api.expect(dialog).to_contain_text("messages, rejected, message")
    dialog.get_by_role("button", name="Retry 1").click()
    api.expect(page.locator("#told")).to_have_text("1 of 1 dead letter will be handled again.")
    wait_for(lambda: seen.read_text().split() == ["hello", "hello"], what="the second try")
    api.expect(page.locator("#dead-note")).to_have_text("None.")
    api.expect(row).to_have_count(0)


def test_dead_letters_are_dropped(receiver: Any, redis: Redis, open_page: Open) -> None:
    """What the dialog says is dropped, once it is confirmed: not what came meanwhile, nor what was cancelled."""
    write_letters(redis, 120)
    write_letters(redis, 2, "rejected")
    page = open_page(receiver)
    unlock(page)
    button(page, "Drop 120 of messages, failed, message").click()
    dialog = page.get_by_role("dialog", name="Drop 120 dead letters?")
    api.expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    api.expect(dialog).to_be_hidden()
    api.expect(button(page, "Drop 120 of messages, failed, message")).to_be_focused()
    page.keyboard.press("Enter")
    write_letters(redis, 1)
    api.expect(page.locator("#dead-sum")).to_have_text("123")
    dialog.get_by_role("button", name="Drop 120").click()
    api.expect(page.locator("#told")).to_have_text("120 of 120 dead letters dropped.")
    api.expect(page.locator("#told")).to_be_focused()
    api.expect(button(page, "Drop 1 of messages, failed, message")).to_be_visible()
    assert redis.xlen(keys.dead_key("messages")) == 3


def test_a_lane_is_paused_and_resumed(receiver: Any, redis: Redis, open_page: Open) -> None:
    """A click pauses a lane, another lets it go on; the page and the verdict say so."""
    alive(redis)
    page = open_page(receiver)
    unlock(page)
    button(page, "Pause statuses").click()
    headline(page, "statuses: paused for")
    api.expect(page.get_by_role("article", name="statuses")).to_contain_text("paused for")
    assert set(controls.read(redis).paused) == {"statuses"}
    button(page, "Resume statuses").click()
    headline(page, "All is well")
    assert controls.read(redis).paused == {}


def test_handlers(receiver: Any, open_page: Open, redis: Redis) -> None:
    """Each handler that was called lately, or is held up, has a row; a paused one is the headline."""
    page = open_page(receiver)
    api.expect(page.locator("#handlers-note")).to_have_text("None was called in the last minute.")
    alive(redis)
    bucket = int(redis.time()[0]) // 10  # type: ignore[index]
    for back in (1, 2):
        redis.hset(keys.flow_key(bucket - back), mapping={"handler|shop.f|0.25": 600, "handler|shop.f|failed": 4})
    redis.hset(keys.flow_key(bucket - 4), "in.other", 0)  # so long there has been something to count
    controls.pause(redis, [controls.handler("crm")])
    rows = page.locator("#handlers tr")
    api.expect(rows.nth(0)).to_contain_text("paused for")
    api.expect(rows.nth(1)).to_have_text(re.compile(r"shop\.f(2\d|30)/s≤ 250ms8"))
    headline(page, "Handler crm: paused for")


def test_dead_letters_are_told_by_handler(receiver: Any, redis: Redis, open_page: Open) -> None:
    """Each handler's dead letters are a row, and its buttons change these alone."""
    for handler in ("crm", "shop", "crm"):
        fields: Any = {"reason": "failed", "kind": "message", "body": b"{}", "attempt": 8, "handler": handler}
        redis.xadd(keys.dead_key("messages"), fields)
    page = open_page(receiver)
    api.expect(page.get_by_role("row", name="messages failed message crm 2")).to_be_visible()
    unlock(page)
    button(page, "Drop 2 of messages, failed, message, crm").click()
    api.expect(page.locator("#confirm-text")).to_contain_text("messages, failed, message, crm.")
    button(page, "Drop 2").click()
    api.expect(page.locator("#told")).to_have_text("2 of 2 dead letters dropped.")
    assert redis.xlen(keys.dead_key("messages")) == 1


def test_findings_say_where_more_stands(receiver: Any, redis: Redis, open_page: Open) -> None:
    """The remedy ends with a link to the section about it."""
    page = open_page(receiver)
    headline(page, "No worker is alive")
    link = page.locator("#remedy a")
    api.expect(link).to_have_attribute("href", "help/no-worker-is-alive")
    with page.context.expect_page() as opened:
        link.click()
    api.expect(opened.value.locator("body")).to_contain_text("Start `wa-ingest work`")
    alive(redis)
    headline(page, "All is well")
    api.expect(link).to_have_count(0)


def test_times_of_plots(receiver: Any, open_page: Open) -> None:
    """The page says of which time zone the plots' times are, and the last of them is not cut off."""
    page = open_page(receiver, timezone_id="America/New_York")
    note = page.locator("#lanes-note")
    api.expect(note).to_have_text("Plots show the last hour, in the time of America/New York")
    room = page.evaluate(
        """() => {
          const plot = document.querySelector(".plot"), area = plot.querySelector(".u-over");
          const pen = document.createElement("canvas").getContext("2d");
          pen.font = "11px system-ui, sans-serif";
          const right = plot.getBoundingClientRect().right - area.getBoundingClientRect().right;
          return right - pen.measureText("00:00").width / 2;
        }"""
    )
    assert room >= 0


def test_on_a_phone_dead_letters_come_before_plots(receiver: Any, redis: Redis, open_page: Open) -> None:
    """On a phone the plots are folded until somebody wants them."""
    write_letters(redis, 3)
    page = open_page(receiver, viewport={"width": 360, "height": 740})
    canvas = page.locator(".plot canvas")
    api.expect(canvas).to_have_count(9)
    api.expect(canvas.first).to_be_hidden()
    title = page.locator("#dead-title").bounding_box()
    assert title["y"] < 2.5 * 740
    page.locator(".plots > summary").first.click()
    api.expect(canvas.first).to_be_visible()
    page.wait_for_function("document.querySelector('.plot canvas').clientWidth > 200")


def test_a_wrong_token_is_told(receiver: Any, open_page: Open) -> None:
    """It is said that the token is wrong, and nothing is unlocked; a reload forgets the right one."""
    page = open_page(receiver)
    unlock(page, "wrong-horse-battery")
    api.expect(page.get_by_role("alert")).to_have_text("Not unlocked: this is not the token in WA_ADMIN_TOKEN.")
    api.expect(button(page, "Pause messages")).to_have_count(0)
    page.get_by_label("Admin token").fill(TOKEN)
    page.keyboard.press("Enter")
    api.expect(button(page, "Pause messages")).to_be_visible()
    page.reload()
    api.expect(button(page, "Unlock actions")).to_be_visible()
    api.expect(button(page, "Pause messages")).to_have_count(0)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_read_only_without_a_token(redis_url: str, start_receiver: Any, open_page: Open) -> None:
    """When no token is set, there is nothing to press, and it is said how that changes."""
    page = open_page(start_receiver(redis_url))
    api.expect(page.locator("#read-only")).to_contain_text("Read-only: set WA_ADMIN_TOKEN")
    api.expect(page.get_by_role("button")).to_have_count(0)


def test_redis_goes_and_comes_back(own_valkey: Any, start_receiver: Any, open_page: Open, tmp_path: Path) -> None:
    """While Redis is away the page says so and shows what the spool has; then it shows all again."""
    server = own_valkey(appendonly="yes")
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path / "spool")
    page = open_page(receiver)
    headline(page, "No worker is alive")
    os.kill(server.pid, signal.SIGKILL)
    headline(page, "Redis cannot be read")
    assert receiver.post(message("spooled")).status == 200
    api.expect(page.locator("#remedy")).to_contain_text("goes to the disk spool")
    api.expect(page.locator("#workers-note")).to_have_text("not known while Redis cannot be read")
    api.expect(page.locator('#spool [data-of="notifications"]')).to_have_text("1")
    server.start()
    headline(page, "No worker is alive: 1 notification waits")
    api.expect(page.locator('#spool [data-of="notifications"]')).to_have_text("0")


def test_old_figures_are_marked(redis_url: str, start_receiver: Any, open_page: Open) -> None:
    """When nothing comes any more, the page says so within seconds, and goes on when it does."""
    receiver = start_receiver(redis_url)
    page = open_page(receiver)
    receiver.process.send_signal(signal.SIGSTOP)
    headline(page, "No news from this receiver for")
    api.expect(page.locator("#freshness-text")).to_contain_text("no news for")
    receiver.process.send_signal(signal.SIGCONT)
    api.expect(page.locator("#freshness-text")).to_have_text("live")
    headline(page, "No worker is alive")


def test_with_the_keyboard_alone(receiver: Any, redis: Redis, open_page: Open) -> None:
    """All can be reached and pressed without a mouse, in the order in which it is read; the focus is never lost."""
    write_letters(redis, 2)
    page = open_page(receiver)

    def focused() -> str:
        return str(page.evaluate("(it => it.getAttribute('aria-label') || it.id)(document.activeElement)"))

    api.expect(button(page, "Unlock actions")).to_be_visible()
    page.keyboard.press("Tab")
    assert focused() == "unlock"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert focused() == "unlock"
    page.keyboard.press("Enter")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    api.expect(button(page, "Lock actions")).to_be_focused()
    order = []
    while "Drop" not in (order or [""])[-1]:
        page.keyboard.press("Tab")
        order.append(focused())
    assert order == [
        "more: no worker is alive",
        "more: there are dead letters",
        *(f"{what} {lane}" for lane in ("messages", "statuses", "other") for what in ("Pause", "Last hour of")),
        "Retry 2 of messages, failed, message",
        "Drop 2 of messages, failed, message",
    ]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    api.expect(page.locator("#told")).to_have_text("2 of 2 dead letters dropped.")
    assert redis.xlen(keys.dead_key("messages")) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_on_a_phone_and_at_night(receiver: Any, redis: Redis, open_page: Open, scheme: str, width: int) -> None:
    """Nothing is wider than a phone, nothing is asked of other hosts, and at night it is dark."""
    write_letters(redis, 1234 // 100)
    write_letters(redis, 3, "unreadable", "other")
    redis.hset(keys.TAKEN, "messages.3|b", "8e2f0a4bc1d2e3f4#1")
    alive(redis)
    page = open_page(receiver, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    unlock(page)
    api.expect(button(page, "Pause messages")).to_be_visible()
    api.expect(page.locator(".plot canvas")).to_have_count(9)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for canvas in page.locator(".plot canvas").all():
        assert canvas.bounding_box()["width"] <= width - 24
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", back)[:3]))
    assert brightness > 600 if scheme == "light" else brightness < 150
