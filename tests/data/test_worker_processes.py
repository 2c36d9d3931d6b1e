"""One function over many items in several processes: in order, with bounded reach, and gone when they should be."""

import os
import subprocess
import sys
from functools import partial
from itertools import count, islice

import pytest

from hfgpt.data.splitting import is_validation
from hfgpt.data.tokenizer import load_tokenizer
from hfgpt.data.worker_processes import ordered_map
from hfgpt.errors import UserError


def children() -> set[str]:
    """Ids of this process's children that are alive."""
    command = ["ps", "-o", "pid=,stat=,comm=", "--ppid", str(os.getpid())]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return {pid for pid, state, name in map(str.split, listed) if name != "ps" and not state.startswith("Z")}


def test_results_come_in_the_items_order():
    assert list(ordered_map(str, range(50), 3)) == [str(number) for number in range(50)]
    assert list(ordered_map(str, [], 2)) == []


def test_items_are_taken_two_a_process_ahead_and_processes_end_with_the_caller():
    before = children()
    taken: list[int] = []

    def items():
        for number in count():
            taken.append(number)
            yield number

    results = ordered_map(str, items(), 2)
    assert list(islice(results, 5)) == ["0", "1", "2", "3", "4"]
    assert len(taken) == 8 and len(children() - before) >= 2
    results.close()
    assert not children() - before


def test_errors_of_the_user_and_of_ours_come_back_as_they_are():
    before = children()
    with pytest.raises(UserError, match="there is no folder /nowhere"):
        list(ordered_map(load_tokenizer, ["/nowhere/at/all"], 1))
    with pytest.raises(RuntimeError, match="Traceback(.|\n)*invalid literal"):
        list(ordered_map(int, ["1", "x"], 1))
    assert not children() - before


def test_a_process_that_dies_is_told():
    with pytest.raises(RuntimeError, match="a worker process ended with code 7"):
        list(ordered_map(os._exit, [7], 1))


def test_a_worker_imports_nothing_of_the_callers_program(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "print('imported')\n"
        "from hfgpt.data.worker_processes import ordered_map\n"
        "print(list(ordered_map(len, ['a', 'bc'], 2)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("imported\n[1, 2]\n", "")


def test_functions_of_several_arguments_can_be_bound():
    assert list(ordered_map(partial(is_validation, fraction=1.0), ["a", "b"], 1)) == [True, True]
