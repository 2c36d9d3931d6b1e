"""A stage over two gloo processes, DDP and FSDP2 alike, is the stage of one process: losses, samples, checkpoints,
resuming and the saved model. Each configuration in accelerate_configs/ is launched as far as a CPU can."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from commands import PROGRAMS, REPOSITORY, run, sentence_of_failure, succeed
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hfgpt.commands import data_prepare
from hfgpt.model import GPTForCausalLM
from hfgpt.training.callbacks import continue_prompts
from hfgpt.training.checkpoints import missing_pieces
from hfgpt.training.record import read_records

pytestmark = pytest.mark.slow

SHAPE = ["recipes/tiny.yaml", "--depth", "2", "--hidden_size", "128", "--vocab_size", "400", "--max_length", "64"]
DATA = ["--tinyworld_documents", "400", "--validation_fraction", "0.05", "--num_proc", "1"]
BATCH = ["--total_batch_size", "512", "--per_device_train_batch_size", "4"]
QUIET = ["--disable_tqdm", "--logging_steps", "1", "--eval_tasks", "[]"]
CONFIGS = REPOSITORY / "accelerate_configs"
ON_CPU = REPOSITORY / "tests" / "distributed" / "fsdp2_on_cpu.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """One root for all runs of this file, so that tokenizer and rows are made once."""
    folder = tmp_path_factory.mktemp("runs")
    data_prepare([*SHAPE, *DATA, "--output_root", str(folder)])
    return folder


@pytest.fixture(scope="module")
def sharded_config(tmp_path_factory) -> Path:
    """fsdp2.yaml with checkpoints written as shards."""
    config = (CONFIGS / "fsdp2.yaml").read_text()
    assert "FULL_STATE_DICT" in config
    path = tmp_path_factory.mktemp("config") / "fsdp2_sharded.yaml"
    path.write_text(
        config.replace("fsdp_state_dict_type: FULL_STATE_DICT", "fsdp_state_dict_type: SHARDED_STATE_DICT")
    )
    return path


def pretrain(root: Path, name: str, *flags: str, config: Path | None = None) -> Path:
    """Pretrain in one process, or as the accelerate `config` says; returns the stage's folder."""
    succeed(*command_of(root, name, *flags, config=config), OMP_NUM_THREADS="1")
    return root / "tiny" / name


def command_of(root: Path, name: str, *flags: str, config: Path | None = None) -> list[str | Path]:
    folder = root / "tiny" / name
    where = ["--output_root", root, "--output_dir", folder]
    command: list[str | Path] = ["hfgpt", "pretrain"]
    if config is not None:
        command = ["accelerate", "launch", "--config_file", config, "--main_process_port", "0"]
        if "fsdp2" in config.name:
            command += ["--num_processes", "2", ON_CPU, "pretrain"]
        else:
            for_gpus = config.name in ("ddp.yaml", "zero3.yaml")
            command += [*(["--num_processes", "2"] if for_gpus else []), "hfgpt/pretrain.py"]
    device = [] if config is not None and config.name == "cpu_ddp.yaml" else ["--use_cpu"]  # cpu_ddp.yaml says so
    return [*command, *SHAPE, *DATA, *BATCH, *QUIET, *device, *where, *flags]


def recorded(folder: Path, name: str) -> list[float]:
    return [record[name] for record in read_records(folder / "metrics.jsonl") if name in record]


def samples_at(folder: Path, step: int) -> dict[str, str]:
    """What the run said to each prompt after `step` steps."""
    return {s["prompt"]: s["completion"] for s in read_records(folder / "samples.jsonl") if s["step"] == step}


def differences(first: list[float], second: list[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(first, second, strict=True)]


def test_two_processes_follow_one_over_50_muon_steps(root):
    flags = ["--max_steps", "50", "--eval_steps", "25", "--sample_steps", "25", "--save_steps", "25"]
    flags += ["--save_total_limit", "2"]
    one = pretrain(root, "one", *flags)
    for config in ("cpu_ddp.yaml", "fsdp2.yaml"):
        two = pretrain(root, config, *flags, config=CONFIGS / config)
        assert len(recorded(two, "loss")) == 50
        assert recorded(one, "loss")[-1] < recorded(one, "loss")[0] - 2
        assert max(differences(recorded(one, "loss"), recorded(two, "loss"))) < 1e-3
        assert max(differences(recorded(one, "grad_norm"), recorded(two, "grad_norm"))) < 1e-2
        assert max(differences(recorded(one, "val_bits_per_byte"), recorded(two, "val_bits_per_byte"))) < 1e-3
        if "ddp" in config:
            assert read_records(one / "samples.jsonl") == read_records(two / "samples.jsonl")
        else:  # rounding chooses between two words that are all but equally likely: judged by the weights of that step
            assert samples_at(one, 0) == samples_at(two, 0)
            for step in (25, 50):
                said, weights = samples_at(two, step), two / f"checkpoint-{step}"
                model, tokenizer = GPTForCausalLM.from_pretrained(weights), AutoTokenizer.from_pretrained(two)
                assert said.keys() == samples_at(one, step).keys()
                assert continue_prompts(model, tokenizer, list(said), max_new_tokens=40) == list(said.values())
        first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
        assert first.keys() == second.keys()
        # Muon's alone: AdamW turns the rounding of rare tokens' gradients into whole steps of their embeddings.
        matrices = [name for name in first if "_proj" in name]
        assert max((first[name] - second[name]).abs().max().item() for name in matrices) < 1e-2


@pytest.mark.parametrize(
    ("kind", "flags", "tolerance"),
    [
        ("tied", ["--tie_word_embeddings"], 1e-3),
        ("bf16", ["--bf16", "--smear", "--embedding_norm", "--norm_weight", "--norm_type", "layernorm"], 0.03),
    ],
)
def test_under_fsdp2_the_loss_needs_no_logits_and_is_that_of_one_process(root, kind, flags, tolerance):
    """Tied weights are gathered for the embedding already; what stands outside the layers is bfloat16 as they are."""
    flags = [*flags, "--max_steps", "8", "--sample_steps", "0", "--eval_steps", "8"]
    one = pretrain(root, f"one-{kind}", *flags)
    done = succeed(*command_of(root, f"two-{kind}", *flags, config=CONFIGS / "fsdp2.yaml"), OMP_NUM_THREADS="1")
    assert "logits in training: none" in done.stdout and "logits in training: all" not in done.stdout
    two = root / "tiny" / f"two-{kind}"
    assert recorded(one, "loss")[-1] < recorded(one, "loss")[0] - 0.5
    for name in ("loss", "val_bits_per_byte"):
        assert max(differences(recorded(one, name), recorded(two, name))) < tolerance


def test_a_model_trained_under_fsdp2_opens_without_hfgpt(root, sharded_config, tmp_path):
    folder = pretrain(root, "opens", "--max_steps", "2", "--sample_steps", "0", config=sharded_config)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["GPTForCausalLM"]
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_gpt.GPTForCausalLM"
    code = (
        "import sys; sys.modules['hfgpt'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        "print(model.num_parameters(), model(input_ids=model.dummy_inputs['input_ids']).logits.isfinite().all())"
    )
    done = succeed("python", "-c", code, HF_MODULES_CACHE=str(tmp_path))
    weights = load_file(folder / "model.safetensors")
    assert done.stdout.split() == [str(sum(tensor.numel() for tensor in weights.values())), "tensor(True)"]


@pytest.mark.parametrize("kind", ["full", "sharded"])
def test_a_resumed_fsdp2_run_ends_bit_identical(root, sharded_config, kind):
    config = CONFIGS / "fsdp2.yaml" if kind == "full" else sharded_config
    flags = ["--max_steps", "6", "--save_steps", "3", "--eval_steps", "3", "--sample_steps", "3"]
    flags += ["--save_total_limit", "2"]
    whole = pretrain(root, f"whole-{kind}", *flags, config=config)
    assert missing_pieces(whole / "checkpoint-3") == []
    assert (whole / "checkpoint-3" / "pytorch_model_fsdp_0").is_dir() == (kind == "sharded")
    again = whole.with_name(f"again-{kind}")
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoint-6")
    for name in ("final_metrics.json", "model.safetensors"):
        (again / name).unlink()
    pretrain(root, again.name, *flags, config=config)
    first, second = load_file(whole / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert recorded(whole, "loss") == recorded(again, "loss")


def test_a_checkpoint_is_not_gone_on_from_under_another_sharding(root):
    flags = ["--max_steps", "4", "--save_steps", "2", "--sample_steps", "0", "--eval_strategy", "no"]
    alone = pretrain(root, "kept-alone", *flags)
    sharded = pretrain(root, "kept-sharded", *flags, config=CONFIGS / "fsdp2.yaml")
    for folder in (alone, sharded):
        (folder / "final_metrics.json").unlink()
    sentence = sentence_of_failure(*command_of(root, sharded.name, *flags))
    assert f"{sharded / 'checkpoint-4'} was written under FSDP2, FULL_STATE_DICT" in sentence
    assert "launch it as before to go on, with accelerate_configs/fsdp2.yaml" in sentence
    done = run(*command_of(root, alone.name, *flags, config=CONFIGS / "fsdp2.yaml"), OMP_NUM_THREADS="1")
    assert done.returncode != 0
    assert f"{alone / 'checkpoint-4'} was written under one process or DDP" in done.stderr
    for folder in (alone, sharded):
        assert missing_pieces(folder / "checkpoint-4") == [] and len(recorded(folder, "loss")) == 4


def test_adapters_under_sharding_are_refused_in_one_sentence(root):
    flags = ["recipes/tiny.yaml", "--use_peft", "--output_root", root]
    sentence = sentence_of_failure("hfgpt", "sft", *flags, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    assert "which FSDP2 shards: launch with accelerate_configs/ddp.yaml" in sentence


def test_lm_eval_tasks_score_alike_under_fsdp2_and_in_one_process(root):
    flags = ["--max_steps", "2", "--sample_steps", "0", "--eval_strategy", "no"]
    tasks = ["--eval_tasks", "tinyworld_facts", "tinyworld_sums", "--eval_tasks_limit", "13"]
    one = pretrain(root, "scores", *flags, *tasks)
    two = pretrain(root, "scores-fsdp2", *flags, *tasks, config=CONFIGS / "fsdp2.yaml")
    first, second = read_records(one / "evals.jsonl"), read_records(two / "evals.jsonl")
    assert [record["step"] for record in first] == [record["step"] for record in second] == [0, 2]
    for one_process, sharded in zip(first, second, strict=True):
        assert one_process["results"].keys() == sharded["results"].keys()
        for task, scores in one_process["results"].items():
            assert sharded["results"][task] == pytest.approx(scores, rel=1e-9)  # sums in another order


def test_single_yaml_trains_one_process(root):
    folder = pretrain(root, "single", "--max_steps", "2", config=CONFIGS / "single.yaml")
    assert len(recorded(folder, "loss")) == 2


def test_ddp_yaml_trains_two_processes_as_one_does(root):
    """On a CPU the processes talk by gloo; the rest is what GPUs do."""
    flags = ["--max_steps", "4", "--sample_steps", "0", "--eval_strategy", "no"]
    one = pretrain(root, "alone", *flags)
    two = pretrain(root, "ddp", *flags, config=CONFIGS / "ddp.yaml")
    assert len(recorded(two, "loss")) == 4
    assert max(differences(recorded(one, "loss"), recorded(two, "loss"))) < 1e-3
    assert json.loads((two / "identity.json").read_text())["tokens_per_step"] == 512


def test_the_slurm_script_trains_over_two_machines(root, tmp_path):
    """Two `accelerate launch` on this machine stand for two machines, started by a stand-in for srun."""
    stand_ins = {
        "scontrol": "#!/bin/bash\necho 127.0.0.1\n",
        "srun": '#!/bin/bash\nshift\nSLURM_NODEID=1 "$@" &\nSLURM_NODEID=0 "$@"\nend=$?\nwait $! && exit $end\n',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    folder = root / "tiny" / "slurm"
    flags = ["--max_steps", "2", "--save_steps", "2", "--output_root", root, "--output_dir", folder]
    succeed(
        "/bin/bash",
        CONFIGS / "slurm.sh",
        *(ON_CPU, "pretrain", *SHAPE, *DATA, *BATCH, *QUIET, "--use_cpu", *flags),
        PATH=f"{tmp_path}:{PROGRAMS}:{os.environ['PATH']}",
        SLURM_NNODES="2",
        SLURM_GPUS_ON_NODE="1",
        SLURM_JOB_NODELIST="this",
        SLURM_JOB_ID=str(os.getpid()),
        OMP_NUM_THREADS="1",
    )
    assert len(recorded(folder, "loss")) == 2
    assert (folder / "checkpoint-2" / "pytorch_model_fsdp_0").is_dir()  # a shard from each
    assert (folder / "model.safetensors").is_file()


def test_muon_under_deepspeed_is_refused_in_one_sentence(root):
    flags = [*SHAPE, *DATA, *BATCH, "--output_root", root]
    sentence = sentence_of_failure("hfgpt", "pretrain", *flags, ACCELERATE_USE_DEEPSPEED="true")
    assert "optim: muon trains whole matrices, which DeepSpeed's ZeRO flattens" in sentence
    assert "fsdp2.yaml" in sentence


def test_the_first_fsdp_is_refused_in_one_sentence(root):
    flags = [*SHAPE, *DATA, *BATCH, "--output_root", root]
    sentence = sentence_of_failure("hfgpt", "pretrain", *flags, ACCELERATE_USE_FSDP="true", FSDP_VERSION="1")
    assert "FSDP1 is not supported: set fsdp_version: 2" in sentence


def test_fsdp2_without_gpus_does_not_quietly_train_without_sharding(root):
    launch = ["accelerate", "launch", "--config_file", CONFIGS / "fsdp2.yaml", "--num_processes", "2"]
    flags = [*SHAPE, *DATA, *BATCH, *QUIET, "--use_cpu", "--output_root", root, "--output_dir", root / "tiny" / "no"]
    done = run(*launch, "--main_process_port", "0", "hfgpt/pretrain.py", *flags, "--max_steps", "1")
    assert done.returncode != 0
    assert "hfgpt: FSDP2 shards over GPUs only: launch with accelerate_configs/cpu_ddp.yaml." in done.stderr


def test_zero3_trains_adamw_as_one_process_does(root):
    pytest.importorskip("deepspeed")
    adamw = ["--max_steps", "4", "--optim", "adamw_torch"]
    one = pretrain(root, "adamw", *adamw)
    zero3 = pretrain(root, "zero3", *adamw, "--sample_steps", "2", config=CONFIGS / "zero3.yaml")
    assert max(differences(recorded(one, "loss"), recorded(zero3, "loss"))) < 1e-3
    first, second = load_file(one / "model.safetensors"), load_file(zero3 / "model.safetensors")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-2
