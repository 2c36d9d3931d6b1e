"""A broken recipe file is refused by the line or the key that is wrong, whichever command reads it."""

import pytest
import yaml

# What the recipe says, and what the sentence must name. Read by `hfgpt plan`, which imports nothing heavy.
NO_RECIPES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "a tab": ("model:\n\tdepth: 4\n", ("broken.yaml:2", "tabs")),
    "an open bracket": ("model: {depth: [4\n", ("broken.yaml:2",)),
    "an open quote": ("model: {preset: 'gpt2}\n", ("broken.yaml:2",)),
    "a key without a colon": ("model:\n  depth 4\n  hidden_size: 64\n", ("broken.yaml:3",)),
    "two documents": ("model: {depth: 2}\n---\nmodel: {depth: 3}\n", ("broken.yaml:2",)),
    "a list": ("- model\n- data\n", ("broken.yaml:1", "map")),
    "a number": ("7\n", ("broken.yaml:1", "map")),
    "a section that is a number": ("model: 4\n", ("broken.yaml:1", "section model", "map")),
    "a section that is a list": ("model: [depth, 4]\n", ("broken.yaml:1", "section model", "map")),
    "a section twice": ("model: {depth: 2}\nmodel: {depth: 3}\n", ("broken.yaml:2", "model stands twice")),
    "a key twice": ("model:\n  depth: 2\n  depth: 3\n", ("broken.yaml:3", "depth stands twice", "line 2")),
    "a key twice, deep down": ("data: {columns: {text: a, text: b}}\n", ("data.columns", "text stands twice")),
    "an unknown section": ("modell: {depth: 4}\n", ("broken.yaml:1", "modell", "model")),
    "an unknown key": ("model:\n  depht: 4\n", ("broken.yaml:2", "model.depht", "depth")),
    "a key of another section": ("pretrain: {max_length: 64}\n", ("pretrain.max_length", "data.max_length")),
    "a list as a key": ("model: {[depth]: 4}\n", ("broken.yaml:1", "key")),
    "a map as a key": ("? {model: 1}\n: {depth: 4}\n", ("broken.yaml:1", "key")),
    "no key": ("model: {: 4}\n", ("broken.yaml:1", "':'")),
    "an unknown tag": ("model: {depth: !four 4}\n", ("broken.yaml:1", "!four")),
    "a tag of Python's": (
        "model: {depth: !!python/object/apply:os.system ['touch pwned']}\n",
        ("broken.yaml:1", "python/object"),
    ),
    "broken base64": ("model: {preset: !!binary '%'}\n", ("broken.yaml:1", "model.preset")),
    "a month 13": ("model: {depth: 2020-13-01}\n", ("broken.yaml:1", "model.depth")),
    "a number of 5000 digits": (f"model: {{depth: {'9' * 5000}}}\n", ("broken.yaml:1", "model.depth")),
    "an alias of nothing": ("model: *shape\n", ("broken.yaml:1", "shape")),
    "a map that holds itself": ("data: {columns: &here {text: *here}}\n", ("broken.yaml:1", "data.columns")),
    "a billion laughs": (
        "data:\n  columns:\n    a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"    {b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        ("broken.yaml", "data.columns"),
    ),
    "a thousand brackets": ("model: {layer_types: " + "[" * 3000 + "]" * 3000 + "}\n", ("broken.yaml",)),
    "bytes that are no UTF-8": (b"model: {preset: \xff\xfe}\n", ("broken.yaml", "UTF-8")),
    "UTF-16": ("model: {depth: 4}\n".encode("utf-16"), ("broken.yaml", "UTF-8")),
    "a zero byte": (b"model: {depth: 4\x00}\n", ("broken.yaml",)),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), ("broken.yaml", "UTF-8")),
}
BROKEN_VALUES: dict[str, tuple[str, tuple[str, ...]]] = {
    "depth in words": ("model:\n  depth: four\n", ("broken.yaml:2", "model.depth", "whole number", "'four'")),
    "depth true": ("model: {depth: true}\n", ("model.depth", "whole number")),
    "depth infinite": ("model: {depth: .inf}\n", ("model.depth", "whole number")),
    "depth no number": ("model: {depth: .nan}\n", ("model.depth", "whole number")),
    "depth and a half": ("model: {depth: 2.5}\n", ("model.depth", "whole number")),
    "depth zero": ("model: {depth: 0}\n", ("depth",)),
    "depth below zero": ("model: {depth: -2}\n", ("depth",)),
    "depth of a trillion": ("model: {depth: 1000000000000}\n", ("depth",)),
    "depth and preset": ("model: {depth: 2, preset: gpt2}\n", ("depth", "preset")),
    "an unknown preset": ("model: {preset: gpt3}\n", ("preset", "gpt3", "gpt2")),
    "hidden_size zero": ("model: {depth: 2, hidden_size: 0}\n", ("hidden_size",)),
    "layers by the trillion": ("model: {depth: 2, num_hidden_layers: 1000000000000}\n", ("num_hidden_layers",)),
    "heads that do not divide": ("model: {depth: 2, hidden_size: 100, num_attention_heads: 3}\n", ("hidden_size",)),
    "groups that do not divide": (
        "model: {depth: 2, num_attention_heads: 4, num_key_value_heads: 3}\n",
        ("num_key_value_heads",),
    ),
    "an odd head_dim": ("model: {depth: 2, hidden_size: 45, head_dim: 15}\n", ("head_dim", "even")),
    "too few layer_types": ("model: {depth: 3, layer_types: [full_attention]}\n", ("layer_types",)),
    "an unknown layer type": ("model: {depth: 1, layer_types: [linear]}\n", ("layer_types", "linear")),
    "sliding_window below zero": ("model: {depth: 2, sliding_window: -1}\n", ("sliding_window",)),
    "dropout above one": ("model: {depth: 2, hidden_dropout: 1.5}\n", ("hidden_dropout",)),
    "rope_theta zero": ("model: {depth: 2, rope_theta: 0}\n", ("rope_theta",)),
    "unknown positions": ("model: {depth: 2, position_embedding_type: alibi}\n", ("position_embedding_type", "rope")),
    "kan with one cell": ("model: {depth: 2, linear_type: kan, kan_grid_size: 1}\n", ("kan_grid_size",)),
    "a switch in words": ("model: {depth: 2, qk_norm: maybe}\n", ("model.qk_norm", "true or false")),
    "vocab_size below zero": ("model: {depth: 2}\ntokenizer: {vocab_size: -5}\n", ("vocab_size",)),
    "vocab_size zero": ("model: {depth: 2}\ntokenizer: {vocab_size: 0}\n", ("vocab_size",)),
    "max_length zero": ("model: {depth: 2}\ndata: {max_length: 0}\n", ("max_length",)),
    "max_length one": ("model: {depth: 2}\ndata: {max_length: 1}\n", ("max_length",)),
    "an unknown format": ("data: {format: xml}\n", ("data.format", "jsonl")),
    "columns that are a list": ("data: {columns: [text]}\n", ("data.columns", "map")),
    "no length": ("model: {preset: gpt2}\n", ("length", "max_steps")),
    "a batch that does not divide": (
        "model: {depth: 2}\npretrain: {total_batch_size: 77777}\n",
        ("total_batch_size", "77,777"),
    ),
    "a batch of nothing": ("model: {depth: 2}\npretrain: {per_device_train_batch_size: 0}\n", ("batch_size",)),
    "FLOPs below zero": ("model: {depth: 2}\npretrain: {target_flops: -1e15}\n", ("target_flops",)),
    "a ratio of zero": ("model: {depth: 2}\npretrain: {target_param_data_ratio: 0}\n", ("target_param_data_ratio",)),
    "steps in words": ("model: {depth: 2}\npretrain: {max_steps: many}\n", ("pretrain.max_steps", "whole number")),
    "accumulation of nothing": ("pretrain: {gradient_accumulation_steps: 0}\n", ("gradient_accumulation_steps",)),
    "an alternative that is a list": ("data: {format: [txt]}\n", ("data.format", "jsonl")),
    "columns of numbers": ("data: {columns: {null: text}}\n", ("data.columns",)),
}


@pytest.mark.parametrize("case", NO_RECIPES | BROKEN_VALUES)
def test_a_broken_recipe_is_refused_before_anything_runs(refused, here, case):
    text, culprits = (NO_RECIPES | BROKEN_VALUES)[case]
    (here / "broken.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    sentence = refused("plan broken.yaml", *culprits)
    assert "broken.yaml" in sentence or case in BROKEN_VALUES


# Values that only the stage itself can judge: section, key and value in flow form, and what the sentence must name.
STAGE_VALUES = [
    ("pretrain", "optim: muonn", ("optim", "muonn")),
    ("pretrain", "lr_scheduler_type: staircase", ("lr_scheduler_type", "staircase")),
    ("pretrain", "decay_ratio: 1.5", ("decay_ratio",)),
    ("pretrain", "logging_steps: 0", ("logging_steps",)),
    ("pretrain", "save_steps: -1", ("save_steps",)),
    ("pretrain", "eval_steps: 0", ("eval_steps",)),
    ("pretrain", "eval_strategy: sometimes", ("eval_strategy", "sometimes")),
    ("pretrain", "gradient_accumulation_steps: 0", ("gradient_accumulation_steps",)),
    ("pretrain", "max_grad_norm: -1", ("max_grad_norm",)),
    ("pretrain", "warmup_steps: -5", ("warmup_steps",)),
    ("pretrain", "learning_rate: -0.1", ("learning_rate",)),
    ("pretrain", "learning_rate: .nan", ("learning_rate",)),
    ("pretrain", "weight_decay: -1", ("weight_decay",)),
    ("pretrain", "num_train_epochs: 0", ("num_train_epochs",)),
    ("pretrain", "save_total_limit: -1", ("save_total_limit",)),
    ("pretrain", "fsdp: full_shard", ("fsdp", "accelerate")),
    ("pretrain", "fused_loss: turbo", ("fused_loss", "turbo")),
    ("pretrain", "fp8: true", ("fp8",)),
    ("pretrain", "optim_args: momentum=0.9", ("optim_args", "muon_momentum")),
    ("pretrain", "optim: galore_adamw, optim_target_modules: [nowhere]", ("optim_target_modules", "nowhere")),
    ("pretrain", "optim: galore_adamw, optim_target_modules: ['*attn']", ("optim_target_modules", "*attn")),
    ("pretrain", "report_to: [wandbee]", ("report_to", "wandbee")),
    ("pretrain", "eval_tasks: [tinywrld]", ("tinywrld",)),
    ("pretrain", "eval_tasks_steps: -1", ("eval_tasks_steps",)),
    ("pretrain", "sample_steps: -1", ("sample_steps",)),
    ("pretrain", "sample_max_new_tokens: 0", ("sample_max_new_tokens",)),
    ("pretrain", "hub_strategy: often", ("hub_strategy", "often")),
    ("pretrain", "resume_from_checkpoint: nowhere", ("resume_from_checkpoint", "nowhere")),
    ("pretrain", "dataloader_num_workers: -1", ("dataloader_num_workers",)),
    ("midtrain", "mixture: [{dataset: tinyworld}]", ("mixture", "weight")),
    ("midtrain", "mixture: [{dataset: tinyworld, weight: -1}]", ("mixture", "weight")),
    ("midtrain", "mixture: [{dataset: tinyworld, wieght: 1}]", ("mixture", "wieght")),
    ("midtrain", "mixture: [{dataset: tinyworld, weight: much}]", ("mixture", "weight", "much")),
    ("midtrain", "mixture: [tinyworld]", ("mixture",)),
    ("midtrain", "mixture: [{weight: 1}]", ("mixture",)),
    ("midtrain", "mixture: [{data_path: nowhere.txt, weight: 1}]", ("nowhere.txt",)),
    ("sft", "num_train_epochs: -1", ("num_train_epochs",)),
    ("sft", "validation_fraction: 1.5", ("validation_fraction",)),
    ("sft", "max_rows: 0", ("max_rows",)),
    ("sft", "use_peft: true, lora_r: 0", ("lora_r",)),
    ("sft", "use_peft: true, lora_target_modules: [no_such_proj]", ("lora_target_modules", "no_such_proj")),
    ("sft", "use_peft: true, lora_target_modules: [q_proj, no_such_proj]", ("lora_target_modules", "no_such_proj")),
    ("sft", "fp8: true", ("fp8", "pretrain")),
    ("sft", "fused_loss: turbo", ("fused_loss", "pretrain")),
    ("sft", "packing_strategy: tetris", ("packing_strategy", "no effect")),
    ("dpo", "beta: -0.1", ("beta",)),
    ("dpo", "loss_type: [sigmoidal]", ("loss_type", "sigmoidal")),
    ("grpo", "num_generations: 1", ("num_generations",)),
    ("grpo", "num_generations: 3", ("num_generations",)),
    ("grpo", "max_completion_length: 64", ("max_completion_length",)),
    ("grpo", "temperature: 0", ("temperature",)),
    ("grpo", "pass_at: [0]", ("pass_at",)),
    ("grpo", "self_play: true, dataset: null, data_path: prompts.jsonl", ("self_play", "tinyworld")),
]


@pytest.mark.parametrize(("stage", "value", "culprits"), STAGE_VALUES, ids=[f"{s}-{v}" for s, v, _ in STAGE_VALUES])
def test_a_stage_refuses_what_only_it_can_judge(refused, here, run_folder, stage, value, culprits):
    sections = yaml.safe_load((here / "small.yaml").read_text())
    sections[stage] |= yaml.safe_load(f"{{{value}}}")
    (here / "small.yaml").write_text(yaml.safe_dump(sections))
    start = "" if stage == "pretrain" else f"--{stage}.model_name_or_path runs/small/pretrain"
    refused(f"{stage} small.yaml --overwrite {start}", *culprits)
