"""The tiny world as a source of conversations, preference pairs and prompts, as section `data` describes it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hfgpt.arguments import DataArguments
from hfgpt.data.tinyworld.world import TinyWorld
from hfgpt.errors import UserError

CONVERSATIONS_PER_SHARD = 5000
FINGERPRINTED_CONVERSATIONS = 100


@dataclass(frozen=True)
class TinyWorldChatShard:
    """Conversations start ... stop - 1 of the world of `num_people` people made from `seed`; picklable."""

    name: str
    num_people: int
    seed: int
    start: int
    stop: int

    def conversations(self, counts: Counter | None = None) -> Iterator[dict]:
        """Nothing is ever left out, so `counts` stays as it is."""
        return TinyWorld(self.num_people, self.seed).conversations(self.stop - self.start, self.start)

    def fingerprint(self) -> str:
        """Of the parameters and of the first conversations, so that a reworded world is another one."""
        digest = hashlib.blake2b(repr(self).encode(), digest_size=16)
        world = TinyWorld(self.num_people, self.seed)
        for row in world.conversations(min(FINGERPRINTED_CONVERSATIONS, self.stop - self.start), self.start):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def chat_shards(data: DataArguments) -> list[TinyWorldChatShard]:
    """The world's conversations, cut in pieces that are read independently. Raises UserError for an impossible
    number of conversations or people."""
    count = _positive(data.tinyworld_conversations, "tinyworld_conversations")
    TinyWorld(data.tinyworld_people, data.seed)
    return [
        TinyWorldChatShard(
            name=f"tinyworld-chat-{start // CONVERSATIONS_PER_SHARD:05d}",
            num_people=data.tinyworld_people,
            seed=data.seed,
            start=start,
            stop=min(start + CONVERSATIONS_PER_SHARD, count),
        )
        for start in range(0, count, CONVERSATIONS_PER_SHARD)
    ]


def preference_rows(data: DataArguments) -> Iterator[dict]:
    """The world's preference pairs: `{"prompt", "chosen", "rejected", "tools"}`. Raises UserError."""
    count = _positive(data.tinyworld_preferences, "tinyworld_preferences")
    return TinyWorld(data.tinyworld_people, data.seed).preferences(count)


def held_out_preference_rows(data: DataArguments) -> list[dict]:
    """Pairs in wordings that no stage trains on, to measure the preference by."""
    return TinyWorld(data.tinyworld_people, data.seed).held_out_preferences()


def prompt_rows(data: DataArguments) -> Iterator[dict]:
    """The world's sums to be solved, facts to be told: `{"prompt": [message], "answer": "12"}`. Raises UserError."""
    count = _positive(data.tinyworld_prompts, "tinyworld_prompts")
    return TinyWorld(data.tinyworld_people, data.seed).prompts(count)


def held_out_prompt_rows(data: DataArguments) -> list[dict]:
    """Sums in wordings that no stage trains on, to measure pass@k by."""
    questions = TinyWorld(data.tinyworld_people, data.seed).chat_sum_questions()
    return [{"prompt": [{"role": "user", "content": q["question"]}], "answer": q["answer"]} for q in questions]


def self_play_rows(data: DataArguments) -> Iterator[dict]:
    """Requests for a sum of the model's own choice, as many as prompts: `{"prompt": [message]}`. Raises UserError."""
    count = _positive(data.tinyworld_prompts, "tinyworld_prompts")
    return TinyWorld(data.tinyworld_people, data.seed).self_play_prompts(count)


def _positive(count: int, key: str) -> int:
    if count < 1:
        raise UserError(f"data.{key} is {count}: give at least 1.")
    return count
