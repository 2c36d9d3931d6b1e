"""What is to be prepared and where: the source's shards, the options that decide a row, and the key made of both.
Nothing here reads a document."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfgpt.arguments import DataArguments
from hfgpt.data.blocks import BlockSettings
from hfgpt.data.bulk_encoding import BulkEncoder
from hfgpt.data.chat_documents import ChatEncoder, chat_document_shards
from hfgpt.data.documents import SourceShard, source_shards
from hfgpt.data.prepared import FORMAT_VERSION, TokenizerIdentity, digest_of
from hfgpt.errors import UserError


@dataclass(frozen=True)
class PreparationPlan:
    """One preparation, the same for every process that works on it."""

    folder: Path
    tokenizer_folder: Path
    shards: list[SourceShard]
    settings: BlockSettings
    inputs: dict[str, Any]  # what the folder's key was made of
    content: str = "text"

    def encoder(self, num_threads: int = 1) -> BulkEncoder | ChatEncoder:
        """What turns this preparation's documents into token ids."""
        encoder_class = ChatEncoder if self.content == "chat" else BulkEncoder
        return encoder_class(self.tokenizer_folder, num_threads=num_threads)


def plan_preparation(
    data: DataArguments, tokenizer_folder: Path, identity: TokenizerIdentity, output_dir: Path
) -> PreparationPlan:
    """Finds the shards and names the folder after everything that decides the rows.

    The key covers each shard's name and fingerprint (`data.seed` too where it decides the text, as in the tiny
    world), the tokenizer and the options in BlockSettings. Raises UserError for a source or an option that cannot be.
    """
    _check_options(data)
    tokenizer_folder = Path(tokenizer_folder)
    is_chat = data.content == "chat"
    shards = chat_document_shards(data, tokenizer_folder) if is_chat else source_shards(data)
    settings = BlockSettings(
        max_length=data.max_length,
        shard_size=data.shard_size,
        bos_token_id=identity.bos_token_id,
        vocab_size=identity.vocab_size,
        min_document_chars=data.min_document_chars,
        validation_fraction=data.validation_fraction,
        validation_tokens=data.validation_tokens,
        max_train_rows=None if data.tokens_threshold is None else -(-data.tokens_threshold // data.max_length),
    )
    inputs = {
        "format_version": FORMAT_VERSION,
        "text": digest_of([(shard.name, shard.fingerprint()) for shard in shards]),
        "num_shards": len(shards),
        "tokenizer": identity.digest,
        "streaming": data.streaming,
        **({"content": data.content} if is_chat else {}),
        **asdict(settings),
    }
    return PreparationPlan(
        folder=Path(output_dir) / digest_of(inputs)[:16],
        tokenizer_folder=tokenizer_folder,
        shards=shards,
        settings=settings,
        inputs=inputs,
        content=data.content,
    )


def _check_options(data: DataArguments) -> None:
    if data.max_length < 2:
        raise UserError(f"data.max_length is {data.max_length}; a row needs at least 2 tokens.")
    if data.shard_size < data.max_length:
        raise UserError(
            f"data.shard_size is {data.shard_size} tokens, less than one row of data.max_length {data.max_length}; "
            "raise it (10000000 is the default)."
        )
    if not 0.0 <= data.validation_fraction < 1.0:
        raise UserError(
            f"data.validation_fraction is {data.validation_fraction}; set 0 (no validation) or more, below 1."
        )
    if data.validation_fraction and data.validation_tokens < data.max_length:
        raise UserError(
            f"data.validation_tokens is {data.validation_tokens}, less than one row of data.max_length "
            f"{data.max_length}; raise it, or set data.validation_fraction to 0 for no validation."
        )
    if data.tokens_threshold is not None and data.tokens_threshold < 1:
        raise UserError(f"data.tokens_threshold is {data.tokens_threshold}; give at least 1, or null for all text.")
    if data.tokens_threshold is not None and data.streaming:
        raise UserError(
            "data.tokens_threshold limits what is prepared, and data.streaming prepares nothing: remove one of them "
            "(a stream is as long as the stage's max_steps)."
        )
    if data.num_proc is not None and data.num_proc < 1:
        raise UserError(f"data.num_proc is {data.num_proc}; give at least 1, or null for every core.")
