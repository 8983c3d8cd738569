"""The page for people in a real browser, over the real service: what it shows, takes, sends, and never does."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Download, Page, expect, sync_playwright
from serving_processes import run, serving_champion

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-sync --no-first-run"
SIGNS = {"supportive": "▲ ", "restrictive": "▼ ", "neutral": "● "}
PATIENCE = 30_000  # milliseconds
ATTACK = "<img src=x onerror=\"document.title='taken'\"> migrants <script>document.title='taken'</script>"
# Characters beyond the basic plane, a formula, quotation marks and markup, each where it could go wrong.
ARTICLE = "\n\n".join(
    [
        "\N{PILE OF POO} The board now lists refugee cases from the spring; her asylum claim waited nineteen months.",
        '=HYPERLINK("x") stands, "unquoted", before the migration bill, which passed its second reading by nine votes.',
        ATTACK,
        "Enough. The town was never asked about the migrant hostel, and those who broke the rules should go home.",
        "Ringed plovers have reached the estuary ten days early this year, the wardens of the bird reserve report.",
    ]
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def client(browser: Browser, champion: Any, folder: Path) -> Iterator[httpx.Client]:
    """The service; after the browser, so that nothing is started in vain where there is none."""
    with serving_champion(champion.uri, folder) as client:
        yield client


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    """The page, opened; at the end, nothing went to another host, and nothing broke the policy or the script."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    requests, wrong = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.add_init_script("addEventListener('securitypolicyviolation', event => console.error(event.violatedDirective))")
    page.goto(str(client.base_url))
    yield page
    title = page.title()
    context.close()
    own = str(client.base_url)
    assert [url for url in requests if not url.startswith((own, f"blob:{own}"))] == wrong == []
    assert title != "taken"


def read(page: Page, article: str = ARTICLE) -> None:
    page.get_by_label("Paste an article").fill(article)
    page.get_by_role("button", name="Read the article").click()
    expect(page.locator("#status")).to_contain_text("passages,")


def answered(client: httpx.Client, article: str = ARTICLE) -> dict[str, Any]:
    response = client.post("/read", json={"article": article, "title": None})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def labels(page: Page, head: str) -> list[str]:
    """Those shown, passage by passage; empty where there is none."""
    return [chip.get_attribute("data-label") or "" for chip in page.locator(f".chip.{head}").all()]


def save(page: Page, button: str) -> str:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    download: Download = waiting.value
    return download.path().read_bytes().decode("utf-8-sig")


def test_shows_what_the_service_reads(page: Page, client: httpx.Client) -> None:
    read(page)
    answer = answered(client)
    passages, summary = answer["passages"], answer["summary"]
    assert page.locator(".passage .text").all_text_contents() == [passage["text"] for passage in passages]
    assert labels(page, "topic") == [passage["topic"]["label"] for passage in passages]
    assert labels(page, "stance") == [(passage["stance"] or {"label": ""})["label"] for passage in passages]
    for head in ("topic", "stance"):
        shown = page.locator(f".chip.{head}").all_text_contents()
        for chip, label in zip(shown, (passage[head] for passage in passages), strict=True):
            if label:
                surest = 0.995 < label["confidence"] < 1
                share = ">99%" if surest else f"{100 * label['confidence']:.0f}%"
                # A sign and a word beside the colour.
                assert chip == f"{SIGNS.get(label['label'], '')}{label['label'].replace('_', ' ')} {share}"
    assert [flag.is_visible() for flag in page.locator(".flag").all()] == [each["abstained"] for each in passages]
    assert page.locator("#status").inner_text().startswith(f"{summary['passages']} passages, {summary['abstained']} ")
    counts = page.locator("#summary table").first.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert sorted(map(int, counts)) == sorted(topic["count"] for topic in summary["topics"].values())
    bars = page.locator("#summary table").first.locator("svg .share").all()
    assert len(bars) == len(counts)
    drawn = [bar.bounding_box() for bar in bars]
    widths = [box["width"] if box else 0 for box in drawn]
    assert max(widths) > 0
    assert [width / max(widths) for width in widths] == pytest.approx(
        [int(count) / max(map(int, counts)) for count in counts], abs=0.02
    )
    model, methods = client.get("/model").json(), page.locator("#methods").inner_text()
    f1 = "{:.3f} [{:.3f}, {:.3f}]".format(*model["quality"]["news_dev"]["topic"]["macro_f1"])
    codebook = f"codebook version {model['codebook']}"
    parts = [model["name"], f"version {model['version']} ", model["candidate"], model["data_digest"][:16], codebook, f1]
    parts += ["95% interval", "passages of real news on which nothing was trained", f"under {model['threshold']:.3f}"]
    assert [part for part in parts if part not in methods] == []


@pytest.mark.parametrize("how", ["hover", "focus"])
def test_a_passage_explains_itself(page: Page, client: httpx.Client, how: str) -> None:
    read(page)
    passage = answered(client)["passages"][0]
    marked = client.post("/classify?explain=true", json={"passages": [passage["text"]]}).json()["readings"][0]
    definitions = {topic["name"]: topic["definition"] for topic in client.get("/codebook").json()["topics"]}
    getattr(page.locator(".passage").first, how)()
    expect(page.locator("#topic-definition")).to_have_text(definitions[passage["topic"]["label"]])
    assert page.locator("#panel table").first.locator("tbody tr").count() == len(definitions)
    expect(page.locator("#panel")).not_to_contain_text("Looking for the words")
    # Offsets count characters, and the passage begins with one that JavaScript counts twice.
    spans = page.locator(".passage").first.locator("[class^=topic-]").all_text_contents()
    phrases = {passage["text"][mark["start"] : mark["end"]] for mark in marked["explanation"]["topic"]}
    assert phrases and phrases <= set(spans) and "".join(spans).isprintable()
    assert page.locator(".passage .text").first.text_content() == passage["text"]


def test_markup_is_shown_as_text(page: Page) -> None:
    read(page)
    assert ATTACK in page.locator(".passage .text").all_text_contents()
    assert page.locator(".passage img, .passage script, #panel img, [onerror], [style*=expression]").count() == 0


def test_a_correction_takes_two_clicks_and_is_stored(page: Page, folder: Path) -> None:
    read(page)
    row = page.locator(".passage").nth(3)
    chosen = "integration" if labels(page, "topic")[3] != "integration" else "economy"
    with page.expect_response("**/feedback") as waiting:
        row.locator(".chip.topic").click()
        page.get_by_role("menuitemradio", name=chosen).click()
    assert waiting.value.status == 200
    assert waiting.value.request.headers["idempotency-key"]
    expect(row.locator(".state")).to_contain_text("corrected, was")
    output, url = folder / "corrections.jsonl", f"sqlite:///{folder}/feedback.db"
    done = run(["-m", "serving.feedback", "--output", str(output)], folder, IMMNEWS_FEEDBACK_URL=url)
    assert done.returncode == 0, done.stderr
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["topic"] for record in kept if record["text"] == row.locator(".text").text_content()] == [chosen]


def test_a_correction_that_fails_is_sent_again_under_its_key(page: Page) -> None:
    read(page)
    keys: list[str] = []
    page.on("request", lambda sent: keys.append(sent.headers["idempotency-key"]) if "feedback" in sent.url else None)
    page.route("**/feedback", lambda route: route.fulfill(status=200, body="half an answ"), times=1)
    row = page.locator(".passage").nth(3)
    row.locator(".chip.stance").click()
    page.get_by_role("menuitemradio", name="supportive").click()
    expect(row.locator(".problem")).to_contain_text("not stored")
    row.get_by_role("button", name="Try again").click()
    expect(row.locator(".state")).to_contain_text(re.compile("corrected|confirmed"))
    assert len(keys) == 2 and len(set(keys)) == 1


def test_csv_and_json_agree(page: Page, client: httpx.Client) -> None:
    read(page)
    with page.expect_response("**/feedback"):
        page.locator(".passage").nth(3).locator(".chip.stance").click()
        page.get_by_role("menuitemradio", name="neutral").click()
    expect(page.locator(".passage").nth(3).locator(".state")).to_contain_text(re.compile("corrected|confirmed"))
    text, document = save(page, "Download CSV"), json.loads(save(page, "Download JSON"))
    answer = answered(client)
    assert all(document[name] == answer[name] for name in ("article", "summary", "model"))
    rows = list(csv.DictReader(text.splitlines(keepends=True), strict=True))
    assert text.count("\r\n") == len(rows) + 1 == len(document["passages"]) + 1
    for row, passage, original in zip(rows, document["passages"], answer["passages"], strict=True):
        assert passage.items() >= original.items()
        assert not re.match(r"[=+\-@\t]", row["text"])
        assert row["text"].removeprefix("'") == passage["text"]
        assert answer["article"][int(row["start"]) : int(row["end"])] == passage["text"]
        assert row["topic"] == passage["topic"]["label"]
        assert float(row["topic_confidence"]) == passage["topic"]["confidence"]
        assert row["stance"] == (passage["stance"] or {"label": ""})["label"]
        assert row["corrected_stance"] == (passage["corrected_stance"] or "")
    assert [row["corrected_stance"] for row in rows] == ["", "", "", "neutral", ""]
    assert rows[1]["text"].startswith("'=")


def test_the_keyboard_is_enough(page: Page) -> None:
    press = page.keyboard.press
    for _ in range(3):
        press("Tab")
    expect(page.get_by_label("Paste an article")).to_be_focused()
    page.keyboard.insert_text(ARTICLE)
    press("Tab")
    press("Enter")
    expect(page.locator("#results-title")).to_be_focused()
    for _ in range(3):
        press("Tab")
    expect(page.locator(".passage").nth(0)).to_be_focused()
    for _ in range(3):
        press("ArrowDown")
    expect(page.locator(".passage").nth(3)).to_be_focused()
    expect(page.locator("#panel")).to_contain_text("Passage 4 of 5")
    for key in ("Tab", "Tab", "Enter", "s"):
        press(key)
    with page.expect_response("**/feedback") as waiting:
        press("Enter")
    assert waiting.value.request.post_data_json["stance"] == "supportive"
    expect(page.locator(".passage").nth(3).locator(".chip.stance")).to_be_focused()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_accessible_and_no_wider_than_the_window(page: Page, theme: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    page.get_by_role("button", name="Try an example").click()
    expect(page.locator(".passage").nth(11)).to_be_attached()
    page.locator(".passage").first.focus()
    expect(page.locator("#panel")).not_to_contain_text("Looking for the words")
    page.locator(".passage").nth(1).locator(".chip.topic").click()
    expect(page.get_by_role("menu")).to_be_visible()
    page.locator("#codebook").evaluate("details => { details.open = true }")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_methods_sentence_is_of_the_model_that_gave_the_labels(page: Page, client: httpx.Client) -> None:
    model = client.get("/model").json()
    earlier = {**model, "version": "0", "threshold": 0.111, "candidate": "words"}
    expect(page.locator("#served")).to_contain_text("Served: ")
    page.route("**/model", lambda route: route.fulfill(json=earlier), times=1)
    page.reload()
    expect(page.locator("#served")).to_contain_text("version 0 (words)")
    read(page)
    expect(page.locator("#methods")).to_contain_text(f"version {model['version']} (candidate {model['candidate']}")
    expect(page.locator("#methods")).to_contain_text(f"under {model['threshold']:.3f}")


def test_an_explanation_that_failed_is_asked_for_again(page: Page) -> None:
    read(page)
    page.route("**/classify?explain=true", lambda route: route.fulfill(status=200, body="half an answ"), times=1)
    page.locator(".passage").nth(0).focus()
    expect(page.locator("#panel")).to_contain_text("The service failed")
    page.locator(".passage").nth(1).focus()
    page.locator(".passage").nth(0).focus()
    expect(page.locator("#panel")).not_to_contain_text("The service failed")
    expect(page.locator("#panel")).to_contain_text("For ")


FILES = {
    "article.txt": ("Öl für Flüchtlinge".encode(), "Öl für Flüchtlinge"),
    "old.TXT": ("Öl für Flüchtlinge".encode("windows-1252"), "Öl für Flüchtlinge"),
    "wide.txt": ("Öl für Flüchtlinge".encode("utf-16"), "Öl für Flüchtlinge"),
    "article.html": (b"<p>Visas for nurses</p>", "<p>Visas for nurses</p>"),
    "article.pdf": (b"%PDF-1.7", None),
}
DROP = """([bytes, name]) => {
    const files = new DataTransfer();
    files.items.add(new File([new Uint8Array(bytes)], name));
    document.body.dispatchEvent(
        new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: files }),
    );
}"""


@pytest.mark.parametrize(("way", "name"), [("choose", "article.html"), *(("drop", name) for name in FILES)])
def test_a_file_fills_the_box(page: Page, way: str, name: str) -> None:
    content, text = FILES[name]
    if way == "drop":
        page.evaluate(DROP, [list(content), name])
    else:
        with page.expect_file_chooser() as waiting:
            page.get_by_role("button", name="Choose a file").click()
        waiting.value.set_files({"name": name, "mimeType": "application/octet-stream", "buffer": content})
    if text is None:
        expect(page.get_by_role("alert").first).to_contain_text(f"“{name}” is neither a .txt nor an .html file")
        text = ""
    else:
        expect(page.locator("#status")).to_have_text(f"“{name}” is in the box.")
    expect(page.get_by_label("Paste an article")).to_have_value(text)


def test_an_article_that_is_too_long_is_refused_in_words(page: Page) -> None:
    page.get_by_label("Paste an article").fill("\N{PILE OF POO}" * 200_001)
    page.get_by_role("button", name="Read the article").click()
    expect(page.get_by_role("alert").first).to_have_text(re.compile("200,001 characters; the limit is 200,000"))
    expect(page.locator("#results")).to_be_hidden()
