"""What a model can do: bits per byte, lm-eval tasks, and the harness that runs them."""
