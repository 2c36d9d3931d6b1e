"""Whether this machine can train, evaluate and talk: what `hfgpt doctor` looks at."""
