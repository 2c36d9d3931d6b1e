"""The shared sections of a recipe, `model:`, `tokenizer:` and `data:`, as dataclasses. A stage's own section
extends HF's arguments in the stage's script. Nothing here imports torch or transformers."""

from dataclasses import dataclass, field
from typing import Literal


def _option(default, help: str):
    """A dataclass field with its help text; mutable defaults are copied per instance."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    """Section `model`: one dial (`depth`) or one known shape (`preset`), and any switch of GPTConfig beside it.

    A switch left at null takes what `depth` or `preset` says. `vocab_size` belongs to `tokenizer` and the
    context length to `data.max_length`.
    """

    depth: int | None = _option(None, "Layers of the depth series; sets width, heads, horizon and learning rates.")
    preset: str | None = _option(None, "A known shape instead of depth: gpt2, gpt2-medium, gpt2-large or gpt2-xl.")
    hidden_size: int | None = _option(None, "Width of the residual stream.")
    intermediate_size: int | None = _option(None, "Width of the MLP's hidden layer.")
    num_hidden_layers: int | None = _option(None, "Transformer blocks.")
    num_attention_heads: int | None = _option(None, "Query heads.")
    num_key_value_heads: int | None = _option(None, "Key and value heads; fewer than query heads is GQA.")
    head_dim: int | None = _option(None, "Width of one head.")
    position_embedding_type: Literal["learned", "rope"] | None = _option(None, "learned (GPT-2) or rope.")
    rope_theta: float | None = _option(None, "Base of the rotary frequencies.")
    norm_type: Literal["layernorm", "rmsnorm"] | None = _option(None, "layernorm or rmsnorm.")
    norm_weight: bool | None = _option(None, "Learnable gain (and, in LayerNorm, bias) in every norm.")
    norm_eps: float | None = _option(None, "Epsilon of every norm.")
    embedding_norm: bool | None = _option(None, "Norm right after the token embedding.")
    qk_norm: bool | None = _option(None, "RMSNorm on queries and keys.")
    attention_multiplier: float | None = _option(None, "Scale of the attention logits; null is 1/sqrt(head_dim).")
    mlp_type: Literal["gelu", "relu2", "swiglu"] | None = _option(None, "gelu, relu2 or swiglu.")
    linear_type: Literal["dense", "kan"] | None = _option(None, "dense or kan, for every linear of the blocks.")
    kan_grid_size: int | None = _option(None, "Basis functions per input of a KAN linear.")
    attention_bias: bool | None = _option(None, "Biases in the attention's linears.")
    mlp_bias: bool | None = _option(None, "Biases in the MLP's linears.")
    tie_word_embeddings: bool | None = _option(None, "Share the head's weight with the token embedding.")
    final_logit_softcapping: float | None = _option(None, "Cap c in logits = c * tanh(logits / c); 0 turns it off.")
    sliding_window: int | None = _option(None, "Tokens that a sliding_attention layer sees.")
    layer_types: list[str] | None = _option(None, "full_attention or sliding_attention, one per layer.")
    value_embeddings: bool | None = _option(None, "Gated value embeddings in every second layer, the last included.")
    bigram_vocab_size: int | None = _option(None, "Rows of a hashed table of token pairs beside the token embedding.")
    residual_scalars: bool | None = _option(None, "Per-layer scalars on the residual stream and the embedding.")
    smear: bool | None = _option(None, "Mix a gated share of the previous token's embedding into each.")
    backout: bool | None = _option(None, "Take a learnt share of the half-depth stream away before the last norm.")
    init_scheme: Literal["gpt2", "depth"] | None = _option(None, "Initialisation: gpt2 (normal) or depth (series).")
    initializer_range: float | None = _option(None, "Standard deviation of the gpt2 initialisation.")
    embedding_dropout: float | None = _option(None, "Dropout after the embeddings.")
    hidden_dropout: float | None = _option(None, "Dropout on each block's two outputs.")
    attention_dropout: float | None = _option(None, "Dropout on the attention weights.")
    attn_implementation: str | None = _option(None, "eager, sdpa, flex_attention, varlen, flash_attention_2 or _3.")


@dataclass
class TokenizerArguments:
    """Section `tokenizer`: train one on the recipe's own text, or take an existing one by name."""

    name_or_path: str | None = _option(None, "An existing tokenizer (Hub id or folder); null trains one.")
    vocab_size: int = _option(32768, "Vocabulary of a trained tokenizer, special tokens included.")
    max_train_bytes: int = _option(2_000_000_000, "Text read for training the tokenizer, bytes.")
    max_bytes_per_document: int = _option(100_000, "Of one document, at most this many bytes train the tokenizer.")
    add_chat_tokens: bool = _option(True, "Give an existing tokenizer the chat tokens and template.")

    def __post_init__(self) -> None:
        for key in ("max_train_bytes", "max_bytes_per_document"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be 1 or more, not {getattr(self, key)}")


@dataclass
class DataArguments:
    """Section `data`: where text comes from and how it becomes packed rows."""

    dataset: str | None = _option(None, "tinyworld, gutenberg, or a Hub dataset id (HuggingFaceFW/fineweb-edu).")
    data_path: list[str] | str | None = _option(None, "Local file, folder or glob (or several), instead of dataset.")
    format: Literal["auto", "txt", "jsonl", "json", "csv", "parquet", "gutenberg"] = _option(
        "auto", "How to read data_path; auto goes by each file's name."
    )
    dataset_config: str | None = _option(None, "Config (folder) of a Hub dataset, as sample-10BT.")
    dataset_split: str = _option("train", "Split of a Hub dataset.")
    dataset_revision: str | None = _option(None, "Branch, tag or commit of a Hub dataset.")
    num_shards: int | None = _option(None, "Take only the first N files of a Hub dataset.")
    gutenberg_books: list[int] = _option([], "Project Gutenberg book numbers, for dataset: gutenberg.")
    content: Literal["text", "chat"] = _option("text", "text, or chat: conversations, rendered by the chat template.")
    columns: dict[str, str] = _option({}, "Which column holds what, as {text: content}; text is text by default.")
    document_separator: str = _option(
        "auto", "Where a .txt file is cut into documents: auto, file, line, blank_line, or any literal string."
    )
    min_document_chars: int = _option(1, "Shorter documents are left out, and counted.")
    validation_fraction: float = _option(0.01, "Share of documents held out, chosen by a hash of their content.")
    validation_tokens: int = _option(1_000_000, "Tokens of held-out text that an evaluation reads, at most.")
    max_length: int = _option(2048, "Tokens in a packed row, which is the context length.")
    cross_document_attention: bool = _option(False, "Let attention cross document boundaries inside a row.")
    tokens_threshold: int | None = _option(None, "Stop preparing after this many training tokens.")
    shard_size: int = _option(10_000_000, "Tokens in one prepared shard, the unit of work and of packing.")
    streaming: bool = _option(False, "Tokenize and pack while training instead of preparing first.")
    shuffle_window: int = _option(8192, "Rows among which a stream shuffles.")
    prepared: str | None = _option(None, "Rows prepared before: a folder, or a dataset repo on the Hub.")
    num_proc: int | None = _option(None, "Processes that prepare data; null is every core.")
    seed: int = _option(42, "Seed of initialisation, data order, dropout and sampling.")
    tinyworld_people: int = _option(200, "People of the tiny world; each has four facts.")
    tinyworld_documents: int = _option(20_000, "Documents told about the tiny world.")
    tinyworld_conversations: int = _option(10_000, "Conversations about the tiny world.")
    tinyworld_preferences: int = _option(2_000, "Preference pairs about the tiny world.")
    tinyworld_prompts: int = _option(2_000, "Prompts with a checkable answer: sums, some facts and small talk.")

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # NumPy's bounds, which transformers.set_seed runs into
            raise ValueError(f"seed must be from 0 to 2^32 - 1, not {self.seed}")
