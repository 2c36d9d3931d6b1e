"""One of two nodes with a disk of its own, the current folder: trains, and says what it would go on from.

Node 1's disk refuses the save of step 4, and loses a bit of checkpoint-6 afterwards. In a second run, which keeps one
checkpoint, it refuses the mark of the last.
"""

import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_trainer import tiny_trainer
from transformers import TrainerCallback

RUN, SHORT = Path("run"), Path("short")


class FullDisk(TrainerCallback):
    """A disk on which no file grows beyond 60 kB while checkpoint-4 is written."""

    def on_step_end(self, args, state, control, **kwargs):
        if args.process_index == 1 and state.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    def on_save(self, args, state, control, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class FullAtTheEnd(TrainerCallback):
    """A disk that takes the files of checkpoint-6 and has no room for its mark."""

    def on_save(self, args, state, control, **kwargs):
        if args.process_index == 1 and state.global_step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.finish_checkpoint()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> None:
    options = {"save_on_each_node": True, "save_total_limit": 0}
    trainer = tiny_trainer(RUN, FullDisk(), **options)
    trainer.train()
    if trainer.args.process_index == 1:
        path = RUN / "checkpoint-6" / "optimizer.pt"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    said: list[str] = []
    folder = tiny_trainer(RUN, **options).checkpoint_to_resume(said.append)
    full = FullAtTheEnd()
    full.trainer = tiny_trainer(SHORT, full, save_on_each_node=True, save_total_limit=1)
    full.trainer.train()
    left = sorted(path.name for path in SHORT.iterdir())
    short = full.trainer.newest_checkpoint(print)
    Path("told.json").write_text(json.dumps({"folder": str(folder), "said": said, "short": str(short), "left": left}))


if __name__ == "__main__":
    main()
