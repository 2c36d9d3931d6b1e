"""The `sft:`, `dpo:` and `grpo:` sections: TRL's configs under their own names, with hfgpt's keys and defaults."""

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from accelerate.utils import parse_flag_from_env
from transformers import PreTrainedModel
from trl import DPOConfig, GRPOConfig, SFTConfig

from hfgpt.arguments import DataArguments
from hfgpt.training.arguments import StageArguments
from hfgpt.training.galore import ALL_LINEAR, is_all_linear


def _option(default, help: str):
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class ChatSourceArguments(StageArguments):
    """Where conversations, preference pairs or prompts come from, how long the stage lasts, and LoRA."""

    dataset: str | None = _option(None, "tinyworld or a Hub dataset id; null is the stage's usual one.")
    data_path: list[str] | str | None = _option(None, "Local file, folder or glob (or several), instead of dataset.")
    format: Literal["auto", "jsonl", "json", "csv", "parquet"] = _option(
        "auto", "How to read data_path; auto goes by each file's name."
    )
    dataset_config: str | None = _option(None, "Config (folder) of a Hub dataset.")
    dataset_split: str = _option("train", "Split of a Hub dataset.")
    dataset_revision: str | None = _option(None, "Branch, tag or commit of a Hub dataset.")
    num_shards: int | None = _option(None, "Take only the first N files of a Hub dataset.")
    columns: dict[str, str] = _option({}, "Which column holds what, as {messages: dialogue}.")
    validation_fraction: float = _option(0.02, "Share of rows held out, chosen by a hash of their content.")
    max_rows: int | None = _option(None, "Use at most this many rows.")

    num_train_epochs: float = _option(1.0, "Passes over the data.")  # type: ignore[assignment]
    sample_prompts: list[str] = _option(["Who are you?"], "Questions that are answered before and after the stage.")
    sample_steps: int = _option(0, "Steps between two rounds of samples, beside those before and after; 0 for none.")

    use_peft: bool = _option(False, "Train LoRA adapters instead of all weights; they are merged at the end.")
    lora_r: int = _option(16, "Rank of the LoRA adapters.")
    lora_alpha: int = _option(32, "LoRA's scale is lora_alpha / lora_r.")
    lora_dropout: float = _option(0.0, "Dropout on LoRA's input.")
    lora_target_modules: list[str] | str = _option("all-linear", "Linears that get an adapter; never the head.")

    # The default dataset of a stage as (dataset, config, split), where the recipe's world is not the tiny one.
    usual_dataset: ClassVar[tuple[str, str | None, str]] = ("HuggingFaceTB/smoltalk", "all", "train")

    def source(self, data: DataArguments) -> DataArguments:
        """This stage's data as a section `data`."""
        found = replace(
            data,
            dataset=self.dataset,
            data_path=self.data_path,
            format=self.format,
            dataset_config=self.dataset_config,
            dataset_split=self.dataset_split,
            dataset_revision=self.dataset_revision,
            num_shards=self.num_shards,
            columns=self.columns,
            validation_fraction=self.validation_fraction,
            streaming=False,
            prepared=None,
            content="chat",
            gutenberg_books=[],
        )
        if self.dataset is None and self.data_path is None:
            if data.dataset == "tinyworld":
                return replace(found, dataset="tinyworld")
            dataset, config, split = self.usual_dataset
            return replace(found, dataset=dataset, dataset_config=config, dataset_split=split)
        return found

    def __post_init__(self):
        for key in ("max_rows", "num_shards", "lora_r", "lora_alpha"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} must be 1 or more, not {value}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be 0 or more and below 1, not {self.lora_dropout}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be 0 or more and below 1, not {self.validation_fraction}")
        for key in ("fused_loss", "fp8"):
            if getattr(self, key):
                raise ValueError(f"{key} is for pretrain and midtrain alone: leave it out")
        if is_all_linear(self.lora_target_modules):
            self.lora_target_modules = ALL_LINEAR
        if self.use_peft:
            for launcher, shards_by in (("ACCELERATE_USE_FSDP", "FSDP2"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
                if parse_flag_from_env(launcher):
                    raise ValueError(
                        "use_peft: adapters are merged into the model at the end, for which a process needs the whole "
                        f"model, which {shards_by} shards: launch with accelerate_configs/ddp.yaml"
                    )
            if self.optim == "muon":  # which updates whole matrices, not adapters
                self.optim = "adamw_torch"
            if self.learning_rate is None:
                self.learning_rate = 2e-4  # Hu et al. 2021 (arXiv:2106.09685), table 11
        super().__post_init__()


# Keys of SFTConfig about what TRL would do to rows that are not prepared yet, and their usual values.
PREPARED_BY_US = {
    "packing_strategy": "bfd",
    "padding_free": False,
    "eval_packing": None,
    "dataset_kwargs": None,
    "dataset_text_field": "text",
    "chat_template_path": None,
    "completion_only_loss": None,
    "eos_token": None,
    "truncation_mode": "keep_start",
    "dataset_num_proc": None,
    "shuffle_dataset": False,
    "pad_to_multiple_of": "auto",
    "pad_token": None,
    "model_init_kwargs": None,
}


@dataclass
class SftArguments(ChatSourceArguments, SFTConfig):  # type: ignore[misc]
    """The `sft:` section: the keys of `trl.SFTConfig` work under their own names; those without effect are refused.

    Conversations are packed (`packing`), attention never crosses them, and the loss is that of the assistant's tokens.
    """

    packing: bool = _option(True, "Put several conversations into one row of data.max_length tokens.")
    rate_scale: float | None = _option(0.1, "Multiplies every rate that is null.")

    def __post_init__(self):
        for key, usual in PREPARED_BY_US.items():
            if getattr(self, key) != usual:
                raise ValueError(f"{key} has no effect: hfgpt renders, labels and packs conversations itself")
        self.assistant_only_loss = False  # TRL's own labelling; ours has the assistant's tokens alone in any case
        super().__post_init__()


# Those that trl.DPOTrainer computes; it refuses others at the first step.
DPO_LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)


@dataclass
class DpoArguments(ChatSourceArguments, DPOConfig):  # type: ignore[misc]
    """The `dpo:` section: every key of `trl.DPOConfig` works under its own name."""

    rate_scale: float | None = _option(0.01, "Multiplies every rate that is null.")
    usual_dataset = ("HuggingFaceH4/ultrafeedback_binarized", None, "train_prefs")
    steps_are_alike = False  # once most pairs are told apart, those that are not stand far out

    def __post_init__(self):
        if self.beta < 0:
            raise ValueError(f"beta must be 0 or more, not {self.beta}")
        for loss in [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type:
            if loss not in DPO_LOSSES:
                raise ValueError(f"loss_type: {loss} is none of {', '.join(DPO_LOSSES)}")
        super().__post_init__()


@dataclass
class GrpoArguments(ChatSourceArguments, GRPOConfig):  # type: ignore[misc]
    """The `grpo:` section: every key of `trl.GRPOConfig` works under its own name."""

    rate_scale: float | None = _option(0.01, "Multiplies every rate that is null.")
    eval_strategy: str = _option("no", "pass@k before and after says more than the reward of held-out prompts.")
    num_generations: int = _option(8, "Answers to one prompt, whose rewards are compared.")  # type: ignore[assignment]
    max_completion_length: int = _option(256, "Tokens of an answer, at most.")  # type: ignore[assignment]
    pass_at: list[int] = _option([1, 8], "The k of pass@k, measured before and after on held-out prompts.")
    pass_at_prompts: int = _option(200, "Held-out prompts that pass@k is measured on.")
    self_play: bool = _option(False, "Tiny world only: the model makes up the sums that it answers.")
    usual_dataset = ("openai/gsm8k", "main", "train")
    length_key = "max_completion_length"
    steps_are_alike = False  # most answers may earn the same, and then teach nothing

    def __post_init__(self):
        if self.use_vllm and find_spec("vllm") is None:
            raise ValueError("use_vllm needs vLLM, which is not installed: pip install vllm, or leave it out")
        if not self.pass_at or min(self.pass_at) < 1:
            raise ValueError(f"pass_at must name one k or more, each at least 1, not {self.pass_at}")
        if self.num_generations < 2:
            raise ValueError(f"num_generations must be 2 or more, which are compared, not {self.num_generations}")
        for key in ("max_completion_length", "temperature", "pass_at_prompts"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be above zero, not {getattr(self, key)}")
        if self.beta < 0:
            raise ValueError(f"beta must be 0 or more, not {self.beta}")
        super().__post_init__()


def lora_config(args: ChatSourceArguments, model: PreTrainedModel) -> Any:
    """The adapters for `model` that `use_peft` asks for; None without it. Raises ValueError for a linear that it has
    not, which peft passes over as long as another is there."""
    if not args.use_peft:
        return None
    from peft import LoraConfig

    for target in args.lora_target_modules if isinstance(args.lora_target_modules, list) else []:
        if not any(f".{name}".endswith(f".{target}") for name, _ in model.named_modules()):
            raise ValueError(f"lora_target_modules: the model has no {target}")

    return LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=args.lora_target_modules,
        task_type="CAUSAL_LM",
    )
