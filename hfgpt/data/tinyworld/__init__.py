"""The embedded default: a little closed world made from a seed, with the documents told about its people and places
and the held-out questions that show what a model learnt from them. Pure text; nothing is downloaded."""

from hfgpt.data.tinyworld.shards import TinyWorldShard, tinyworld_shards
from hfgpt.data.tinyworld.world import Person, Place, TinyWorld

__all__ = ["Person", "Place", "TinyWorld", "TinyWorldShard", "tinyworld_shards"]
