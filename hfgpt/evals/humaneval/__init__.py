"""HumanEval: the harness's task, with the programs run in a sandbox."""
