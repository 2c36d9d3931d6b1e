import json
from pathlib import Path

import pytest

from hfgpt.errors import UserError
from hfgpt.evals.humaneval.sandbox import check_sandbox, runs_to_its_end
from hfgpt.evals.humaneval.utils import run


@pytest.fixture(scope="module", autouse=True)
def sandbox():
    try:
        check_sandbox()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def problems(shared_data) -> list[dict]:
    lines = (shared_data / "evals" / "humaneval" / "HumanEval.first82.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_published_solutions_pass_and_a_wrong_one_does_not(problems):
    for problem in problems[:5]:
        assert run(problem, [problem["canonical_solution"]]) == {"pass@1": 1.0}
        assert run(problem, ["    return None\n"]) == {"pass@1": 0.0}


def test_leaving_early_is_not_passing(problems):
    assert run(problems[0], ["    pass\nimport sys\nsys.exit(0)\n"]) == {"pass@1": 0.0}
    assert run(problems[0], ["    pass\nimport os\nos._exit(0)\n"]) == {"pass@1": 0.0}


def test_a_program_changes_nothing_and_reaches_nobody(tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("as it was")
    tries = {
        "writes": f"open({str(kept)!r}, 'w')",
        "removes": f"import os\nos.remove({str(kept)!r})",
        "makes": f"open({str(tmp_path / 'new.txt')!r}, 'w')",
        "connects": "import socket\nsocket.create_connection(('127.0.0.1', 22), timeout=1)",
        "resolves": "import socket\nsocket.getaddrinfo('huggingface.co', 443)",
        "remounts": "import subprocess\nsubprocess.run(['mount', '-o', 'remount,rw', '/'], check=True)",
        "looks": "assert open('/proc/self/status')",
        "reads the environment": "import os\nassert os.environ['HOME']",
    }
    for name, program in tries.items():
        assert not runs_to_its_end(program), name
    assert kept.read_text() == "as it was" and list(tmp_path.iterdir()) == [kept]


def test_a_program_may_use_the_standard_library_and_a_folder_of_its_own():
    program = "import tempfile, math, re\nwith tempfile.TemporaryFile() as file:\n    file.write(b'x' * 1000)\n"
    assert runs_to_its_end(program + "assert math.prod([2, 3]) == 6 and re.match('a+', 'aa')\n")
    assert not Path("/dev/shm/x").exists()


@pytest.mark.slow
def test_a_program_ends_where_it_takes_too_long_or_too_much():
    assert not runs_to_its_end("while True:\n    pass")
    assert not runs_to_its_end("x = bytearray(3 << 30)")
    assert not runs_to_its_end("open('large', 'wb').write(bytes(40 << 20))")
