"""CORE, DCLM's 22 tasks, as an lm-eval group that scores each example as nanochat's evaluator does."""
