"""GPTConfig: the architecture as a transformers configuration, and the saving of the model's source beside it, so
that a saved folder loads anywhere with trust_remote_code. Imports nothing of hfgpt but its two neighbours."""

import dataclasses
import difflib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from .architecture import Architecture, depth_series, gpt2_shape

if TYPE_CHECKING:
    # transformers fetches the files that relative imports name: this line makes a configuration loaded alone bring
    # the modeling file with it, so that it can be saved whole again.
    from .modeling_gpt import GPTForCausalLM  # noqa: F401

SOURCE_FILES = ("architecture.py", "configuration_gpt.py", "linear_cross_entropy.py", "modeling_gpt.py")
AUTO_MAP = {
    "AutoConfig": "configuration_gpt.GPTConfig",
    "AutoModel": "modeling_gpt.GPTModel",
    "AutoModelForCausalLM": "modeling_gpt.GPTForCausalLM",
}


class GPTConfig(Architecture, PreTrainedConfig):
    """Configuration of GPTModel and GPTForCausalLM: the switches of Architecture, token ids and use_cache.

    The defaults are GPT-2 small. `from_depth` gives the depth series, `gpt2` OpenAI's sizes.

    Raises:
        ValueError: one sentence that names the key, when the shape cannot exist.
    """

    model_type = "hfgpt"
    keys_to_ignore_at_inference = ["past_key_values"]

    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.resolve()
        # Of the class in transformers; here they depend on the switches. Never written to config.json.
        self.base_model_tp_plan = self._tensor_parallel_plan()  # type: ignore[misc]
        self.base_model_pp_plan = self._pipeline_parallel_plan()  # type: ignore[misc, assignment]
        super().__post_init__(**kwargs)

    @classmethod
    def from_depth(cls, depth: int, **overrides: Any) -> "GPTConfig":
        """The depth series' model with `depth` layers; `overrides` are any keys of this configuration."""
        architecture, rest = cls._split(overrides)
        return cls(**depth_series(depth, **architecture), **rest)

    @classmethod
    def gpt2(cls, name: str, **overrides: Any) -> "GPTConfig":
        """OpenAI's gpt2, gpt2-medium, gpt2-large or gpt2-xl; `overrides` are any keys of this configuration."""
        architecture, rest = cls._split(overrides)
        shape = gpt2_shape(name, **architecture)
        end_of_text = 50256 if shape["vocab_size"] > 50256 else None
        return cls(**shape, **{"bos_token_id": end_of_text, "eos_token_id": end_of_text} | rest)

    @classmethod
    def _split(cls, overrides: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The overrides that are architecture keys, and the others; a name that is neither is refused."""
        keys = {field.name for field in dataclasses.fields(Architecture)}
        others = {field.name for field in dataclasses.fields(cls)} - keys | {"attn_implementation"}
        for name in overrides.keys() - keys - others:
            nearest = difflib.get_close_matches(name, keys | others, n=1)
            raise ValueError(f"{name} is not a key of GPTConfig{f'; did you mean {nearest[0]}?' if nearest else '.'}")
        architecture = {name: value for name, value in overrides.items() if name in keys}
        return architecture, {name: value for name, value in overrides.items() if name in others}

    def _tensor_parallel_plan(self) -> dict[str, str] | None:
        """How to cut each linear over devices, or None where a switch cannot be cut."""
        if self.value_embeddings or self.linear_type == "kan":
            return None
        cuts = dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"), "colwise")
        if self.mlp_type == "swiglu":
            cuts["mlp.gate_proj"] = "colwise"
        cuts |= {"self_attn.o_proj": "rowwise", "mlp.down_proj": "rowwise"}
        return {f"layers.*.{name}": cut for name, cut in cuts.items()}

    def _pipeline_parallel_plan(self) -> dict[str, tuple[list[str], list[str]]] | None:
        """What flows between stages, or None where a later stage would need the embedding again."""
        if self.position_embedding_type == "learned" or self.embedding_norm:
            return None
        if self.residual_scalars or self.value_embeddings or self.bigram_vocab_size or self.smear or self.backout:
            return None
        return {
            "embed_tokens": (["input_ids"], ["inputs_embeds"]),
            "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
            "norm": (["hidden_states"], ["hidden_states"]),
        }

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save config.json with the model's source files beside it. The model's own save comes through here too.

        The files are a fixed list, copied from where this class was loaded, because transformers' own way looks the
        class up by name and FSDP2 renames it. They are written first: push_to_hub uploads what lies in the folder.
        """
        self.auto_map = dict(AUTO_MAP)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name in SOURCE_FILES:
            source = Path(__file__).with_name(name)
            if source.resolve() != (folder / name).resolve():
                shutil.copyfile(source, folder / name)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: every save carries the source files, and transformers' way breaks under FSDP2."""
