"""The embedded default: a little closed world made from a seed, with everything a model's life needs: documents,
conversations, preference pairs, prompts, and held-out questions that show what it learnt. Nothing is downloaded."""

from hfgpt.data.tinyworld.chat_shards import (
    TinyWorldChatShard,
    chat_shards,
    held_out_preference_rows,
    held_out_prompt_rows,
    preference_rows,
    prompt_rows,
    self_play_rows,
)
from hfgpt.data.tinyworld.shards import TinyWorldShard, tinyworld_shards
from hfgpt.data.tinyworld.world import Person, Place, TinyWorld

__all__ = [
    "Person",
    "Place",
    "TinyWorld",
    "TinyWorldChatShard",
    "TinyWorldShard",
    "chat_shards",
    "held_out_preference_rows",
    "held_out_prompt_rows",
    "preference_rows",
    "prompt_rows",
    "self_play_rows",
    "tinyworld_shards",
]
