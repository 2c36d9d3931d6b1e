"""The process of `hfgpt serve`: when it starts, whom it lets in, and how it stops."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")

import openai
from commands import sentence_of_failure
from server_process import ServerProcess, server_process

from hfgpt.chat.serve import main
from hfgpt.errors import UserError

TOKEN = "sk-small-secret"


@pytest.fixture(scope="module")
def server(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An untrained base model for everyone who has the token."""
    file = tmp_path_factory.mktemp("secret") / "token.txt"
    file.write_text(f"{TOKEN}\n")
    with server_process(base_model, "--host", "0.0.0.0", "--token_file", file, "--name", "base") as running:
        yield running


def url_of(server: ServerProcess) -> str:
    return server.url.replace("0.0.0.0", "127.0.0.1")


def test_a_base_model_continues_texts_and_has_no_chat(server):
    client = openai.OpenAI(base_url=url_of(server), api_key=TOKEN, max_retries=0)
    answer = client.completions.create(model="base", prompt="one two", max_tokens=5, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5 or answer.choices[0].finish_reason == "stop"
    with pytest.raises(openai.BadRequestError, match="base is a base model: it continues texts"):
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "one"}])


@pytest.mark.parametrize("path", ["/models", "/completions", "/nothing", "/../load"])
@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", "Bearer \xe9"]
)
def test_without_the_token_there_is_no_answer(server, path, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    response = httpx.get(url_of(server) + path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_with_the_token_any_name_of_the_host_is_answered(server):
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "models.example"}
    assert httpx.get(f"{url_of(server)}/models", headers=headers).json()["data"][0]["id"] == "base"
    assert httpx.get(url_of(server).replace("/v1", "/health")).json() == {"status": "ok"}


def test_a_token_sent_in_a_wrong_place_is_not_printed_either(server):
    wrong = "another-secret-token"
    assert httpx.get(f"{url_of(server)}/models?api_key={TOKEN}&token={wrong}").status_code == 401
    headers = {"Authorization": f"Bearer {wrong}"}
    assert httpx.post(f"{url_of(server)}/completions", headers=headers, json={"token": wrong}).status_code == 401
    assert TOKEN not in server.output and wrong not in server.output


def test_the_token_is_never_printed_and_a_signal_ends_the_server_and_its_answers(server):
    """The last test of this server."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"prompt": "one", "stream": True, "temperature": 2, "max_tokens": 250}
    with httpx.stream("POST", f"{url_of(server)}/completions", json=body, headers=headers, timeout=30) as response:
        lines = response.iter_lines()
        next(lines)
        assert server.stop(signal.SIGTERM) == 0
        assert any(line.startswith(("data: [DONE]", 'data: {"error"')) for line in lines)
    assert TOKEN not in server.output
    assert "Traceback" not in server.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 is open to the network: protect the model with --token_file"),
        (["--host", ""], "is open to the network"),
        (["--token", ""], "--token: a token must be of at least 12 printable ASCII characters without spaces"),
        (["--token", "too-short"], "--token: a token must be of at least 12 printable ASCII characters"),
        (["--token", "a token of words"], "--token: a token must be of at least 12 printable ASCII characters"),
        (["--token", TOKEN, "--token_file", "a"], "--token and --token_file both say the token: give one of them."),
        (["--token_file", "no/such/file"], "--token_file no/such/file cannot be read (No such file or directory)."),
        (["--host", "256.0.0.1", "--token", TOKEN], "cannot listen on 256.0.0.1, port 8000"),
        (["--port", "99999"], "--port must be from 0 to 65535, not 99999."),
        (["--max_active", "0"], "--max_active must be at least 1, not 0."),
        (["--temperature", "-1"], "temperature must be"),
        (["--tempera", "1"], "--tempera is not known"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(base_model, words, sentence):
    with pytest.raises(UserError) as error:
        main([str(base_model), *words])
    assert sentence in str(error.value)


def test_a_port_that_is_taken_is_said_in_one_sentence(base_model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = sentence_of_failure("hfgpt", "serve", base_model, "--port", port)
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in sentence


def test_a_model_that_cannot_be_loaded_ends_the_start_in_one_sentence(base_model, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((base_model / name).read_bytes())
    (broken / "model.safetensors").write_bytes(b"no weights")
    for folder, sentence in (
        (broken, "cannot be loaded as a language model"),
        (tmp_path / "no", "there is no folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            main([str(folder), "--port", "0"])
