"""The `pretrain:` and `midtrain:` sections, and what every stage adds to HF's TrainingArguments or sets anew."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SaveStrategy

from hfgpt.recipe_values import shown
from hfgpt.training.galore import ALL_LINEAR, GaLore, galore_of, is_all_linear
from hfgpt.training.guards import LEAST_STEPS, POLICIES
from hfgpt.training.rates import default_rates, fill_rates


def _option(default, help: str):
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata={"help": help})
    return field(default=default, metadata={"help": help})


REFUSED_KEYS = {
    "fsdp": "sharding is the launcher's: accelerate launch --config_file accelerate_configs/fsdp2.yaml",
    "deepspeed": "sharding is the launcher's: accelerate launch --config_file accelerate_configs/zero3.yaml",
    "auto_find_batch_size": "hfgpt plan says the largest batch that fits, and accumulation makes up the rest",
    "load_best_model_at_end": "the last checkpoint is the result; save_total_limit keeps older ones",
    "metric_for_best_model": "evaluate the checkpoints that save_weights_total_limit keeps, and take the best",
    "data_seed": "data.seed decides the order of rows",
    "hub_always_push": "one push runs at a time, and the last one brings everything",
    "enable_jit_checkpoint": "a run that gets SIGTERM or SIGINT saves and stops by itself",
    "ignore_data_skip": "a run goes on with the rows that come next",
    "restore_callback_states_from_checkpoint": "what hfgpt's callbacks must keep they keep by themselves",
    "save_only_model": "a checkpoint without optimizer state cannot be gone on from",
}
# What accelerator_config says of how rows are dealt out: by it a step would have other rows than the plan says.
OF_THE_ROWS = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler")
# Keys whose values must be above zero, and those that may be 0, where they are set.
ABOVE_ZERO = (
    *("num_train_epochs", "rate_scale", "per_device_train_batch_size", "per_device_eval_batch_size"),
    *("gradient_accumulation_steps", "logging_steps", "eval_steps", "sample_max_new_tokens"),
    *("eval_tasks_limit", "eval_tasks_batch_size"),
)
NOT_NEGATIVE = (
    *("learning_rate", "embedding_learning_rate", "value_embedding_learning_rate", "head_learning_rate"),
    *("scalar_learning_rate", "min_lr_ratio"),
    *("weight_decay", "max_grad_norm", "warmup_steps", "save_steps", "save_total_limit", "save_weights_total_limit"),
    "bigram_weight_decay",
    *("sample_steps", "eval_tasks_steps", "dataloader_num_workers"),
)


@dataclass
class StageArguments(TrainingArguments):
    """Every key of `transformers.TrainingArguments` works under its own name; below is what all stages add or set
    anew."""

    model_name_or_path: str | None = _option(
        None, "Start from this model (folder or Hub id) instead of the stage before."
    )
    optim: str = _option("muon", "muon, or any optimizer that HF knows.")  # type: ignore[assignment]
    # A rate left at null follows from the model's shape, Muon's of a new model from batch and length too
    # (training/rates.py); the plan prints them before the first step.
    learning_rate: float | None = _option(None, "Under muon of the block matrices, else of everything.")  # type: ignore
    embedding_learning_rate: float | None = _option(None, "Muon only: AdamW's rate for the embeddings.")
    value_embedding_learning_rate: float | None = _option(None, "Muon only: AdamW's rate for the value embeddings.")
    head_learning_rate: float | None = _option(
        None, "Muon only: AdamW's rate for the head, and for an embedding tied to it."
    )
    scalar_learning_rate: float | None = _option(None, "Muon only: AdamW's rate for norms, biases and scalars.")
    rate_scale: float | None = _option(None, "Multiplies every rate that is null; null is 1 in pretraining.")
    muon_momentum: float = _option(0.95, "Muon only: Nesterov momentum.")
    weight_decay: float = _option(0.0, "Decoupled weight decay; under muon of the block matrices alone.")
    bigram_weight_decay: float | None = _option(
        None,
        "Muon only: of the table of token pairs; null is 0, and more where pretraining reads rows more than once.",
    )
    adam_beta1: float | None = _option(None, "AdamW's first beta; null is 0.9, and 0.8 beside muon.")  # type: ignore
    adam_beta2: float | None = _option(None, "AdamW's second beta; null is 0.95, and 0.99 beside muon.")  # type: ignore
    adam_epsilon: float | None = _option(None, "AdamW's epsilon; null is 1e-8, and 1e-10 beside muon.")  # type: ignore
    lr_scheduler_type: str = _option("warmup_stable_decay", "warmup_stable_decay, cosine, linear, ...")  # type: ignore
    decay_ratio: float = _option(0.5, "warmup_stable_decay only: share of all steps, at the end, that decay.")
    min_lr_ratio: float = _option(0.0, "warmup_stable_decay only: last learning rate as a share of the highest.")

    per_device_train_batch_size: int = _option(8, "Rows in one forward pass on one GPU.")
    per_device_eval_batch_size: int = _option(8, "Rows in one forward pass of an evaluation.")
    bf16: bool | None = _option(None, "bfloat16 compute; null is yes on a GPU that has it.")  # type: ignore[assignment]
    torch_compile: bool | None = _option(  # type: ignore[assignment]
        None, "Fuse the model's step by torch.compile; null is yes for pretraining and midtraining on a GPU."
    )
    fused_loss: str | None = _option(
        None,
        "Pretrain and midtrain: head and loss in one, logits never whole: chunked, torch, or liger; null is chunked.",
    )
    fp8: bool = _option(
        False,
        "Pretrain and midtrain: multiply in float8 in the blocks, by torchao; needs an Ada, Hopper or newer GPU.",
    )
    logging_steps: float = _option(10, "Steps between two lines of metrics.jsonl.")
    logging_first_step: bool = _option(True, "Write the first step too.")
    logging_nan_inf_filter: bool = _option(False, "HF's filter that hides NaN losses; off, so that they are seen.")
    eval_strategy: str = _option("steps", "When to evaluate on held-out rows: steps or no.")  # type: ignore[assignment]
    eval_steps: float | None = _option(250, "Steps between two evaluations on held-out rows.")
    save_steps: float = _option(1000, "Steps between two checkpoints.")
    save_total_limit: int | None = _option(
        2, "Checkpoints kept to go on from; older ones go when a newer one is complete. Null or 0 keeps all."
    )
    save_weights_total_limit: int | None = _option(
        0, "Of the older ones, how many keep the model alone, without optimizer state; null is all."
    )
    report_to: list[str] | str | None = _option("none", "trackio, tensorboard, wandb, or none.")  # type: ignore[assignment]
    remove_unused_columns: bool = _option(False, "HF's column filter; packed rows have no unused columns.")
    ddp_find_unused_parameters: bool | None = _option(False, "The model uses every parameter in every step.")
    hub_strategy: str = _option("end", "When push_to_hub pushes: end, or every_save.")  # type: ignore[assignment]
    hub_private_repo: bool | None = _option(True, "Whether a repo that push_to_hub makes is private.")
    average_tokens_across_devices: bool = _option(True, "Mean loss over the tokens of all GPUs.")

    nan_policy: str = _option("stop", "A loss or gradient that is not finite: stop, skip the update, or rollback.")
    loss_spike_policy: str | None = _option(
        None,
        "A spike of the loss: skip the update, rollback to the last checkpoint, stop, or ignore; null is skip, in DPO "
        "and GRPO ignore.",
    )
    grad_norm_policy: str | None = _option(None, "A gradient that explodes: as for a spike.")
    loss_spike_zscore: float = _option(10.0, "Robust z-score, over guard_window steps, above which a loss is a spike.")
    grad_norm_factor: float = _option(10.0, "A gradient explodes at so many times the median norm of guard_window.")
    guard_window: int = _option(128, "Steps that a step's loss and gradient norm are compared with.")
    guard_limit: int = _option(10, "Updates left out in a row, or rollbacks in all, after which the run stops.")
    rank_check_steps: int = _option(100, "Steps between two checks that all processes hold the same weights; 0: none.")

    sample_prompts: list[str] = _option(["Once upon a time"], "Prompts that are continued during training.")
    sample_steps: int = _option(250, "Steps between two rounds of samples; 0 for none.")
    sample_max_new_tokens: int = _option(32, "Tokens of one sample.")
    eval_tasks: list[str] = _option([], "lm-eval tasks scored before the first and after the last step.")
    eval_tasks_limit: int | None = _option(None, "Examples of each of these tasks; null is all.")
    eval_tasks_steps: int = _option(0, "Steps between two scorings in between; 0 for none.")
    eval_tasks_tokens: list[int] = _option([], "Score at the first step that reaches each of these token counts too.")
    eval_tasks_batch_size: int = _option(32, "Questions in one forward pass of these tasks.")
    core_bundle: str | None = _option(None, "Task core: its questions, a folder or zip; null downloads them.")
    bpb_text: list[str] = _option([], "Task bpb: files of text whose bits per byte are measured.")
    log_histograms: bool = _option(False, "Histograms of weights and gradients at every logging step, to report_to.")

    length_key: ClassVar[str] = "data.max_length"  # what the memory of a row follows
    steps_are_alike: ClassVar[bool] = True  # so that one whose loss or gradient stands out is a fault
    compiles_on_gpu: ClassVar[bool] = False  # TRL's batches change their shape from step to step

    def __post_init__(self):
        for key in ABOVE_ZERO:
            if (value := getattr(self, key)) is not None and value <= 0:
                raise ValueError(f"{key} must be above zero, not {value}")
        for key in NOT_NEGATIVE:
            if (getattr(self, key) or 0) < 0:
                raise ValueError(f"{key} must be 0 or more, not {getattr(self, key)}")
        self._check_reports()
        if min(self.eval_tasks_tokens, default=1) <= 0:
            raise ValueError(f"eval_tasks_tokens must be above zero, not {min(self.eval_tasks_tokens)}")
        if not 0 <= self.decay_ratio <= 1:
            raise ValueError(f"decay_ratio must lie between 0 and 1, not {self.decay_ratio}")
        for key, way_out in REFUSED_KEYS.items():
            if getattr(self, key):
                raise ValueError(f"{key} is not supported: {way_out}")
        if self.save_strategy == SaveStrategy.BEST:
            raise ValueError(
                f"save_strategy: best is not supported: {REFUSED_KEYS['metric_for_best_model']}, saved by steps"
            )
        self._fill_guards()
        if self.hub_strategy not in {"end", "every_save"}:
            raise ValueError(f"hub_strategy must be end or every_save, not {self.hub_strategy}")
        if parse_flag_from_env("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION") != "2":
            raise ValueError("FSDP1 is not supported: set fsdp_version: 2, as accelerate_configs/fsdp2.yaml does")
        if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and self.optim == "muon":
            raise ValueError(
                "optim: muon trains whole matrices, which DeepSpeed's ZeRO flattens: launch with "
                "accelerate_configs/fsdp2.yaml, or set optim to adamw_torch"
            )
        if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
            self.use_cpu = True  # else accelerate lets each launched process train alone, without a word
        has_gpu = not self.use_cpu and torch.cuda.is_available()
        if self.torch_compile is None:  # a CPU gains little, and waits half a minute
            self.torch_compile = self.compiles_on_gpu and has_gpu and find_spec("triton") is not None
        if has_gpu and self.dataloader_pin_memory and self.accelerator_config is None:
            self.accelerator_config = {"non_blocking": True}  # the host does not wait for a batch's copy
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        self.uses_muon = self.optim == "muon"
        for key in ("optim_args", "optim_target_modules") if self.uses_muon else ():
            if getattr(self, key):
                raise ValueError(f"{key} is for HF's own optimizers: muon has muon_momentum, adam_beta1 and the like")
        if is_all_linear(self.optim_target_modules):
            self.optim_target_modules = ALL_LINEAR
        # Beside Muon AdamW trains embeddings, head and scalars only: first beta and epsilon are then nanochat's, the
        # second is measured (docs/ablations.md).
        if self.adam_beta1 is None:
            self.adam_beta1 = 0.8 if self.uses_muon else 0.9
        if self.adam_beta2 is None:
            self.adam_beta2 = 0.99 if self.uses_muon else 0.95
        if self.adam_epsilon is None:
            self.adam_epsilon = 1e-10 if self.uses_muon else 1e-8
        if self.uses_muon:
            self.optim = "adamw_torch"  # TrainingArguments refuses names it does not know; the trainer sets Muon
        super().__post_init__()
        for key in OF_THE_ROWS:
            if getattr(self.accelerator_config, key) != getattr(AcceleratorConfig(), key):
                raise ValueError(f"accelerator_config: {key} would change the rows of a step; leave it out")
        # Ours never stop a run (hfgpt/hub/stage_pushes.py); HF's own, left on, would end it at the Hub's first error.
        self.pushes_to_hub, self.push_to_hub = self.push_to_hub, False
        # One process trains on one GPU; HF would wrap the model in nn.DataParallel where several are visible.
        self._n_gpu = min(self.n_gpu, 1)

    def _check_reports(self) -> None:
        """Refuse a tracker that is not known or not installed, which HF would do in the middle of a stage."""
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        here = get_available_reporting_integrations()
        for name in named:
            if name not in {"all", "none", *here}:
                raise ValueError(f"report_to: {shown(name)} is not known or not installed; here are {', '.join(here)}")

    def _fill_guards(self) -> None:
        """Set the policies that are null. DeepSpeed updates inside its backward pass, so it can leave nothing out."""
        by_deepspeed = parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
        usual = "skip" if self.steps_are_alike and not by_deepspeed else "ignore"
        self.grad_norm_policy = self.grad_norm_policy or usual
        self.loss_spike_policy = self.loss_spike_policy or usual
        for key, policy in self.guard_policies().items():
            allowed = [p for p in POLICIES if not (p == "ignore" and key == "nan_policy")]
            allowed = [p for p in allowed if not (by_deepspeed and p in ("skip", "rollback"))]
            if policy not in allowed:
                under = " under DeepSpeed" if by_deepspeed else ""
                raise ValueError(f"{key} must be {' or '.join(allowed)}{under}, not {policy}")
        lowest = {"loss_spike_zscore": 1, "grad_norm_factor": 1, "guard_window": LEAST_STEPS, "guard_limit": 1}
        for key, least in (lowest | {"rank_check_steps": 0}).items():
            if getattr(self, key) < least:
                raise ValueError(f"{key} must be {least} or more, not {getattr(self, key)}")

    def guard_policies(self) -> dict[str, str]:
        """What is done about a step that is not healthy, by the key that decides."""
        assert self.loss_spike_policy and self.grad_norm_policy
        return {
            "nan_policy": self.nan_policy,
            "loss_spike_policy": self.loss_spike_policy,
            "grad_norm_policy": self.grad_norm_policy,
        }

    @property
    def optimizer_name(self) -> str:
        return "muon" if self.uses_muon else str(getattr(self.optim, "value", self.optim))

    @property
    def galore(self) -> GaLore | None:
        """What the plan counts of `optim: galore_adamw`."""
        return galore_of(self.optimizer_name, self.optim_args, self.optim_target_modules)

    def fill_rates(self, architecture: Mapping[str, Any]) -> dict[str, float]:
        """Set the rates that are null, from the model's shape times `rate_scale`; returns all that this optimizer
        uses."""
        defaults = default_rates(architecture, self.uses_muon)
        rates = fill_rates(defaults, self.given_rates(), self.rate_scale)
        for name, rate in rates.items():
            setattr(self, name, rate)
        return rates

    def given_rates(self) -> dict[str, float | None]:
        """Every rate's key and its value, null where nobody gave one."""
        return {name: value for name, value in vars(self).items() if name.endswith("learning_rate")}


@dataclass
class PretrainArguments(StageArguments):
    """The `pretrain:` section.

    Length, the first that is set: `max_steps`, `target_flops`, `target_param_data_ratio`, `num_train_epochs`.
    """

    total_batch_size: int | None = _option(None, "Tokens in one optimizer step over all GPUs; sets the accumulation.")
    target_flops: float | None = _option(None, "Train until about this many FLOPs are spent.")
    target_param_data_ratio: float | None = _option(
        None, "Train on this many tokens per (block matrices + head) weight."
    )
    num_train_epochs: float | None = _option(None, "Train on every row this many times.")  # type: ignore[assignment]

    compiles_on_gpu = True

    def __post_init__(self):
        for key in ("target_flops", "target_param_data_ratio", "total_batch_size"):
            if (value := getattr(self, key)) is not None and value <= 0:
                raise ValueError(f"{key} must be above zero, not {value}")
        self.epochs_wanted = self.num_train_epochs
        super().__post_init__()
        self.num_train_epochs = 1.0  # the trainer sees one pass over an order that already holds every epoch


@dataclass
class MidtrainArguments(PretrainArguments):
    """The `midtrain:` section: as pretraining, over a mixture of sources.

    One epoch ends when, at the mixture's weights, the first of its sources has been seen whole.
    """

    mixture: list[dict[str, Any]] = _option(
        [],
        "Sources with their share: keys of section data (dataset, data_path, ...), weight, and content: text or chat.",
    )
