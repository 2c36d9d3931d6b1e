"""What a training step needs beside the model: optimizer, schedules, budget arithmetic, trainer, callbacks."""
