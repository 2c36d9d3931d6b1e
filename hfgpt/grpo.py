"""Group relative policy optimisation: a chat model learns from answers that can be checked, by TRL's GRPOTrainer.

    accelerate launch hfgpt/grpo.py recipes/tiny.yaml
    hfgpt grpo recipes/tiny.yaml --self_play
    accelerate launch hfgpt/grpo.py recipes/d20.yaml --use_vllm

Starts from the stage before it. pass@1 and pass@k on held-out prompts are measured before and after.
"""

import sys
from collections.abc import Callable

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl import GRPOTrainer

from hfgpt.chat_stage import WithoutCard, begin, load_start, plan_in_words, refusals_of, run_to_the_end
from hfgpt.data.chat_splits import split_prompts
from hfgpt.errors import UserError, run_command
from hfgpt.evals.callback import PassAtKCallback
from hfgpt.recipe import load_recipe
from hfgpt.stage import is_done, scoring_times, speaker
from hfgpt.training.chat_arguments import GrpoArguments, lora_config
from hfgpt.training.mixin import RecordedTrainer
from hfgpt.training.rewards import correct_answer, stated_number, sum_is_right
from hfgpt.workspace import workspace

STAGE = "grpo"


class GrpoTrainer(WithoutCard, GRPOTrainer, RecordedTrainer):
    """TRL's GRPOTrainer with our records, checkpoints and optimizer."""

    tokens_are_counted = True


def main(argv: list[str]) -> None:
    recipe = load_recipe(argv, STAGE, GrpoArguments)
    data, folders = recipe.data, workspace(recipe, STAGE)
    args = recipe.section(STAGE, GrpoArguments, seed=data.seed, output_dir=str(folders.stage))
    say = speaker(args)
    if is_done(folders, recipe, say):
        return

    set_seed(args.seed)
    model, tokenizer = load_start(recipe, STAGE, args)
    room = data.max_length - args.max_completion_length
    if room < 1:
        raise UserError(
            f"{recipe.place(STAGE, 'max_completion_length')} {args.max_completion_length} leaves no room for a prompt "
            f"in data.max_length {data.max_length}: lower it."
        )
    prompts = split_prompts(args.source(data), tokenizer, room, args.max_rows, args.self_play)
    say(prompts.summary())
    if cut_off := longer_answers(prompts.train, tokenizer, args.max_completion_length):
        say(
            f"{len(cut_off):,} answers, such as {cut_off[0]!r}, do not fit into max_completion_length "
            f"{args.max_completion_length}: they are never right, and what is never rewarded may be unlearned."
        )
    rates = args.fill_rates(model.config.to_dict())
    say(plan_in_words(args, model, len(prompts.train) * args.num_generations, 0, rates))
    reward: Callable[..., list[float | None]] = sum_is_right if args.self_play else correct_answer  # type: ignore
    with refusals_of(recipe, STAGE):
        trainer = GrpoTrainer(
            model=model,
            reward_funcs=reward,
            args=args,
            train_dataset=prompts.train,
            processing_class=tokenizer,
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
        num_rows=len(prompts.train) * args.num_generations,
        tokens_per_row=0,
        identity={"rows": prompts.key, "beta": args.beta, "num_generations": args.num_generations},
    )
    held_out = prompts.validation.select(range(min(args.pass_at_prompts, len(prompts.validation))))
    if len(held_out):
        trainer.add_callback(
            PassAtKCallback(
                tokenizer,
                held_out.to_list(),
                correct_answer,
                folders.stage,
                trainer.record,
                scoring_times(args),
                ks=args.pass_at,
                temperature=args.temperature,
                max_new_tokens=args.max_completion_length,
                seed=args.seed,
            )
        )
    run_to_the_end(recipe, args, folders, trainer, say)


def longer_answers(prompts: Dataset, tokenizer: PreTrainedTokenizerBase, room: int) -> list[str]:
    """The distinct answers in words that take more than `room` tokens with their `<|end|>`. A number may stand at the
    end of an answer of any length."""
    if "answer" not in prompts.column_names:
        return []
    in_words = sorted({str(answer) for answer in prompts["answer"] if stated_number(str(answer)) is None})
    lengths = [len(ids) for ids in tokenizer(in_words, add_special_tokens=False)["input_ids"]] if in_words else []
    return [answer for answer, length in zip(in_words, lengths, strict=True) if length + 1 > room]


if __name__ == "__main__":
    sys.exit(run_command(main))
