"""Direct preference optimisation: a chat model learns which of two answers is preferred, by TRL's DPOTrainer.

    accelerate launch hfgpt/dpo.py recipes/tiny.yaml
    hfgpt dpo recipes/d20.yaml --dpo.data_path my_pairs.jsonl --beta 0.05

Starts from the stage before it, which also is the reference model.
"""

import copy
import sys

from transformers import set_seed
from trl import DPOTrainer

from hfgpt.chat_stage import (
    RunOrderTrainer,
    WithoutCard,
    begin,
    load_start,
    plan_in_words,
    refusals_of,
    run_to_the_end,
)
from hfgpt.data.chat_splits import split_preferences
from hfgpt.errors import run_command
from hfgpt.recipe import load_recipe
from hfgpt.stage import is_done, speaker
from hfgpt.training.chat_arguments import DpoArguments, lora_config
from hfgpt.workspace import workspace

STAGE = "dpo"


class DpoTrainer(WithoutCard, DPOTrainer, RunOrderTrainer):
    """TRL's DPOTrainer with our records, checkpoints and optimizer."""


def main(argv: list[str]) -> None:
    recipe = load_recipe(argv, STAGE, DpoArguments)
    data, folders = recipe.data, workspace(recipe, STAGE)
    args = recipe.section(
        STAGE, DpoArguments, seed=data.seed, max_length=data.max_length, output_dir=str(folders.stage)
    )
    say = speaker(args)
    if is_done(folders, recipe, say):
        return

    set_seed(args.seed)
    model, tokenizer = load_start(recipe, STAGE, args)
    pairs = split_preferences(args.source(data), tokenizer, data.max_length, args.max_rows)
    say(pairs.summary())
    if not len(pairs.validation):
        args.eval_strategy = "no"
    rates = args.fill_rates(model.config.to_dict())
    say(plan_in_words(args, model, len(pairs.train), pairs.tokens_per_row, rates))
    with refusals_of(recipe, STAGE):
        trainer = DpoTrainer(
            model=model,
            ref_model=None if args.use_peft else copy.deepcopy(model),
            args=args,
            processing_class=tokenizer,
            train_dataset=pairs.train,
            eval_dataset=pairs.validation if len(pairs.validation) else None,
            peft_config=lora_config(args, model),
        )
    begin(
        recipe,
        args,
        folders,
        trainer,
        say,
        tokenizer=tokenizer,
        rates=rates,
        num_rows=len(pairs.train),
        tokens_per_row=pairs.tokens_per_row,
        identity={"rows": pairs.key, "beta": args.beta},
    )
    run_to_the_end(recipe, args, folders, trainer, say)


if __name__ == "__main__":
    sys.exit(run_command(main))
