"""The web page as a visitor sees it: `hfgpt web` as a real process, in a headless Chromium."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from commands import PROGRAMS
from reciting_model import save_reciting_model

pytestmark = pytest.mark.slow
for package in ("gradio", "selenium"):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and CHROMEDRIVER):
    pytest.skip("chromium or chromedriver is not installed", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

HTML = (
    "<img src=x onerror=\"document.title='broken'\"> <script>document.title='broken'</script> <b>bold</b>\n\n"
    "# heading\n- **strong** `code` $$x^2$$ [link](javascript:alert(1))\n    indented"
)
COUNTING = "one two three four five six seven eight nine ten "


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, chat_model, base_model, chat_tokenizer) -> Path:
    """A run: a base model, one that counts for 4,000 tokens, one that answers "Show me." with HTML, a chat model."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    shutil.copytree(base_model, folder / "pretrain")
    save_reciting_model(folder / "midtrain", chat_tokenizer, COUNTING, positions=4096)
    save_reciting_model(folder / "sft", chat_tokenizer, HTML, question="Show me.")
    shutil.copytree(chat_model, folder / "dpo")
    for stage in folder.iterdir():
        (stage / "final_metrics.json").write_text("{}")
    (folder / "grpo").mkdir()  # not complete
    return folder


@pytest.fixture(scope="module")
def url(run_folder) -> str:
    """Address of the page that `hfgpt web` serves, with no Hub and no proxy in reach."""
    flags = ("--port", "0", "--temperature", "0", "--max_prompt_chars", "1000", "--device", "cpu")
    process = subprocess.Popen(
        [str(PROGRAMS / "hfgpt"), "web", str(run_folder), *flags],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(2)]
    assert said[1].startswith("Open http://127.0.0.1:"), said
    yield said[1].split()[1]
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(scope="module")
def open_browser():
    """`open_browser(width, height, mobile)`: a browser window; all are closed at the end."""
    opened = []

    def start(width: int, height: int, mobile: bool = False) -> webdriver.Chrome:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        size = f"--window-size={width},{height}"
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", size):
            options.add_argument(flag)
        if mobile:
            metrics = {"width": width, "height": height, "pixelRatio": 2.0}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        opened.append(webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER)))
        return opened[-1]

    yield start
    for browser in opened:
        browser.quit()


@pytest.fixture(scope="module")
def laptop(open_browser) -> webdriver.Chrome:
    return open_browser(1366, 900)


def wait_for(what: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value of `what()`, asked again and again."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.03)
    return value


class Page:
    """The page in a browser, by what a visitor sees and does."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)
        wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "#prompt textarea"))

    def text(self, element_id: str) -> str:
        return self.browser.execute_script("return document.getElementById(arguments[0])?.innerText ?? ''", element_id)

    def said(self, element_id: str) -> list[str]:
        """The messages of a conversation, as text that is seen."""
        script = "return [...document.querySelectorAll(`#${arguments[0]} .message-content`)].map(e => e.innerText)"
        return self.browser.execute_script(script, element_id)

    def type(self, element_id: str, text: str) -> None:
        box = self.browser.find_element(By.CSS_SELECTOR, f"#{element_id} textarea")
        box.send_keys(text, Keys.ENTER)

    def click(self, element_id: str) -> None:
        self.browser.find_element(By.ID, element_id).click()

    def options(self, element_id: str) -> dict[str, WebElement]:
        """The choices of a picker, opened, by what they say."""
        self.browser.find_element(By.CSS_SELECTOR, f"#{element_id} input").click()
        script = "return [...document.querySelectorAll('[role=option]')].map(e => [e.getAttribute('aria-label'), e])"
        return dict(wait_for(lambda: self.browser.execute_script(script)))

    def pick(self, element_id: str, name: str) -> None:
        self.options(element_id)[name].click()

    def open_tab(self, name: str) -> None:
        tabs = self.browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")
        next(tab for tab in tabs if tab.text == name).click()

    def hosts(self) -> set[str]:
        """Where the page has sent requests to since this was asked last."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return {address.split("/")[2] for address in sent if address.startswith(("http", "ws"))}

    def is_wider_than_the_screen(self) -> bool:
        return self.browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")


def test_a_question_is_typed_and_answered_and_nothing_is_asked_of_other_servers(laptop, url, tmp_path):
    page = Page(laptop, url)
    assert page.text("header") == "tiny" and "This is a base model" not in page.text("note")
    page.type("prompt", "What is your name?")
    wait_for(lambda: page.said("conversation") == ["What is your name?", "My name is Tiny."])
    wait_for(lambda: page.text("figures").startswith("dpo · 6 tokens · "))
    page.type("prompt", "Count to ten.")
    wait_for(lambda: page.said("conversation")[3:] == ["one two three four five six seven eight nine ten"])
    assert page.hosts() == {url.split("/")[2]}
    errors = [entry for entry in laptop.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors
    assert laptop.save_screenshot(str(tmp_path / "answered.png"))
    assert (tmp_path / "answered.png").stat().st_size > 10_000
    page.click("clear")
    wait_for(lambda: page.said("conversation") == [])


def test_every_complete_stage_can_be_picked_and_a_base_model_says_what_it_is(laptop, url):
    page = Page(laptop, url)
    options = page.options("model")
    assert list(options) == ["pretrain", "midtrain", "sft", "dpo"]
    options["pretrain"].click()
    wait_for(lambda: "This is a base model" in page.text("note"))
    wait_for(
        lambda: (
            "beginning of a text"
            in laptop.find_element(By.CSS_SELECTOR, "#prompt textarea").get_attribute("placeholder")
        )
    )
    page.type("prompt", "one two")
    wait_for(lambda: page.text("figures").startswith("pretrain · ") and "tokens/s" in page.text("figures"))
    assert page.said("conversation")[0] == "one two"


def test_an_answer_grows_as_it_is_written_and_stops_when_told(laptop, url):
    page = Page(laptop, url)
    page.pick("model", "midtrain")
    set_longest_answer(laptop, 2000)
    page.type("prompt", "Count.")
    lengths = []

    def grown() -> bool:
        lengths.append(len("".join(page.said("conversation")[1:])))
        return len(set(lengths)) > 5

    wait_for(grown)
    assert lengths == sorted(lengths)
    page.click("stop")
    time.sleep(1)
    after = page.said("conversation")
    assert after[1].count("one two three") < 190  # of 200
    time.sleep(1)
    assert page.said("conversation") == after
    page.type("prompt", "Again.")  # nothing holds the model any more
    wait_for(lambda: len(page.said("conversation")) == 4, seconds=5)
    page.click("stop")


def set_longest_answer(browser: webdriver.Chrome, tokens: int) -> None:
    box = browser.find_element(By.CSS_SELECTOR, "input[aria-label*='Longest answer'][type=number]")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(str(tokens), Keys.TAB)


def test_html_markdown_and_latex_are_seen_as_text_whoever_wrote_them(laptop, url, tmp_path):
    page = Page(laptop, url)
    title = laptop.title
    page.pick("model", "sft")
    page.type("prompt", "Show me.")
    wait_for(lambda: page.said("conversation")[1:] == [HTML])
    typed = HTML.replace("\n", " ")
    page.type("prompt", typed)
    wait_for(lambda: len(page.said("conversation")) >= 3)
    assert page.said("conversation")[2] == typed
    alive = "#conversation .message-content :is(img, script, b, strong, em, h1, li, a, code, .katex, math)"
    assert laptop.find_elements(By.CSS_SELECTOR, alive) == []
    time.sleep(0.5)
    assert laptop.title == title  # no script ran
    laptop.save_screenshot(str(tmp_path / "html.png"))


def test_a_message_that_is_too_long_is_refused_in_sight_and_kept(laptop, url, tmp_path):
    page = Page(laptop, url)
    box = laptop.find_element(By.CSS_SELECTOR, "#prompt textarea")
    laptop.execute_script(
        "arguments[0].value = '<b>' + 'x'.repeat(1200); arguments[0].dispatchEvent(new Event('input'))", box
    )
    box.send_keys(Keys.ENTER)
    reason = "The message has 1,203 characters; at most 1,000 are read: shorten it."
    wait_for(lambda: reason in "".join(toast.text for toast in laptop.find_elements(By.CSS_SELECTOR, ".toast-body")))
    time.sleep(0.5)
    laptop.save_screenshot(str(tmp_path / "refused.png"))
    assert "Error" not in page.text("conversation")
    assert page.said("conversation") == [] and len(box.get_attribute("value")) == 1203


def test_two_stages_answer_side_by_side(laptop, url, tmp_path):
    page = Page(laptop, url)
    page.open_tab("Compare")
    wait_for(lambda: laptop.find_element(By.ID, "compare-send").is_displayed())
    page.type("compare-prompt", "What is your name?")
    wait_for(lambda: "tokens/s" in page.text("figures-left") and "tokens/s" in page.text("figures-right"))
    wait_for(lambda: page.said("answer-right")[1:] == ["My name is Tiny."])
    assert page.text("figures-left").startswith("pretrain · base model, continues the text · ")
    assert page.text("figures-right").startswith("dpo · ")
    assert page.said("answer-left")[0] == page.said("answer-right")[0] == "What is your name?"
    laptop.save_screenshot(str(tmp_path / "compared.png"))


def test_on_a_phone_nothing_is_wider_than_the_screen(open_browser, url, tmp_path):
    phone = open_browser(390, 844, mobile=True)
    page = Page(phone, url)
    assert phone.execute_script("return window.innerWidth") == 390
    page.type("prompt", "What is " + "y" * 200 + "?")
    wait_for(lambda: "tokens" in page.text("figures") and len(page.said("conversation")) == 2)
    assert not page.is_wider_than_the_screen()
    phone.save_screenshot(str(tmp_path / "phone.png"))
    for name in ("send", "stop", "clear"):
        rectangle = phone.find_element(By.ID, name).rect
        assert rectangle["x"] >= 0 and rectangle["x"] + rectangle["width"] <= 390 and rectangle["height"] >= 40, name
    page.open_tab("Compare")
    page.type("compare-prompt", "What is your name?")
    wait_for(lambda: page.said("answer-right")[1:] == ["My name is Tiny."])
    assert not page.is_wider_than_the_screen()
    phone.save_screenshot(str(tmp_path / "phone_compared.png"))


def test_at_another_address_a_visitor_gives_the_token_once_and_it_is_not_printed(run_folder, open_browser, tmp_path):
    token = tmp_path / "token.txt"
    token.write_text("a-token-of-letters\n")
    flags = ("--host", "0.0.0.0", "--port", "0", "--token_file", str(token), "--temperature", "0", "--device", "cpu")
    process = subprocess.Popen(
        [str(PROGRAMS / "hfgpt"), "web", str(run_folder / "dpo"), *flags],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = ""
        while not (line := process.stdout.readline()).startswith("Open "):
            assert line or process.poll() is None
            printed += line
        url = line.split()[1].replace("0.0.0.0", "127.0.0.1")
        browser = open_browser(800, 700)
        browser.get(url)
        browser.find_element(By.ID, "token").send_keys("a-token-of-numbers", Keys.ENTER)
        wait_for(lambda: "That is not the token of this server" in browser.page_source)
        browser.find_element(By.ID, "token").send_keys("a-token-of-letters", Keys.ENTER)
        wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "#prompt textarea"))
        page = Page(browser, url)  # again, by the cookie
        page.type("prompt", "What is your name?")
        wait_for(lambda: page.said("conversation") == ["What is your name?", "My name is Tiny."])
    finally:
        process.terminate()
    rest, _ = process.communicate(timeout=20)
    assert "a-token-of" not in printed + line + rest
