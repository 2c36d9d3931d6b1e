"""The grading of HumanEval: each program that the model completed runs with its tests in a sandbox."""

from datasets import Dataset

from hfgpt.evals.humaneval.sandbox import check_sandbox, runs_to_its_end


def sandboxed(dataset: Dataset) -> Dataset:
    """The problems as they are. Raises UserError, before anything is generated, where there is no sandbox."""
    check_sandbox()
    return dataset


def run(doc: dict, results: list[str]) -> dict[str, float]:
    """`pass@1`: whether the prompt with its completion passes the problem's tests."""
    program = f"{doc['prompt']}{results[0]}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(runs_to_its_end(program))}
