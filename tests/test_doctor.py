"""`hfgpt doctor` finds what is wrong with a machine: each fault is a real one, and a sound machine has none."""

import json
import shutil
import signal
import socket
from pathlib import Path

import pytest
from commands import run
from huggingface_hub import constants

from hfgpt.doctor.command import main
from hfgpt.doctor.findings import Finding, findings_of
from hfgpt.doctor.hub import check_hub
from hfgpt.doctor.machine import check_folder, check_memory
from hfgpt.doctor.packages import check_extras, check_packages, check_python
from hfgpt.doctor.trial import run_trial

TRIAL = ["torch", "training", "evaluation", "generation"]


def by_check(printed: str) -> dict[str, list[dict]]:
    """Findings of `--json`, by check."""
    findings = json.loads(printed)["findings"]
    return {name: [found for found in findings if found["check"] == name] for name in {f["check"] for f in findings}}


@pytest.mark.slow
def test_on_a_sound_machine_nothing_fails_and_a_model_is_trained_scored_and_asked(hub_server, tmp_path):
    done = run("hfgpt", "doctor", "--json", "--output_root", tmp_path / "runs", **hub_server.env(tmp_path))
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] is True
    found = by_check(done.stdout)
    for check in ("Python", *TRIAL, "Hub"):
        assert [finding["status"] for finding in found[check]] == ["ok"], check
    assert "5 steps in " in found["training"][0]["found"]
    assert "tinyworld_sums 0." in found["evaluation"][0]["found"]
    assert found["generation"][0]["found"].startswith("16 tokens on ")
    assert "logged in as " in found["Hub"][0]["found"]
    assert list(tmp_path.glob("runs*")) == []  # it leaves nothing behind


@pytest.mark.slow
def test_what_is_broken_is_named_with_what_mends_it_and_the_rest_is_still_checked(hub_server, tmp_path):
    shadows = tmp_path / "shadows"  # found before the installed packages
    (shadows / "accelerate-0.1.dist-info").mkdir(parents=True)
    (shadows / "accelerate-0.1.dist-info" / "METADATA").write_text("Name: accelerate\nVersion: 0.1\n")
    (shadows / "jinja2.py").write_text("raise ImportError('this file hides a package')")
    (tmp_path / "file").write_text("in the way")
    environment = hub_server.env(tmp_path) | {"PYTHONPATH": str(shadows), "HF_TOKEN": "hf_expired"}
    done = run("hfgpt", "doctor", "--output_root", tmp_path / "file" / "runs", **environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert len(failed) >= 4
    text = " ".join(done.stdout.split())
    assert 'accelerate 0.1 is not >=1.15 -> pip install "accelerate>=1.15"' in text
    assert "refuses the token: it is wrong or expired -> hf auth login" in text
    assert "cannot write to" in text and "(runs): Not a directory" in text and "--output_root" in text
    assert "this file hides a package" in text
    assert "ok       Python" in done.stdout and "ok       torch" in done.stdout
    assert "must be mended before hfgpt works here" in text
    assert "hf_expired" not in done.stdout + done.stderr


def test_the_quick_form_takes_no_trial(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["--quick", "--json", "--output_root", str(tmp_path)]) == 0
    found = by_check(capsys.readouterr().out)
    assert set(found) == {"Python", "packages", "extras", "memory", "disk", "Hub"}
    assert found["Hub"][0]["status"] == "warning" and "HF_HUB_OFFLINE is set" in found["Hub"][0]["found"]
    assert len(found["disk"]) == 3


def test_a_process_that_dies_is_said_to_have_died_of_what(monkeypatch, tmp_path):
    """As torch's does on a processor whose instructions it lacks."""
    (tmp_path / "torch.py").write_text(f"import os\nos.kill(os.getpid(), {int(signal.SIGILL)})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = run_trial(debug=False)
    assert [finding.check for finding in found] == TRIAL
    assert {finding.status for finding in found} == {"failed"}
    assert found[0].found.startswith(f"signal {int(signal.SIGILL)} ended it")
    assert found[1].found == "not tried, since the process had ended"


def test_a_trial_that_hangs_is_ended(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("import time\nprint('waiting for a device', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = run_trial(debug=False, time_limit=5)
    assert found[0].found.startswith("it did not end within 5 s")


@pytest.fixture
def described(monkeypatch, tmp_path):
    """`described(python, *requirements)`: hfgpt's installed description says so, as that of another version would."""

    def write(python: str, *requirements: str) -> None:
        folder = tmp_path / "hfgpt-9.9.dist-info"
        folder.mkdir()
        lines = ["Name: hfgpt", "Version: 9.9", f"Requires-Python: {python}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
        lines += ["Provides-Extra: web", "Requires-Dist: no-such-page>=2; extra == 'web'"]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


def test_packages_that_are_missing_or_too_old_fail_with_the_command_that_mends_them(described):
    described(">=3.99", "torch>=99", "no-such-package>=1.5", "numpy")
    (python,) = check_python()
    assert python.status == "failed" and python.remedy == "install Python >=3.99 and hfgpt in it"
    missing, old = (found for found in check_packages() if found.status == "failed")
    assert missing.found == "missing: no-such-package"
    assert missing.remedy == 'pip install "no-such-package>=1.5"'
    assert old.found.startswith("torch 2.") and old.found.endswith(" is not >=99")
    (extras,) = check_extras()
    assert extras.found == "installed: none; not installed: web (pip install hfgpt[web] when you need it)"


def test_another_version_than_the_tests_ran_with_is_a_warning(described, monkeypatch, tmp_path):
    described(">=3.11", "numpy", "tqdm")
    (tmp_path / "tqdm-4.1.dist-info").mkdir()
    (tmp_path / "tqdm-4.1.dist-info" / "METADATA").write_text("Name: tqdm\nVersion: 4.1\n")
    other, rest = check_packages()
    assert other.status == "warning" and other.found.startswith("tqdm 4.1 (tested: 4.")
    assert other.remedy.startswith("if something goes wrong: pip install tqdm==4.")
    assert rest == Finding("packages", "ok", "2 required, 1 of them in the version of the tests")


def test_a_folder_on_a_full_disk_fails_and_one_on_a_small_disk_is_a_warning(monkeypatch, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    for few, least, status in ((free * 2, free * 2, "failed"), (free * 2, 0, "warning"), (0, 0, "ok")):
        monkeypatch.setattr("hfgpt.doctor.machine.FEW_FREE_BYTES", few)
        monkeypatch.setattr("hfgpt.doctor.machine.MIN_FREE_BYTES", least)
        (found,) = check_folder("downloads", tmp_path / "not" / "yet")
        assert found.status == status and " GB free in " in found.found
        assert ("HF_HOME" in found.remedy) == (status != "ok")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/proc/runs", "/sys/runs"])
def test_a_folder_that_cannot_be_written_fails(folder):
    if not Path(folder).parent.is_dir():
        pytest.skip("only Linux has it")
    (found,) = check_folder("runs", Path(folder))
    assert found.status == "failed" and found.found.startswith(f"cannot write to {folder} (runs): ")


def test_little_memory_is_a_warning(monkeypatch):
    assert {found.check for found in check_memory()} == {"memory"}
    monkeypatch.setattr("hfgpt.doctor.machine.MIN_MEMORY_BYTES", 1e18)
    monkeypatch.setattr("hfgpt.doctor.machine.MIN_SHARED_BYTES", 1e18)
    statuses = [found.status for found in check_memory()]
    assert statuses and set(statuses) == {"warning"}


def test_a_hub_that_is_not_there_is_a_warning_and_one_that_refuses_the_token_a_failure(hub_server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for endpoint, token, status, words in (
        (f"http://127.0.0.1:{port}", "", "warning", "cannot be reached"),
        ("http://[", "", "warning", "cannot be reached"),
        (hub_server.url, "hf_wrong", "failed", "refuses the token"),
        (hub_server.url, "", "ok", "not logged in"),
        (hub_server.url, hub_server.token, "ok", "logged in as "),
    ):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setenv("HF_TOKEN", token)
        (found,) = check_hub()
        assert found.status == status and words in found.found
    hub_server.faults.add(path="whoami", status=503)
    (found,) = check_hub()
    assert (found.status, found.found) == ("warning", f"{hub_server.url} answers 503")


def test_a_check_that_fails_itself_is_a_finding_and_its_traceback_is_shown_on_request(capsys):
    def examine():
        yield Finding("disk", "ok", "seen before")
        raise OSError(5, "Input/output error")

    before, found = findings_of("disk", examine)
    assert before.found == "seen before"
    assert found.status == "failed" and "OSError: [Errno 5] Input/output error" in found.found
    assert "Traceback" not in capsys.readouterr().err
    assert len(list(findings_of("disk", examine, debug=True))) == 2
    assert "Traceback" in capsys.readouterr().err
