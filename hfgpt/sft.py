"""Supervised fine-tuning: a model learns to answer in conversations, by TRL's SFTTrainer.

    accelerate launch hfgpt/sft.py recipes/tiny.yaml
    hfgpt sft recipes/gpt-712m.yaml --sft.data_path my_conversations.jsonl
    hfgpt sft recipes/d20.yaml --model_name_or_path runs/d20/pretrain --use_peft --lora_r 8

Starts from the stage before it. The loss is that of the assistant's tokens and its `<|end|>` alone; one conversation
is shown with these tokens marked before the first step.
"""

import sys

from rich.console import Console
from transformers import set_seed
from trl import SFTTrainer

from hfgpt.chat_stage import (
    RunOrderTrainer,
    WithoutCard,
    begin,
    load_start,
    plan_in_words,
    refusals_of,
    run_to_the_end,
)
from hfgpt.data.packed_conversations import ConversationCollator, pack_conversations
from hfgpt.data.sft_rows import marked_conversation, sft_dataset
from hfgpt.errors import run_command
from hfgpt.recipe import load_recipe
from hfgpt.stage import is_done, speaker
from hfgpt.training.chat_arguments import SftArguments, lora_config
from hfgpt.workspace import workspace

STAGE = "sft"


class SftTrainer(WithoutCard, SFTTrainer, RunOrderTrainer):
    """TRL's SFTTrainer with our records, checkpoints and optimizer."""


def main(argv: list[str]) -> None:
    recipe = load_recipe(argv, STAGE, SftArguments)
    data, folders = recipe.data, workspace(recipe, STAGE)
    args = recipe.section(
        STAGE, SftArguments, seed=data.seed, max_length=data.max_length, output_dir=str(folders.stage)
    )
    say = speaker(args)
    if is_done(folders, recipe, say):
        return

    set_seed(args.seed)
    model, tokenizer = load_start(recipe, STAGE, args)
    conversations = sft_dataset(args.source(data), tokenizer, data.max_length, folders.data, data.num_proc)
    say(conversations.counts.summary())
    if args.process_index == 0:
        first = conversations.train[0]
        Console(soft_wrap=True).print(marked_conversation(tokenizer, first["input_ids"], first["labels"]))
    train_rows = pack_conversations(conversations.train, data.max_length, args.packing, args.max_rows)
    validation = pack_conversations(conversations.validation, data.max_length, args.packing)
    if not len(validation):
        args.eval_strategy = "no"
    tokens_per_row = train_rows.tokens / len(train_rows)
    say(f"{train_rows.conversations:,} conversations in {len(train_rows):,} rows ({train_rows.padding:.1%} padding)")

    rates = args.fill_rates(model.config.to_dict())
    say(plan_in_words(args, model, len(train_rows), tokens_per_row, rates))
    # Tokens, labels and packed rows are there already: nothing is left for TRL to prepare.
    packs, args.packing, args.dataset_kwargs = args.packing, False, {"skip_prepare_dataset": True}
    with refusals_of(recipe, STAGE):
        trainer = SftTrainer(
            model=model,
            args=args,
            processing_class=tokenizer,
            train_dataset=train_rows.dataset,
            eval_dataset=validation.dataset if len(validation) else None,
            data_collator=ConversationCollator(tokenizer.pad_token_id),
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
        num_rows=len(train_rows),
        tokens_per_row=tokens_per_row,
        identity={"rows": conversations.key, "packing": packs},
    )
    run_to_the_end(recipe, args, folders, trainer, say)


if __name__ == "__main__":
    sys.exit(run_command(main))
