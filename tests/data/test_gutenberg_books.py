"""Gutenberg books by number, over real HTTP."""

import gzip
import http.server
import threading
from pathlib import Path

import pytest

from hfgpt.data.gutenberg_books import ATTEMPTS, gutenberg_book_shards
from hfgpt.errors import UserError

BOOK = (
    "The Project Gutenberg eBook of A Night\n\n*** START OF THE PROJECT GUTENBERG EBOOK A NIGHT ***\n\n"
    "It was a dark night; the café’s door stood open.\n\n*** END OF THE PROJECT GUTENBERG EBOOK A NIGHT ***\n\nTerms."
).encode()
CLEAN = "It was a dark night; the café’s door stood open."


class Mirror:
    """A server whose answers to each path are set by the test; the last one is repeated."""

    def __init__(self):
        self.answers: dict[str, list] = {}
        self.requests: list[tuple[str, str]] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.requests.append((self.path, self.headers["User-Agent"]))
                answers = mirror.answers.get(self.path, [(404, b"no such file", {})])
                status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
                if status is None:
                    return  # hang up without a word
                self.send_response(status)
                headers = {"Content-Length": str(len(body)), **headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def paths(self):
        return [path for path, _ in self.requests]


@pytest.fixture
def mirror():
    mirror = Mirror()
    thread = threading.Thread(target=mirror.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield mirror
    mirror.server.shutdown()
    thread.join()
    mirror.server.server_close()


def books(mirror, numbers, folder, **options):
    options = {"delay_seconds": 0.0, "backoff_seconds": 0.01, **options}
    return gutenberg_book_shards(numbers, mirror=mirror.url, cache_folder=folder, **options)


OK, TRUNCATED = (200, BOOK, {}), (200, BOOK[:-9], {"Content-Length": str(len(BOOK))})


def test_books_are_downloaded_once_cached_and_cleaned(mirror, tmp_path):
    mirror.answers = {"/cache/epub/7/pg7.txt": [OK], "/cache/epub/12/pg12.txt": [OK]}
    found = books(mirror, [12, 7, 12], tmp_path / "cache")
    assert [shard.name for shard in found] == ["pg12.txt", "pg7.txt"]
    assert [list(shard.documents()) for shard in found] == [[CLEAN], [CLEAN]]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["pg12.txt", "pg7.txt"]
    assert mirror.paths() == ["/cache/epub/12/pg12.txt", "/cache/epub/7/pg7.txt"]
    assert all(agent.startswith("hfgpt/") for _, agent in mirror.requests)
    again = books(mirror, [12, 7], tmp_path / "cache")
    assert len(mirror.requests) == 2
    assert [shard.fingerprint() for shard in again] == [shard.fingerprint() for shard in found]


@pytest.mark.parametrize("path", ["/files/7/7-0.txt", "/files/7/7-8.txt", "/files/7/7.txt"])
def test_older_layouts_of_the_mirror_are_tried_in_turn(mirror, tmp_path, path):
    mirror.answers = {path: [OK]}
    (shard,) = books(mirror, [7], tmp_path)
    assert list(shard.documents()) == [CLEAN] and mirror.paths()[-1] == path


@pytest.mark.parametrize(
    "failure",
    [
        (500, b"oops", {}),
        (503, b"busy", {"Retry-After": "0"}),
        (429, b"slower", {}),
        TRUNCATED,
        (200, b"", {}),
        (200, b"<!DOCTYPE html><html>Are you a robot?</html>", {}),
        (200, gzip.compress(BOOK)[:20] + b"\0\0", {}),
        (None, b"", {}),
    ],
    ids=["500", "503", "429", "truncated", "empty", "web page", "binary", "hang up"],
)
def test_a_passing_failure_is_tried_again(mirror, tmp_path, failure):
    mirror.answers = {"/cache/epub/7/pg7.txt": [failure, failure, OK]}
    (shard,) = books(mirror, [7], tmp_path)
    assert list(shard.documents()) == [CLEAN]
    assert mirror.paths() == ["/cache/epub/7/pg7.txt"] * 3
    assert (tmp_path / "pg7.txt").read_bytes() == BOOK


@pytest.mark.parametrize(
    ("failure", "why"),
    [((500, b"", {}), "HTTP 500"), (TRUNCATED, "IncompleteRead"), ((200, b"<html>", {}), "web page")],
)
def test_a_lasting_failure_is_one_sentence_and_leaves_nothing(mirror, tmp_path, failure, why):
    mirror.answers = {"/cache/epub/7/pg7.txt": [OK], "/cache/epub/8/pg8.txt": [failure]}
    with pytest.raises(UserError, match=f"book 8 could not be downloaded .*{why}") as error:
        books(mirror, [7, 8], tmp_path)
    assert "\n" not in str(error.value)
    assert mirror.paths().count("/cache/epub/8/pg8.txt") == ATTEMPTS
    assert [path.name for path in tmp_path.iterdir()] == ["pg7.txt"]


def test_a_refusal_is_not_repeated(mirror, tmp_path):
    mirror.answers = {"/cache/epub/7/pg7.txt": [(403, b"", {})]}
    with pytest.raises(UserError, match="book 7 .*HTTP 403"):
        books(mirror, [7], tmp_path)
    assert len(mirror.requests) == 1


def test_a_number_without_a_book_is_one_sentence(mirror, tmp_path):
    with pytest.raises(UserError, match="no plain text of book 99999999; check the number"):
        books(mirror, [99999999], tmp_path)
    assert len(mirror.requests) == 4


def test_no_network_is_one_sentence_and_cached_books_need_none(mirror, tmp_path):
    mirror.answers = {"/cache/epub/7/pg7.txt": [OK]}
    books(mirror, [7], tmp_path)
    dead = "http://127.0.0.1:9"  # the discard port: nothing listens
    options = {"mirror": dead, "cache_folder": tmp_path, "backoff_seconds": 0.01}
    assert list(gutenberg_book_shards([7], **options)[0].documents()) == [CLEAN]
    with pytest.raises(UserError, match="book 8 could not be downloaded .*check the network"):
        gutenberg_book_shards([8], **options)


def test_retry_after_is_obeyed(mirror, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("hfgpt.data.gutenberg_books.time.sleep", waits.append)
    mirror.answers = {"/cache/epub/7/pg7.txt": [(503, b"", {"Retry-After": "17"}), (503, b"", {}), OK]}
    books(mirror, [7], tmp_path, backoff_seconds=1.0)
    assert waits == [17.0, 2.0]


def test_the_cache_lies_in_the_users_cache_folder(mirror, tmp_path, monkeypatch):
    mirror.answers = {"/cache/epub/7/pg7.txt": [OK]}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    books(mirror, [7], None)
    assert (tmp_path / "hfgpt" / "gutenberg" / "pg7.txt").read_bytes() == BOOK
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    books(mirror, [7], None)
    assert (Path(tmp_path) / "home" / ".cache" / "hfgpt" / "gutenberg" / "pg7.txt").read_bytes() == BOOK


@pytest.mark.parametrize("numbers", [[], [0], [-3], ["1342"], [True], [1.5]])
def test_numbers_that_are_none_are_one_sentence(mirror, tmp_path, numbers):
    with pytest.raises(UserError, match="data.gutenberg_books"):
        books(mirror, numbers, tmp_path)
    assert not mirror.requests
