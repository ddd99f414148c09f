"""The page for people, in Chromium: each tab does its job, asks nobody outside, logs nothing, and axe finds nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

import onnx
import onnx.parser
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, ViewportSize, expect, sync_playwright

from tests.conftest import EXPORTED, ROOT, Server, serving
from tests.interoperability.environments import node_modules_with
from tests.programs import needs
from tests.waiting import WAIT

AXE = "axe-core@4.10.3"
MILLISECONDS = WAIT * 1000
expect.set_options(timeout=MILLISECONDS)
WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 400, "height": 800}
# Chromium's sandbox needs more than a container gives; what is opened here is our own page. Its microphone beeps.
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
RUN_AXE = "axe.run().then(found => found.violations.map(one => [one.id, one.nodes.map(node => node.html)]))"


@dataclass(frozen=True)
class Task:
    """What somebody does in a tab: clicks some things, and sees something in the answer."""

    tab: str
    sees: str
    clicks: tuple[str, ...] = ()
    where: str = ".answer-body"

    def __str__(self) -> str:
        return self.tab


THUMB = (".thumb",)
TASKS = [
    Task("hw1", "% of tests on day 5", ("text=survey.csv",)),
    Task("hw2", "Phones in order", ("text=sentence.wav",)),
    Task("hw3", "Where “cat” comes from", THUMB),
    Task("hw4", "The same speaker", ("text=one speaker twice",)),
    Task("hw5", "Where each token looked"),
    Task("hw6", "seed 7", where=".answer"),
    Task("hw6/garments", "garment_generator version"),
    Task("hw6/styles", "After", THUMB),
    Task("hw7", "Robert FitzRoy"),
    Task("hw7/sentiment", "positive"),
    Task("hw7/poem", "。"),
    Task("hw8", "Normal: like clothes", THUMB),
    Task("hw9", "cat, 9", THUMB),
    Task("hw9/text", "wonderful"),
    Task("hw9/model", "image_classifier version"),
    Task("hw10", "Defended", THUMB),
    Task("hw11", "Adapted to drawings", THUMB),
    Task("hw12", "Landed, 2", ("text=Fly",)),
    Task("hw13", "int8", THUMB),
    Task("hw14", "144°", THUMB),
    Task("hw15", "100.0", ("[aria-label*='character']",)),
    Task("tags", "BookRestaurant"),
    Task("words", "word_vectors version"),
    Task("search", "In September 1835"),
    Task("entailment", "It follows"),
    Task("rewriting", "thy brother"),
    Task("stories", "garden"),
    Task("tables", "banana"),
    Task("models", "CIFAR-10 image classifier", where="#main"),
    Task("models/image_classifier", "Where it fails", where="#main"),
    Task("server", "SERVING", where="#main"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    needs("chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS) as browser,
    ):
        yield browser


@pytest.fixture(scope="module")
def axe() -> str:
    return (node_modules_with("axe", AXE) / "axe-core" / "axe.min.js").read_text()


@dataclass
class Visit:
    """The page in a browser of its own, with all that it asked for and said."""

    page: Page
    url: str
    outside: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def open(self, tab: str) -> None:
        self.page.goto("about:blank")  # an address that differs in its hash alone would not be loaded
        self.page.goto(f"{self.url}/#{tab}")

    def answer(self, where: str = ".answer-body") -> Locator:
        """The answer, once the page waits for nothing more."""
        self.page.wait_for_selector("[aria-busy=true]", state="detached", timeout=MILLISECONDS)
        return self.page.locator(where).last

    def violations(self, axe: str) -> list[object]:
        """What axe finds, asked for past the page's policy, which forbids evaluated scripts."""
        protocol = self.page.context.new_cdp_session(self.page)
        protocol.send("Runtime.evaluate", {"expression": axe})
        found = protocol.send("Runtime.evaluate", {"expression": RUN_AXE, "awaitPromise": True, "returnByValue": True})
        return list(found["result"]["value"])


Visiting = Callable[..., Visit]


@pytest.fixture
def visiting(browser: Browser, server: Server) -> Iterator[Visiting]:
    """Opens the page of a server, by default that of all committed models."""
    contexts = []

    def visit(url: str = server.http_url, locale: str = "en-US", **options: object) -> Visit:
        contexts.append(context := browser.new_context(locale=locale, **options))  # type: ignore[arg-type]
        context.set_default_timeout(MILLISECONDS)
        one = Visit(context.new_page(), url)
        one.page.on("request", lambda request: _note_outside(one, request.url))
        one.page.on("console", lambda message: _note_message(one, message))
        one.page.on("pageerror", lambda error: one.said.append(str(error)))
        return one

    yield visit
    for context in contexts:
        context.close()


def _note_outside(visit: Visit, url: str) -> None:
    if not url.startswith((visit.url, "data:", "blob:", "about:")):
        visit.outside.append(url)


def _note_message(visit: Visit, message: ConsoleMessage) -> None:
    if message.type in ("error", "warning"):
        visit.said.append(message.text)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_tab_does_its_job(task: Task, visiting: Visiting, axe: str) -> None:
    visit = visiting(viewport=WIDE)
    visit.open(task.tab)
    for click in task.clicks:
        visit.page.locator(click).first.click()
    expect(visit.page.locator(task.where).last).to_contain_text(task.sees, timeout=MILLISECONDS)
    visit.answer()
    assert visit.page.locator("[role=alert]").count() == 0
    assert not re.search(r"\b(undefined|null|NaN|false)|\[object", visit.page.locator("#main").inner_text())
    assert visit.violations(axe) == []
    visit.page.emulate_media(color_scheme="dark")
    visit.page.set_viewport_size(NARROW)
    assert visit.violations(axe) == []
    assert visit.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert visit.outside == []
    assert visit.said == []


def test_every_homework_is_a_tab(visiting: Visiting, axe: str) -> None:
    visit = visiting()
    visit.open("")
    tiles = visit.page.locator(".tiles .number")
    expect(tiles).to_have_text([f"HW{number}" for number in range(1, 16)])
    assert visit.violations(axe) == []


def test_every_tab_and_part_has_a_task(visiting: Visiting) -> None:
    visit = visiting()
    visit.open("")
    addresses = """import("./tabs.js").then(({ TABS, addressOf }) =>
        TABS.flatMap((tab) => tab.parts.map((part) => addressOf(tab, part))))"""
    assert {f"#{task.tab}" for task in TASKS} >= set(visit.page.evaluate(addresses))
    assert f"{len(TASKS)} tasks" in (ROOT / "docs" / "page.md").read_text()


def test_the_first_page_is_small(visiting: Visiting) -> None:
    visit = visiting()
    sizes: list[int] = []
    visit.page.on("response", lambda response: sizes.append(len(response.body())))
    visit.open("")
    expect(visit.page.locator(".tiles").first).to_be_visible()
    assert len(sizes) <= 15
    assert sum(sizes) < 150_000


def test_it_speaks_chinese(visiting: Visiting) -> None:
    visit = visiting(locale="zh-TW")
    visit.open("hw3")
    expect(visit.page.locator("h1")).to_have_text("圖片分類")
    assert visit.page.locator("html").get_attribute("lang") == "zh-Hant-TW"
    visit.page.get_by_label("語言").select_option("en")
    expect(visit.page.locator("h1")).to_have_text("Image classification")
    visit.page.reload()
    expect(visit.page.locator("h1")).to_have_text("Image classification")


def test_colours_follow_a_choice(visiting: Visiting) -> None:
    visit = visiting(color_scheme="light")
    visit.open("")
    background = "getComputedStyle(document.body).backgroundColor"
    light = visit.page.evaluate(background)
    visit.page.get_by_label("Colours").select_option("dark")
    assert visit.page.evaluate(background) != light


def test_keys_alone_suffice(visiting: Visiting) -> None:
    visit = visiting(viewport=WIDE)
    visit.open("hw3")
    expect(visit.page.locator(".thumb").first).to_be_visible()
    visit.page.keyboard.press("Tab")
    expect(visit.page.locator(".skip")).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#main")).to_be_focused()
    for _ in range(10):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.className") == "thumb":
            break
    visit.page.keyboard.press("Enter")
    expect(visit.answer()).to_contain_text("cat")


def test_a_picture_of_ones_own(visiting: Visiting, tmp_path: Path) -> None:
    """Chosen as a file that the server does not read, which the page turns into one that it does."""
    Image.open(ROOT / "docs" / "examples" / "ship.png").resize((320, 200)).save(tmp_path / "mine.gif")
    visit = visiting()
    visit.open("hw3")
    visit.page.set_input_files("input[type=file]", tmp_path / "mine.gif")
    expect(visit.page.locator(".verdict")).to_have_text("ship")


def test_a_drawing(visiting: Visiting) -> None:
    visit = visiting(viewport=WIDE)
    visit.open("hw14")
    box = visit.page.locator(".draw").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + 40
    visit.page.mouse.move(x, y)
    visit.page.mouse.down()
    visit.page.mouse.move(x, y + 190, steps=8)
    visit.page.mouse.up()
    expect(visit.answer()).to_contain_text("1")
    assert visit.page.locator(".answer .sheet figure").count() == 5


def test_a_recording(visiting: Visiting) -> None:
    visit = visiting()
    visit.open("hw2")
    visit.page.get_by_role("button", name="Record").click()
    stop = visit.page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    visit.page.wait_for_timeout(1200)  # the length of the recording
    stop.click()
    expect(visit.page.locator(".answer-body")).to_contain_text("Phones in order", timeout=MILLISECONDS)
    assert visit.said == []


def test_faces_change_under_the_slider(visiting: Visiting) -> None:
    visit = visiting(viewport=WIDE)
    visit.open("hw6")
    face = visit.answer(".answer").locator("img.medium")
    expect(face).to_be_visible()
    first = face.get_attribute("src")
    visit.page.get_by_label("Position").fill("31")
    assert face.get_attribute("src") != first


@pytest.mark.parametrize(
    ("tab", "act", "says"),
    [
        ("hw3", lambda page, files: page.set_input_files("input[type=file]", files / "text.png"), "is not a picture"),
        ("hw2", lambda page, files: page.set_input_files("input[type=file]", files / "text.png"), "is not a recording"),
        ("hw1", lambda page, files: page.set_input_files("input[type=file]", files / "table.csv"), "lacks"),
        (
            "words",
            lambda page, _: _ask(page, "Words to add and subtract", "- king", "Find near words"),
            "at least one word",
        ),
        ("tables", lambda page, _: _ask(page, "Rows to classify", "", "Classify"), "at least one row"),
        ("hw6", lambda page, _: _ask(page, "Seed", "-1", "Draw faces"), "seed"),
    ],
)
def test_bad_input_gets_words(
    tab: str, act: Callable[[Page, Path], None], says: str, visiting: Visiting, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    visit = visiting()
    visit.open(tab)
    visit.page.wait_for_selector(".answer-body")
    visit.answer()
    act(visit.page, tmp_path)
    expect(visit.page.locator("[role=alert]")).to_contain_text(says)


def _ask(page: Page, label: str, text: str, button: str) -> None:
    page.get_by_label(label, exact=True).fill(text)
    page.get_by_role("button", name=button, exact=True).click()


@pytest.mark.parametrize(
    ("tab", "label", "button"),
    [
        ("hw5", "English text", "Translate"),
        ("hw7", "Text to read", "Ask"),
        ("hw7", "Question", "Ask"),
        ("hw7/sentiment", "English text", "Judge"),
        ("hw9/text", "English text", "Explain"),
        ("tags", "English text", "Tag"),
        ("words", "Words to add and subtract", "Find near words"),
        ("search", "Search for", "Search"),
        ("search", "In these lines (one each)", "Search"),
        ("entailment", "This is true", "Ask"),
        ("entailment", "Does this follow?", "Ask"),
        ("rewriting", "English text", "Rewrite"),
        ("stories", "Story, a sentence a line", "Ask"),
        ("stories", "Question", "Ask"),
    ],
)
def test_who_wrote_nothing_is_told_where_to_and_nobody_is_asked(
    tab: str, label: str, button: str, visiting: Visiting
) -> None:
    visit = visiting()
    visit.open(tab)
    visit.page.wait_for_selector(".foot")
    visit.answer()
    calls: list[str] = []
    visit.page.on("request", lambda request: calls.append(request.url))
    _ask(visit.page, label, " ", button)
    expect(visit.answer()).to_have_text(re.compile(f"Write something under “{re.escape(label)}” first.$"))
    assert [url for url in calls if "ModelService" not in url] == []


@pytest.mark.parametrize(
    ("tab", "example"), [("hw1", "text=survey.csv"), ("hw2", "text=sentence.wav"), ("hw3", ".thumb")]
)
def test_an_error_takes_the_place_of_the_old_answer(tab: str, example: str, visiting: Visiting, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text("wrong")
    visit = visiting()
    visit.open(tab)
    visit.page.locator(example).first.click()
    visit.page.wait_for_selector(".foot")
    visit.page.set_input_files("input[type=file]", tmp_path / "wrong.txt")
    expect(visit.page.locator("[role=alert]")).to_be_visible()
    assert visit.page.locator(".foot").count() == 0
    assert visit.page.locator("table").count() == 0


@pytest.mark.parametrize("cell", ["abc", "1e300"])
def test_a_cell_that_is_no_number_has_the_row_of_the_table(cell: str, visiting: Visiting, tmp_path: Path) -> None:
    with (ROOT / "docs" / "examples" / "survey.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    visit = visiting()
    visit.open("hw1")
    visit.page.locator("text=survey.csv").click()
    second = visit.page.locator("tr", has=visit.page.get_by_role("button", name="Row 2"))
    fourth_day = [float(share) for name, share in zip(header, rows[1], strict=True) if name == "tested_positive"][3]
    expect(second).to_contain_text(f"{fourth_day:.2f} %")
    rows[1][header.index("cli")] = cell
    (tmp_path / "wrong.csv").write_text("\n".join(",".join(row) for row in (header, *rows)))
    visit.page.set_input_files("input[type=file]", tmp_path / "wrong.csv")
    expect(visit.page.locator("[role=alert]")).to_contain_text("Row 2, column cli")


def test_a_row_that_the_server_refuses_has_the_row_of_the_table(visiting: Visiting) -> None:
    def shorten(route: Route) -> None:
        request = json.loads(route.request.post_data or "")
        request["rows"][1]["features"].pop()
        route.continue_(post_data=json.dumps(request))

    visit = visiting()
    visit.open("hw1")
    visit.page.route("**/Predict", shorten)
    visit.page.locator("text=survey.csv").click()
    expect(visit.page.locator("[role=alert]")).to_contain_text("Row 2 has")


@pytest.mark.parametrize(
    ("tab", "button", "lines"),
    [
        ("hw5", "Translate", ["我喜歡茶。", "", "她會做飯。"]),
        ("rewriting", "Rewrite", ["I like tea.", "", "She can cook."]),
    ],
)
def test_an_answer_has_the_lines_of_its_text(tab: str, button: str, lines: list[str], visiting: Visiting) -> None:
    visit = visiting()
    visit.open(tab)
    visit.page.wait_for_selector(".foot")
    _ask(visit.page, "English text", "I like tea.\n\nShe can cook.", button)
    visit.answer()
    for place in visit.page.locator(".translation, .answer-body > div > p:last-child:not(.small)").all():
        assert place.inner_text().split("\n") == lines


def test_an_error_has_the_request_id_of_the_log(visiting: Visiting, server: Server) -> None:
    visit = visiting()
    visit.open("hw6")
    visit.answer()
    _ask(visit.page, "Seed", "-1", "Draw faces")
    shown = visit.page.locator("[role=alert] .small code").inner_text()
    assert re.fullmatch(r"[0-9a-f]{32}", shown)
    assert any(record.get("request_id") == shown for record in server.log_records())


def test_what_is_not_served_says_so(browser: Browser, visiting: Visiting, tmp_path: Path) -> None:
    with serving(tmp_path, "classify") as some:
        visit = visiting(some.http_url)
        visit.open("hw5")
        expect(visit.page.locator("#main")).to_contain_text("does not serve TranslateService")
        visit.open("hw13")
        visit.page.locator(".thumb").first.click()
        expect(visit.answer()).to_contain_text("int8")
        assert visit.said == []


def test_tiles_say_what_is_not_served(visiting: Visiting, axe: str, tmp_path: Path) -> None:
    with serving(tmp_path, "predict") as some:
        visit = visiting(some.http_url)
        visit.open("")
        tile = visit.page.locator(".tiles a", has_text="HW5")
        expect(tile).to_have_class("absent")
        expect(tile).to_contain_text("does not serve TranslateService")
        expect(visit.page.locator(".tiles a", has_text="HW1").first).not_to_have_class("absent")
        assert visit.violations(axe) == []
        visit.open("hw1")
        visit.page.locator("text=survey.csv").click()
        expect(visit.answer()).to_contain_text("% of tests on day 5")  # without ExplainService, which would say why
        assert visit.said == []


BRIGHTEST = """<ir_version: 10, opset_import: ["" : 20]> brightest (float[N, 3, 8, 6] x) => (float[N, 3] logits) {
    axes = Constant <value = int64[2] {2, 3}> ()
    logits = ReduceMean <keepdims = 0> (x, axes)
}"""
SUMS = """<ir_version: 10, opset_import: ["" : 20]> sums (float[N, 2] x) => (float[N, 1] y) {
    axes = Constant <value = int64[1] {1}> ()
    y = ReduceSum (x, axes)
}"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of models that `lectern add` took in."""
    directory = tmp_path_factory.mktemp("own")
    repository = directory / "models"
    (directory / "colours.txt").write_text("red\ngreen\nblue")
    for name, graph, *options in (
        ("colours", BRIGHTEST, "--labels", directory / "colours.txt"),
        ("sums", SUMS, "--features", "apples,pears"),
        ("bare", SUMS, "--kind", "raw"),
    ):
        onnx.save(onnx.parser.parse_model(graph), directory / f"{name}.onnx")
        command = ["lectern", "add", directory / f"{name}.onnx", "--repository", repository, *options]
        subprocess.run([sys.executable, "-m", *map(str, command)], check=True, cwd=ROOT, timeout=WAIT)
    os.utime(repository / "bare" / "1" / "model.onnx", (0, 0))
    card = repository / "colours" / "1" / "card.json"
    measured = {"corruption": "gaussian_noise", "severity": 3, "metric": "accuracy", "value": 0.25}
    card.write_text(json.dumps(json.loads(card.read_text()) | {"robustness": [measured]}))
    with serving(tmp_path_factory.mktemp("server"), repository=repository) as server:
        yield server


def _try_picture(page: Page) -> None:
    page.locator(".thumb").first.click()


def _try_rows(page: Page) -> None:
    _ask(page, "Rows, with the columns' names first", "pears,apples\n1,2\n3,4", "Predict")


@pytest.mark.parametrize(
    ("model", "act", "sees"),
    [
        ("colours", _try_picture, ["red", "green", "blue", "colours version 1"]),
        ("sums", _try_rows, ["Row 1", "3", "Row 2", "7", "sums version 1"]),
        ("colours", None, ["Under corruption", "gaussian noise", "0.250"]),
        ("bare", None, ["has no card", "/v2/models/bare/infer"]),
    ],
)
def test_a_model_of_ones_own_is_tried_beside_its_card(
    model: str, act: Callable[[Page], None] | None, sees: list[str], own: Server, visiting: Visiting, axe: str
) -> None:
    visit = visiting(own.http_url, viewport=NARROW)
    visit.open("models")
    visit.page.locator(".tiles a", has_text=model).click()
    if act:
        expect(visit.page.locator("h2", has_text="Try it")).to_be_visible()
        act(visit.page)
    for words in sees:
        expect(visit.page.locator(".answer" if act else "#main")).to_contain_text(words)
    assert visit.violations(axe) == []
    assert visit.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert visit.said == []


def test_a_model_with_a_tab_leads_there(visiting: Visiting) -> None:
    visit = visiting()
    visit.open("models/robust_classifier")
    visit.page.locator("#main").get_by_role("link", name="HW10").click()
    expect(visit.page.locator("table")).to_contain_text("45.3")  # of attacked photos, by its card


def test_attacks_are_shown_where_they_are_allowed(visiting: Visiting, tmp_path: Path) -> None:
    off = visiting()
    off.open("hw10")
    expect(off.page.locator("#main")).to_contain_text("Attacks are off on this server")
    with serving(tmp_path, "defend", "classify", "--allow-attacks") as allowing:
        visit = visiting(allowing.http_url)
        visit.open("hw10")
        visit.page.locator(".thumb").first.click()
        expect(visit.answer()).to_contain_text("Attacked")
        assert visit.said == []


def test_a_server_that_went_away_is_said_in_words(visiting: Visiting, tmp_path: Path) -> None:
    with serving(tmp_path, "classify") as going:
        visit = visiting(going.http_url)
        visit.open("hw3")
        expect(visit.page.locator(".thumb").first).to_be_visible()
    visit.page.locator("input[type=file]").set_input_files(ROOT / "docs" / "examples" / "cat.png")
    expect(visit.page.locator("[role=alert]")).to_contain_text("The server does not answer")


def test_a_picture_is_pasted(visiting: Visiting) -> None:
    visit = visiting()
    visit.open("hw3")
    expect(visit.page.locator(".thumb").first).to_be_visible()
    visit.page.locator(".thumb").nth(1).click()
    expect(visit.page.locator(".verdict")).to_have_text("ship")
    paste = """async () => {
        const file = new File([await (await fetch("examples/horse.png")).blob()], "pasted.png", { type: "image/png" });
        const data = new DataTransfer();
        data.items.add(file);
        document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
    }"""
    visit.page.evaluate(paste)
    expect(visit.page.locator(".verdict")).to_have_text("horse")


def test_pixels_of_a_map_lie_over_the_picture(visiting: Visiting) -> None:
    visit = visiting(viewport=WIDE)
    visit.open("hw3")
    visit.page.locator(".thumb").first.click()
    visit.answer()
    picture, cover = (visit.page.locator(f".overlay {what}").bounding_box() for what in ("img", "canvas"))
    assert picture is not None
    assert cover is not None
    assert [*picture.values()] == pytest.approx([*cover.values()], abs=1)


def test_what_a_model_and_a_file_say_becomes_no_markup(visiting: Visiting, tmp_path: Path) -> None:
    for model in EXPORTED.glob("image_classifier*"):
        shutil.copytree(model, tmp_path / "exported" / model.name)
    path = tmp_path / "exported" / "image_classifier" / "1" / "card.json"
    card = json.loads(path.read_text())
    hostile = "<img src=x onerror=document.title='taken'>"
    card |= {"title": hostile, "description": hostile, "labels": [label + hostile for label in card["labels"]]}
    path.write_text(json.dumps(card))
    shutil.copy(ROOT / "docs" / "examples" / "ship.png", picture := tmp_path / f"{hostile}.png")
    with serving(tmp_path, "classify", "explain", repository=tmp_path / "exported") as server:
        visit = visiting(server.http_url)
        visit.open("hw3")
        visit.page.locator("input[type=file]").first.set_input_files(picture)
        expect(visit.answer()).to_contain_text(hostile)
        visit.open("models/image_classifier")
        expect(visit.page.locator("#main .lead").last).to_have_text(hostile)
        assert visit.page.title() != "taken"
        assert visit.page.locator("img[src=x]").count() == 0
        assert visit.said == []


def get(url: str, **headers: str) -> tuple[dict[str, str], bytes]:
    with urlopen(Request(url, headers=headers), timeout=WAIT) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def test_the_page_has_a_strict_policy(server: Server) -> None:
    headers, _ = get(f"{server.http_url}/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_it_says_what_is_served(server: Server) -> None:
    about = json.loads(get(f"{server.http_url}/about.json")[1])
    assert about["attacks"] is False
    assert "lectern.v1.ClassifyService" in about["services"]
