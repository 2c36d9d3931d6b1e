"""The tiny world as a source of documents, cut into shards that are written independently."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hfgpt.arguments import DataArguments
from hfgpt.data.documents import SourceShard
from hfgpt.data.tinyworld.world import TinyWorld
from hfgpt.errors import UserError

DOCUMENTS_PER_SHARD = 2500
FINGERPRINTED_DOCUMENTS = 100


@dataclass(frozen=True)
class TinyWorldShard(SourceShard):
    """Documents start ... stop - 1 of the world of `num_people` people made from `seed`."""

    num_people: int
    seed: int
    start: int
    stop: int

    def documents(self, counts: Counter | None = None) -> Iterator[str]:
        """Nothing is ever left out, so `counts` stays as it is."""
        return TinyWorld(self.num_people, self.seed).documents(self.stop - self.start, self.start)

    def fingerprint(self) -> str:
        """Of the parameters and of the first documents, so that a reworded world is another one."""
        digest = hashlib.blake2b(repr(self).encode(), digest_size=16)
        world = TinyWorld(self.num_people, self.seed)
        for text in world.documents(min(FINGERPRINTED_DOCUMENTS, self.stop - self.start), self.start):
            digest.update(text.encode())
        return digest.hexdigest()


def tinyworld_shards(data: DataArguments) -> list[SourceShard]:
    """The world that section `data` describes. Raises UserError for an impossible size."""
    count = data.tinyworld_documents
    if count < 1:
        raise UserError(f"data.tinyworld_documents is {count}: give at least 1.")
    TinyWorld(data.tinyworld_people, data.seed)  # refuses an impossible number of people before any work starts
    return [
        TinyWorldShard(
            name=f"tinyworld-{start // DOCUMENTS_PER_SHARD:05d}",
            num_people=data.tinyworld_people,
            seed=data.seed,
            start=start,
            stop=min(start + DOCUMENTS_PER_SHARD, count),
        )
        for start in range(0, count, DOCUMENTS_PER_SHARD)
    ]
