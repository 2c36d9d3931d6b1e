"""Models of other architectures into ours and back: `hfgpt import` and `hfgpt export`."""
