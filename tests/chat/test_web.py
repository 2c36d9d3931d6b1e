"""The web page's server, asked as programs ask it: answers, limits, and what it does not serve."""

import json
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest
from commands import run, sentence_of_failure
from reciting_model import save_reciting_model

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")

COUNTING = "one two three four five six seven eight nine ten "
MAX_PROMPT_CHARS = 300


def complete_stage(folder: Path, model: Path) -> None:
    shutil.copytree(model, folder)
    (folder / "final_metrics.json").write_text("{}")


@pytest.fixture(scope="module")
def engines():
    """The engines of `page` by name, each of which counts the steps it takes."""
    return {}


@pytest.fixture(scope="module")
def page(tmp_path_factory, chat_model, base_model, chat_tokenizer, engines):
    """Address of a page over a base model, a chat model, one that counts for 4,000 tokens and one that calculates;
    two visitors may wait."""
    from hfgpt.chat.engine import Engine
    from hfgpt.chat.sampling import Sampling
    from hfgpt.chat.web_models import Models
    from hfgpt.chat.web_page import build_page, launch_page
    from hfgpt.chat.web_settings import Defaults

    counting = save_reciting_model(tmp_path_factory.mktemp("counting"), chat_tokenizer, COUNTING, positions=4096)
    calculating = save_reciting_model(
        tmp_path_factory.mktemp("calculating"),
        chat_tokenizer,
        "<|python|>12*7<|end|><|output|>84<|end|><|assistant|>It is 84.",
        question="What is 12 times 7?",
    )
    offered = {"base": str(base_model), "counting": str(counting), "chat": str(chat_model)}
    offered["calculating"] = str(calculating)

    class CountingEngine(Engine):
        num_steps = 0

        def steps(self, *args, **kwargs):
            for step in super().steps(*args, **kwargs):
                self.num_steps += 1
                yield step

    def load(location: str) -> Engine:
        engine = CountingEngine.from_pretrained(location, device="cpu")
        engines[next(name for name, offer in offered.items() if offer == location)] = engine
        return engine

    models = Models(offered, load, kept=4)
    defaults = Defaults(Sampling(temperature=0), max_prompt_chars=MAX_PROMPT_CHARS)
    built = build_page(models, "chat", defaults, title="some models")
    yield launch_page(built, "127.0.0.1", _free_port(), queue_size=2, max_prompt_chars=MAX_PROMPT_CHARS)
    built.close(verbose=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def client(page):
    from gradio_client import Client

    return Client(page, verbose=False)


def texts(conversation: list[dict]) -> list[str]:
    return [message["content"][0]["text"] for message in conversation]


def test_a_conversation_goes_on_and_is_forgotten_when_cleared(client):
    conversation, *_ = client.predict("What is your name?", api_name="/chat")
    assert texts(conversation) == ["What is your name?", "My name is Tiny."]
    conversation, _, figures = client.predict("Count to ten.", api_name="/chat")
    assert texts(conversation)[2:] == ["Count to ten.", "one two three four five six seven eight nine ten"]
    assert figures.startswith("chat · 11 tokens · ")  # ten words and the end token
    client.predict(api_name="/clear")
    conversation, *_ = client.predict("What is your name?", system="Be brief.", api_name="/chat")
    assert texts(conversation) == ["What is your name?", "Tiny."]


def test_visitors_do_not_see_each_other(page):
    from gradio_client import Client

    first, second = Client(page, verbose=False), Client(page, verbose=False)
    first.predict("What is your name?", api_name="/chat")
    conversation, *_ = second.predict("Count to ten.", api_name="/chat")
    assert texts(conversation)[0] == "Count to ten."


def test_what_is_said_is_sent_to_the_page_with_nothing_alive_in_it(client):
    conversation, *_ = client.predict("<b>What</b> & why?\n    <script>1</script>", api_name="/chat")
    assert texts(conversation)[0] == "&lt;b&gt;What&lt;/b&gt; &amp; why?\n    &lt;script&gt;1&lt;/script&gt;"


def test_a_base_model_continues_the_last_message_alone(client):
    def continuation() -> str:
        conversation, *_ = client.predict(
            "one two", model="base", system="Be brief.", temperature=0, max_new_tokens=5, api_name="/chat"
        )
        return texts(conversation)[-1]

    first = continuation()
    client.predict("Something else.", model="base", max_new_tokens=5, api_name="/chat")
    assert continuation() == first


def test_the_calculator_is_asked_where_it_is_switched_on_and_its_use_is_shown(client):
    question = "What is 12 times 7?"
    conversation, _, figures = client.predict(question, model="calculating", calculator=True, api_name="/chat")
    assert texts(conversation)[1] == "It is 84."
    assert figures.endswith(" · calculator: 12*7 = 84")
    client.predict(api_name="/clear")
    conversation, _, figures = client.predict(question, model="calculating", api_name="/chat")
    assert "84" not in texts(conversation)[1] and "calculator" not in figures


def test_two_models_answer_side_by_side_and_both_grow(client):
    job = client.submit("What is your name?", left="counting", right="chat", max_new_tokens=200, api_name="/compare")
    left, right, left_figures, right_figures = job.result(timeout=60)
    assert texts(left)[1].count("one two three") > 10 and left_figures.startswith("counting · 200 tokens")
    assert "cut there" in left_figures and "cut there" not in right_figures
    assert texts(right)[1] == "My name is Tiny."
    lengths = [len("".join(texts(update[0])[1:])) for update in job.outputs()]
    assert lengths == sorted(lengths) and len(set(lengths)) >= 3


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"prompt": "x" * 301}, "The message has 301 characters; at most 300 are read: shorten it."),
        ({"prompt": "x", "system": "y" * 1000}, "The system prompt has 1,000 characters; at most 300 are read"),
        ({"prompt": " \n "}, "The message is empty: write something."),
        ({"prompt": "x", "seed": "abc"}, "The seed must be a whole number"),
        ({"prompt": "x", "seed": "1" * 30}, "The seed must be a whole number"),
        ({"prompt": "x", "temperature": 99}, "greater than maximum value 2"),
        ({"prompt": "x", "temperature": 1e-40}, "temperature must be 0 (greedy) or from 0.001 to 1000"),
        ({"prompt": "x", "max_new_tokens": 10**9}, "greater than maximum value"),
        ({"prompt": "x", "best_of": 1000}, "greater than maximum value 8"),
        ({"prompt": "x", "model": "/etc"}, "not in the list of choices"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_sentence(client, asked, reason):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as refused:
        client.predict(**asked, api_name="/chat")
    assert reason in str(refused.value)


def test_a_message_too_long_for_the_model_is_refused_with_a_sentence(client):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="and chat reads 256"):  # a digit is a token
        client.predict("7 " * 140, model="chat", api_name="/chat")


def test_one_is_answered_at_a_time_two_wait_and_more_are_turned_away(page):
    from gradio_client import Client

    clients = [Client(page, verbose=False) for _ in range(6)]
    jobs = []
    for client in clients:
        jobs.append(client.submit("Count.", model="counting", max_new_tokens=1000, api_name="/chat"))
        while len(jobs) == 1 and not jobs[0].outputs():
            time.sleep(0.01)
    time.sleep(0.3)
    being_answered = [job for job in jobs if job.outputs() and not job.done()]
    assert len(being_answered) == 1
    results = [job.exception(timeout=60) or job.result() for job in jobs]
    refusals = [str(result) for result in results if isinstance(result, Exception)]
    assert len(refusals) == 3 and all("503" in reason or "full" in reason for reason in refusals)
    answers = [result for result in results if not isinstance(result, Exception)]
    assert all(figures.startswith("counting · 1,000 tokens") for *_, figures in answers)


def test_an_answer_that_is_stopped_makes_room_for_the_next(client, engines):
    before = engines["counting"].num_steps if "counting" in engines else 0
    job = client.submit("Count.", model="counting", max_new_tokens=2000, api_name="/chat")
    while len(job.outputs()) < 3:
        time.sleep(0.02)
    job.cancel()
    conversation, *_ = client.predict("What is your name?", api_name="/chat")
    assert 0 < engines["counting"].num_steps - before < 2000
    question, partial, *_ = texts(conversation)
    assert question == "Count." and COUNTING in partial  # what had been said stays


def test_nothing_is_served_but_the_page_and_its_questions(page):
    for path in (
        *("gradio_api/file=/etc/passwd", "file=/etc/passwd", "gradio_api/proxy=http://127.0.0.1/", "monitoring"),
        *("docs", "openapi.json", "gradio_api/openapi.json", "gradio_api/runs", "gradio_api/upload_progress"),
        *("static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "assets/..%2f..%2f..%2f..%2fweb.py"),
    ):
        assert httpx2.get(page + path).status_code in (403, 404), path
    files = {"files": ("a.txt", b"text")}
    assert httpx2.post(page + "gradio_api/upload", files=files).status_code == 404
    for path in ("gradio_api/run/chat", "gradio_api/api/chat", "gradio_api/call/chat", "login"):
        assert httpx2.post(page + path, json={"data": []}).status_code == 404, path
    assert httpx2.get(page).status_code == 200


class Visitor:
    """A browser's part of gradio's protocol, for what gradio's own client would not send. `page` is its address and
    the number of its call "chat"."""

    def __init__(self, page: tuple[str, int], session: str) -> None:
        (self.page, self.fn_index), self.session = page, session

    def ask(self, prompt: str, model: str = "chat", max_new_tokens: int = 64) -> httpx2.Response:
        settings = ["", 0, max_new_tokens, False, 0, 1, 1, 1, ""]  # in the order of Settings.controls
        body = {"data": [prompt, None, model, *settings], "fn_index": self.fn_index, "session_hash": self.session}
        return self.post(json.dumps(body).encode())

    def post(self, body: bytes) -> httpx2.Response:
        headers = {"Content-Type": "application/json"}
        return httpx2.post(f"{self.page}gradio_api/queue/join", content=body, headers=headers, timeout=60)

    def events(self) -> Iterator[dict]:
        """What the server tells this visitor; closing the iterator hangs up."""
        where = f"{self.page}gradio_api/queue/data?session_hash={self.session}"
        with httpx2.stream("GET", where, timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def answer(self) -> str:
        """The end of an answer that has been asked for, or what is said instead."""
        for event in self.events():
            if event["msg"] == "process_completed":
                return str(event["output"])
        return ""


@pytest.fixture(scope="module")
def called(page) -> tuple[str, int]:
    """Address of the page, and the number of its call "chat"."""
    calls = httpx2.get(f"{page}config").json()["dependencies"]
    return page, next(call["id"] for call in calls if call["api_name"] == "chat")


def test_of_two_hundred_visitors_at_once_each_is_answered_or_told_that_the_line_is_full(called):
    def visit(number: int) -> tuple[int, str]:
        visitor = Visitor(called, f"visitor{number}")
        joined = visitor.ask("What is your name?")
        return joined.status_code, visitor.answer() if joined.status_code == 200 else joined.text

    with ThreadPoolExecutor(200) as pool:
        visits = list(pool.map(visit, range(200)))
    answers = [text for status, text in visits if status == 200]
    refusals = [text for status, text in visits if status != 200]
    assert len(answers) >= 3 and all("My name is Tiny." in text for text in answers)
    assert {status for status, _ in visits} <= {200, 503} and all("full" in text for text in refusals)
    assert "My name is Tiny." in visit(200)[1]


def test_generation_stops_for_a_visitor_who_goes_away(called, engines):
    """2,048 tokens take seconds; the next visitor is answered when the model is free."""
    before = engines["counting"].num_steps if "counting" in engines else 0
    leaving = Visitor(called, "leaving")
    assert leaving.ask("Count.", model="counting", max_new_tokens=2048).status_code == 200
    events = leaving.events()
    while next(events)["msg"] != "process_generating":
        pass
    events.close()
    next_one = Visitor(called, "next")
    next_one.ask("What is your name?")
    assert "My name is Tiny." in next_one.answer()
    assert 0 < engines["counting"].num_steps - before < 2048


BROKEN = {
    "cut off": b'{"data',
    "a list": b"[1]",
    "nothing": b"",
    "not UTF-8": b"\xff\xfe",
    "deep": b"[" * 50_000,
    "no data": b'{"fn_index": 0}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_request_that_is_broken_is_refused_as_the_clients_mistake(called, body):
    assert 400 <= Visitor(called, "broken").post(body).status_code < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\x00\x1b[2J\x7f\u202e<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("\ud800", "The message is no valid Unicode text: write it anew."),
    ],
)
def test_control_characters_html_and_broken_unicode_are_shown_or_refused_as_text(called, text, said):
    visitor = Visitor(called, "hostile")
    assert visitor.ask(text).status_code == 200
    answer = visitor.answer()
    assert said in answer and "<img" not in answer


def test_a_request_of_a_megabyte_or_of_unknown_size_is_not_read(page):
    join = page + "gradio_api/queue/join"
    body = json.dumps({"data": ["x" * 2**20], "fn_index": 0, "session_hash": "a"}).encode()
    assert httpx2.post(join, content=body).status_code == 413
    assert httpx2.post(join, content=iter([body])).status_code == 411


def test_a_name_that_somebody_else_made_lead_here_is_not_answered(page):
    for host, status in (("evil.example", 403), ("127.0.0.1.evil.example", 403), ("[", 403), ("localhost:7860", 200)):
        assert httpx2.get(page, headers={"Host": host}).status_code == status


TOKEN = "a-token-of-letters"


@pytest.fixture(scope="module")
def guarded(chat_model):
    """Address of a page for who knows TOKEN."""
    from hfgpt.chat.engine import Engine
    from hfgpt.chat.sampling import Sampling
    from hfgpt.chat.web_models import Models
    from hfgpt.chat.web_page import build_page, launch_page
    from hfgpt.chat.web_settings import Defaults

    models = Models({"chat": str(chat_model)}, load=lambda location: Engine.from_pretrained(location, device="cpu"))
    built = build_page(models, "chat", Defaults(Sampling(temperature=0)), title="guarded")
    yield launch_page(built, "127.0.0.1", _free_port(), queue_size=2, max_prompt_chars=300, token=TOKEN)
    built.close(verbose=False)


def test_without_the_token_there_is_a_form_and_nothing_else(guarded):
    form = httpx2.get(guarded)
    assert form.status_code == 401 and 'type="password"' in form.text and "guarded" not in form.text
    for path in ("config", "gradio_api/info", "assets/index.js", "gradio_api/queue/data?session_hash=a", "enter"):
        assert httpx2.get(guarded + path).status_code == 401, path
    assert httpx2.post(guarded + "gradio_api/queue/join", json={"data": []}).status_code == 401
    for wrong in ("Bearer a-token-of-numbers", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x"):
        assert httpx2.get(guarded + "config", headers={"Authorization": wrong}).status_code == 401
    assert httpx2.get(f"{guarded}config?token={TOKEN}").status_code == 401
    assert httpx2.get(guarded + "config", cookies={"hfgpt_visitor": TOKEN}).status_code == 401


def test_the_form_lets_in_who_types_the_token_by_a_cookie_that_does_not_tell_it(guarded):
    for wrong in ({"token": "a-token-of-numbers"}, {"token": ""}, {}, {"token": "x" * 5000}):
        refused = httpx2.post(guarded + "enter", data=wrong)
        assert refused.status_code == 401 and "set-cookie" not in refused.headers
    entered = httpx2.post(guarded + "enter", data={"token": TOKEN})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
    assert httpx2.get(guarded, cookies=entered.cookies).status_code == 200
    elsewhere = httpx2.get(guarded, cookies=entered.cookies, headers={"Host": "models.example"})
    assert elsewhere.status_code == 200  # behind a proxy: who has the token comes in by any name


def test_a_program_sends_the_token_in_a_header(guarded):
    from gradio_client import Client

    client = Client(guarded, headers={"Authorization": f"Bearer {TOKEN}"}, verbose=False)
    conversation, *_ = client.predict("What is your name?", api_name="/chat")
    assert texts(conversation) == ["What is your name?", "My name is Tiny."]


def test_it_listens_on_this_computer_alone_unless_others_must_know_a_token(tmp_path):
    from hfgpt.chat.access import token_of
    from hfgpt.chat.address import is_loopback
    from hfgpt.chat.web import parse_args
    from hfgpt.errors import UserError

    args = parse_args(["runs/tiny"])
    assert is_loopback(args.host) and token_of(args) is None
    with pytest.raises(UserError, match=r"--host 0.0.0.0 is open to the network: protect the model with --token_file"):
        token_of(parse_args(["runs/tiny", "--host", "0.0.0.0"]))
    (tmp_path / "token.txt").write_text("twelve-letters\n")
    args = parse_args(["runs/tiny", "--host", "0.0.0.0", "--token_file", str(tmp_path / "token.txt")])
    assert token_of(args) == "twelve-letters"


def test_what_the_command_line_asks_for_is_what_the_page_starts_with():
    import gradio as gr

    from hfgpt.chat.sampling import Sampling
    from hfgpt.chat.web_settings import Defaults, Settings

    for sampling in (
        Sampling(),
        Sampling(0, None, 0.3, 1.2, 64, 7),
        Sampling(5.0, 999, 0.01, 0.5, 9999, 2**63 - 1),  # beyond the usual ends of the sliders
    ):
        with gr.Blocks(analytics_enabled=False):
            settings = Settings(Defaults(sampling, system="Be brief.", calculator=True, best_of=20))
        values = {name: control.preprocess(control.value) for name, control in settings.controls.items()}
        question = settings.question([{"role": "user", "content": "Hello"}], values)
        assert question.sampling == sampling
        assert (question.system, question.calculator, question.best_of) == ("Be brief.", True, 20)


def test_a_run_stands_for_its_complete_stages_in_order(tmp_path, chat_model, base_model):
    from hfgpt.chat.web_models import offered_models

    tiny = tmp_path / "tiny"
    for stage, model in (("sft", chat_model), ("pretrain", base_model)):
        complete_stage(tiny / stage, model)
    (tiny / "dpo").mkdir()
    assert offered_models([str(tiny)]) == {"pretrain": str(tiny / "pretrain"), "sft": str(tiny / "sft")}
    both = offered_models([str(tiny), "gpt2"])
    assert list(both) == ["tiny/pretrain", "tiny/sft", "gpt2"]
    assert list(offered_models([str(tiny / "sft")])) == ["tiny/sft"]


def test_models_of_the_same_name_are_told_apart(tmp_path, chat_model, base_model):
    from hfgpt.chat.web_models import offered_models

    names = []
    for parent, model in (("a", chat_model), ("b", base_model)):
        complete_stage(tmp_path / parent / "sft", model)
        names.append(str(tmp_path / parent / "sft"))
    assert list(offered_models(names).values()) == names


def test_only_so_many_models_stay_in_memory(chat_model, base_model):
    from hfgpt.chat.engine import Engine
    from hfgpt.chat.web_models import Models
    from hfgpt.errors import UserError

    loaded = []

    def load(location: str) -> Engine:
        loaded.append(location)
        return Engine.from_pretrained(location, device="cpu")

    models = Models({"a": str(chat_model), "b": str(base_model), "c": str(chat_model)}, load, kept=2)
    for name in "abacab":  # c takes the place of b, and b that of c
        assert models[name].max_length == 256
    assert len(loaded) == 4
    with pytest.raises(UserError, match="there is no model d here"):
        models["d"]


def test_without_gradio_one_sentence_says_what_to_install(chat_model):
    code = (
        "import sys; sys.modules['gradio'] = None; "
        "from hfgpt.chat.web import main; from hfgpt.errors import run_command; "
        f"sys.exit(run_command(main, [{str(chat_model)!r}]))"
    )
    done = run("python", "-c", code, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install hfgpt[web]" in done.stderr


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--port", "99999"], "--port must be from 0 to 65535, not 99999"),
        (["--queue_size", "0"], "--queue_size must be at least 1, not 0"),
        (["--share", "true"], "--share is not known"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_a_flag_that_makes_no_sense_is_one_sentence(tmp_path, chat_model, flags, reason):
    assert reason in sentence_of_failure("hfgpt", "web", chat_model, *flags, timeout=60)


def test_a_port_in_use_is_one_sentence(chat_model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port}" in sentence_of_failure("hfgpt", "web", chat_model, "--port", str(port))
