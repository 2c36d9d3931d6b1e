"""Pretraining: from text to a base model, by HF's Trainer.

    accelerate launch hfgpt/pretrain.py recipes/tiny.yaml
    accelerate launch hfgpt/pretrain.py recipes/d20.yaml --learning_rate 0.01 --max_steps 5000
    hfgpt pretrain recipes/tiny.yaml --data_path books/*.txt --output_dir runs/books/pretrain

Makes the tokenizer and the packed rows if they are missing, goes on from the newest complete checkpoint, and leaves
the model, metrics.jsonl, samples.jsonl, evals.jsonl and loss.png in `runs/<recipe>/pretrain`.
"""

import sys

from transformers import set_seed

from hfgpt.data.preparation import prepare_data
from hfgpt.data.rows import OrderedRows
from hfgpt.data.stream import StreamedRows
from hfgpt.data.tokenizer_stage import ensure_tokenizer
from hfgpt.errors import UserError, run_command
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.model.from_recipe import architecture_of
from hfgpt.model.loading import load_model
from hfgpt.recipe import Recipe, load_recipe
from hfgpt.stage import agree_on_tokens, is_done, speaker
from hfgpt.text_stage import keep_begun_rate, plan_of, train_on_rows
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.plan import Plan
from hfgpt.training.rates import bigram_weight_decay
from hfgpt.workspace import workspace

STAGE = "pretrain"
# Text read up to four times is nearly as good as new text (Muennighoff et al. 2023, arXiv:2305.16264).
MOST_READINGS = 4


def main(argv: list[str]) -> None:
    recipe = load_recipe(argv, STAGE, PretrainArguments)
    data, folders = recipe.data, workspace(recipe, STAGE)
    args = recipe.section(STAGE, PretrainArguments, seed=data.seed, output_dir=str(folders.stage))
    say = speaker(args)
    if is_done(folders, recipe, say):
        return

    if data.streaming and args.dataloader_num_workers > 1:
        raise UserError("data.streaming reads in one place: set pretrain.dataloader_num_workers to 0 or 1.")
    tokenizer = ensure_tokenizer(recipe.tokenizer, data, folders.tokenizer)
    prepared = prepare_data(data, folders.tokenizer, folders.data)
    say(prepared.summary())

    set_seed(args.seed)
    if args.model_name_or_path:
        model = load_model(args.model_name_or_path, tokenizer, data.max_length, recipe.model.attn_implementation)
    else:
        model = new_model(recipe, len(tokenizer))
    agree_on_tokens(model, tokenizer, is_chat=False)
    keep_begun_rate(recipe, args, folders)
    plan = plan_of(recipe, args, model, prepared.train_rows, {} if args.model_name_or_path else None)
    say(plan.as_text())
    if plan.epochs and plan.epochs > MOST_READINGS:
        say(
            f"warning: each row is read {plan.epochs:.1f} times; beyond {MOST_READINGS} the held-out loss may well "
            "rise: take more text, fewer steps or a smaller depth"
        )
    decay = bigram_decay(args, model, plan)
    if decay and plan.epochs:
        say(f"token pairs decay by {decay:.2g} (bigram_weight_decay): each row is read {plan.epochs:.2f} times")

    def rows_of(total_rows: int) -> OrderedRows | StreamedRows:
        if data.streaming:
            return StreamedRows(data, folders.tokenizer, total_rows=total_rows)
        return OrderedRows(prepared.train(), data.seed, total_rows)

    train_on_rows(
        recipe,
        args,
        folders,
        say,
        model=model,
        tokenizer=tokenizer,
        plan=plan,
        rows_of=rows_of,
        validation=prepared.validation(),
        bytes_per_token=prepared.bytes_per_token,
        identity={
            "rows": prepared.path.name,
            "shuffle_window": data.shuffle_window if data.streaming else None,
        },
        bigram_weight_decay=decay,
    )


def bigram_decay(args: PretrainArguments, model: GPTForCausalLM, plan: Plan) -> float:
    """The decay of the table of token pairs where its key is null. 0 for a model that brings its pairs along, which
    this text would make it forget."""
    has_table = args.uses_muon and model.config.bigram_vocab_size
    if not has_table or not plan.epochs or args.model_name_or_path or args.bigram_weight_decay is not None:
        return 0.0
    return bigram_weight_decay(plan.rates["embedding_learning_rate"], plan.max_steps / plan.epochs, plan.epochs)


def new_model(recipe: Recipe, vocab_size: int) -> GPTForCausalLM:
    """A model of the recipe's shape with random weights."""
    config = GPTConfig(**architecture_of(recipe.model, vocab_size, recipe.data.max_length))
    config._attn_implementation = recipe.model.attn_implementation  # null leaves the choice to transformers
    try:
        return GPTForCausalLM(config)
    except (ValueError, ImportError) as error:
        raise UserError(f"{recipe.place('model', 'attn_implementation')}: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    sys.exit(run_command(main))
