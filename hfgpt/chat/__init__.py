"""Talking to a model: the generation engine, more thinking at inference time, the calculator, and what users see."""
