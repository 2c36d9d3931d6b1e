"""Midtraining: a base model goes on over a mixture of text and rendered conversations, by the same Trainer.

    accelerate launch hfgpt/midtrain.py recipes/tiny.yaml
    accelerate launch hfgpt/midtrain.py recipes/d20.yaml --model_name_or_path runs/d20/pretrain --max_steps 800

Starts from `runs/<recipe>/pretrain` unless `model_name_or_path` is set. Each source of `midtrain.mixture` is prepared
like pretraining data, and rows are dealt out at the exact shares that their weights say.
"""

import sys
from pathlib import Path

from datasets import concatenate_datasets
from transformers import set_seed

from hfgpt.arguments import DataArguments
from hfgpt.data.mixture import MixedRows, MixtureSource, epoch_rows
from hfgpt.data.mixture_sources import DEFAULT_MIXTURE, TINY_WORLD_MIXTURE, sources_of
from hfgpt.data.preparation import prepare_data
from hfgpt.data.tokenizer_stage import ensure_tokenizer
from hfgpt.errors import UserError, run_command
from hfgpt.model.loading import load_model
from hfgpt.recipe import load_recipe
from hfgpt.stage import agree_on_tokens, is_done, speaker, start_model
from hfgpt.text_stage import keep_begun_rate, plan_of, train_on_rows
from hfgpt.training.arguments import MidtrainArguments
from hfgpt.training.rates import where_rates_ended
from hfgpt.workspace import workspace

STAGE = "midtrain"


def main(argv: list[str]) -> None:
    recipe = load_recipe(argv, STAGE, MidtrainArguments)
    data, folders = recipe.data, workspace(recipe, STAGE)
    args = recipe.section(STAGE, MidtrainArguments, seed=data.seed, output_dir=str(folders.stage))
    say = speaker(args)
    if is_done(folders, recipe, say):
        return

    start = start_model(recipe, STAGE, args)
    tokenizer = ensure_tokenizer(recipe.tokenizer, data, folders.tokenizer)
    usual = TINY_WORLD_MIXTURE if data.dataset == "tinyworld" else DEFAULT_MIXTURE
    wanted = sources_of(args.mixture or usual, data, recipe.place(STAGE, "mixture"))
    prepared = [prepare_data(source, folders.tokenizer, folders.data) for source, _ in wanted]
    weights = [weight for _, weight in wanted]
    sources = [
        MixtureSource(name_of(source), rows.train(), weight)
        for (source, weight), rows in zip(wanted, prepared, strict=True)
    ]
    for source, rows in zip(sources, prepared, strict=True):
        say(f"{source.name}\n{rows.summary()}")
        if not len(source.rows):
            raise UserError(f"{source.name} is too small to fill one row of data.max_length {data.max_length} tokens.")

    set_seed(args.seed)
    model = load_model(start, tokenizer, data.max_length, recipe.model.attn_implementation)
    agree_on_tokens(model, tokenizer, is_chat=True)
    earlier, ended_at = where_rates_ended(Path(start), args.optimizer_name)
    if args.rate_scale is None:
        args.rate_scale = ended_at
        say(f"rates start at {ended_at:.0%} of the highest of {start}")
    keep_begun_rate(recipe, args, folders)
    plan = plan_of(recipe, args, model, epoch_rows([len(s.rows) for s in sources], weights), earlier)
    say(plan.as_text())
    mixed = MixedRows(sources, data.seed, plan.max_steps * plan.batch.rows_per_step)
    for source, rows_given in zip(sources, mixed.rows_given(), strict=True):
        say(
            f"{rows_given / len(mixed):>6.1%} of the tokens from {source.name}: {rows_given * data.max_length:,} "
            f"({rows_given / len(source.rows):.2f} epochs)"
        )

    train_on_rows(
        recipe,
        args,
        folders,
        say,
        model=model,
        tokenizer=tokenizer,
        plan=plan,
        rows_of=lambda _: mixed,
        validation=concatenate_datasets([rows.validation() for rows in prepared]),
        bytes_per_token=prepared[0].bytes_per_token,
        identity={"rows": [rows.path.name for rows in prepared], "weights": weights, "start": start},
    )


def name_of(source: DataArguments) -> str:
    """A source in words: what it is and whether it is read as text or as conversations."""
    where = source.data_path or "/".join(filter(None, (source.dataset, source.dataset_config)))
    return f"{where} ({source.content})"


if __name__ == "__main__":
    sys.exit(run_command(main))
