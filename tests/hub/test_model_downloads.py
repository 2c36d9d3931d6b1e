"""Models taken from the Hub by name over a line that breaks, in a real process against its stand-in."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from hfgpt.hub.command import main

# Loads each repo that is named on standard input, and prints the sum of its weights or the sentence.
LOADER = """
import json, sys
from hfgpt.data.tokenizer import load_tokenizer
from hfgpt.errors import UserError
from hfgpt.model.loading import load_model
for name in sys.stdin:
    try:
        tokenizer = load_tokenizer(name.strip(), add_chat_tokens=False)
        model = load_model(name.strip(), tokenizer, 64)
        print(json.dumps(sum(p.double().sum().item() for p in model.parameters())), flush=True)
    except UserError as error:
        print(json.dumps(str(error)), flush=True)
"""
# What goes wrong, and what is said; None where the model must come whole.
FAULTS = [
    ({"path": "/storage/", "drop_after_bytes": 20_000}, None),
    ({"path": "/storage/", "status": 500, "headers": {"Retry-After": "0"}}, None),
    ({"path": "/storage/", "bytes_per_second": 100_000}, None),
    ({"path": "config.json", "status": 503}, None),
    ({"path": "/storage/", "truncate_to_bytes": 20_000, "times": -1}, "should be of size"),
    ({"path": "/storage/", "status": 503, "times": -1}, "the Hub answered 503"),
]


@pytest.mark.slow
def test_a_model_comes_whole_or_one_sentence_says_why_not(hub, run_folder, tmp_path):
    names = [f"tester/model-{n}" for n in range(len(FAULTS))]
    for name in names:
        main([str(run_folder / "sft"), name])
    process = subprocess.Popen(
        [sys.executable, "-c", LOADER],
        env=hub.env(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    whole = sum(t.double().sum().item() for t in load_file(run_folder / "sft" / "model.safetensors").values())
    try:
        for name, (fault, said) in zip(names, FAULTS, strict=True):
            waiting = hub.faults.add(**fault)
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            hub.faults.clear()
            assert waiting.times != 1, f"{fault} never came"
            if said is None:
                assert answer == pytest.approx(whole, abs=1e-6), fault
            else:
                assert f"{name} could not be downloaded from {hub.url} (" in answer and said in answer
    finally:
        process.kill()
        process.wait()
