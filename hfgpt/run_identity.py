"""What decides a run's steps and must be, when the run goes on, what it was when it began: compared key by key."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgpt.arguments import DataArguments, TokenizerArguments
from hfgpt.errors import UserError
from hfgpt.recipe import Recipe, read_recipe_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IDENTITY_FILE = "identity.json"
RECIPE_FILE = "recipe.yaml"
START_IS_ON_HUB = "start_is_on_hub"  # the key under which it stands where the model came from that a run started from
START_WEIGHTS = "start_weights"  # the key under which it stands which weights these were
SETTINGS = "settings"  # the key of identity.json under which a stage's own keys stand

# Keys of a stage that change no step, or no more of it than the rounding of sums: what is measured, shown, saved and
# pushed, what is done about faults, where and in how many pieces a step is computed. All others must stay.
MAY_CHANGE_BY_PREFIX = (
    *("eval_", "bf16_full_eval", "fp16_full_eval", "sample_", "pass_at", "bpb_", "core_", "per_device_"),
    *("log_", "logging_", "report_to", "trackio_", "run_name", "project", "disable_tqdm", "debug", "skip_memory"),
    *("num_completions_to_print", "include_", "batch_eval", "prediction_loss_only", "metric_for", "greater_is"),
    *("save_", "output_dir", "hub_", "push_to_hub", "resume_from", "nan_policy", "guard_", "rank_check_steps"),
    *("loss_spike_", "grad_norm_", "dataloader_", "use_cpu", "local_rank", "accelerator_config", "parallelism_config"),
    *("ddp_", "fsdp", "deepspeed", "torch_", "activation_", "gradient_", "fused_loss", "use_liger", "liger_"),
    *("use_cache", "tf32", "total_batch_size", "auto_find", "precompute_ref_batch", "vllm_", "use_vllm", "do_"),
    *("trust_remote_code", "ds3_gather", "dataset_num_proc", "remove_unused", "label_names", "length_column"),
)
MUST_STAY = ("dataloader_drop_last", "vllm_importance_sampling_")
# Compared by what follows from them: batch and rates by value, the length by the rate of the next step. GRPO's
# steps_per_generation go by the number of processes, its generation_batch_size does not.
COMPARED_OTHERWISE = {
    *("learning_rate", "embedding_learning_rate", "value_embedding_learning_rate", "head_learning_rate"),
    *("scalar_learning_rate", "rate_scale", "optim", "weight_decay", "seed", "data_seed", "steps_per_generation"),
    *("max_steps", "num_train_epochs", "target_flops", "target_param_data_ratio", "ignore_data_skip"),
}


def is_on_hub(name: str | None) -> bool:
    """Whether the model that a run starts from by this name is the Hub's: a folder goes first, and only here and now
    can anybody know whether there is one."""
    return name is not None and not Path(name).is_dir()


def start_weights(model: "PreTrainedModel") -> dict[str, str]:
    """For identity.json: which weights `model` was loaded with, by a hash of the files, of which it reads every byte.
    DPO measures against them, and a run that goes on takes them anew. Empty for a model that was not loaded."""
    from huggingface_hub import try_to_load_from_cache

    if not model.name_or_path:
        return {}
    folder = Path(model.name_or_path)
    if not folder.is_dir():  # the Hub's, which transformers has just put into its cache
        found = try_to_load_from_cache(model.name_or_path, "config.json")
        if not isinstance(found, str):
            return {}
        folder = Path(found).parent
    sha256 = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        with path.open("rb") as file:
            sha256.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return {START_WEIGHTS: sha256.hexdigest()[:16]}


def deciding_settings(args: Any) -> dict[str, Any]:
    """The keys of a stage's arguments (a dataclass, filled in) that decide its steps, as JSON keeps them."""
    names = [field.name for field in dataclasses.fields(args)]
    kept = [
        name
        for name in names
        if name.startswith(MUST_STAY) or not (name.startswith(MAY_CHANGE_BY_PREFIX) or name in COMPARED_OTHERWISE)
    ]
    return json.loads(json.dumps({name: getattr(args, name) for name in kept}, default=str))


def refuse_changes(folder: Path, recipe: Recipe, identity: dict[str, Any]) -> None:
    """Raise UserError, naming each key with its old value, unless `identity` is that of the run in `folder`.

    A key that the earlier run did not know of is not compared.
    """
    earlier, now = _read_identity(folder / IDENTITY_FILE), json.loads(json.dumps(identity))
    changes = _changes(earlier.pop(SETTINGS, {}), now.pop(SETTINGS, {}))
    changes += _changes(earlier.pop("architecture", {}), now.pop("architecture", {}), "architecture.")
    if earlier.get("rows") != now.get("rows"):  # a hash of what went into them: the keys behind it say more
        by_key = _changed_sources(folder / RECIPE_FILE, recipe)
        if by_key:
            now.pop("rows")
        changes += by_key
    changes += _changes(earlier, now)
    if changes:
        raise UserError(
            f"the run in {folder} began with {', and '.join(dict.fromkeys(changes))}: give the old value back to go "
            "on, or start anew with --overwrite."
        )


def _changes(earlier: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        f"{prefix}{name} {_shown(earlier[name])}, not {_shown(value)}"
        for name, value in now.items()
        if name in earlier and earlier[name] != value
    ]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _changed_sources(left: Path, recipe: Recipe) -> list[str]:
    """Keys of the sections that make the rows, `data` and `tokenizer`, that are not what the recipe in `left` says."""
    if not left.is_file():
        return []
    began = read_recipe_file(left)[0]
    changes = []
    for section, kind in (("data", DataArguments), ("tokenizer", TokenizerArguments)):
        usual = dataclasses.asdict(kind())
        was, now = ({**usual, **sections.get(section, {}), "num_proc": None} for sections in (began, recipe.sections))
        changes += _changes(was, now, f"{section}.")
    return changes


def learning_rate_of(folder: Path) -> float | None:
    """The learning rate that the run in `folder` began with."""
    return _read_identity(folder / IDENTITY_FILE).get("learning_rate")


def _read_identity(path: Path) -> dict[str, Any]:
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        earlier = None
    if not isinstance(earlier, dict):
        raise UserError(
            f"{path} is not what a run of hfgpt wrote, so nobody knows what this run began with: start anew with "
            "--overwrite."
        )
    return earlier
