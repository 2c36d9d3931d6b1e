#!/bin/bash
# Trains over several machines under Slurm, one task a machine and one process a GPU:
#   sbatch --nodes 4 accelerate_configs/slurm.sh hfgpt/pretrain.py recipes/d24.yaml --output_root /shared/runs
# The folder of the run must be one that all machines share. Three minutes before the end of its time, or when it is
# preempted, the job saves a checkpoint and puts itself back into the queue; one that ended otherwise goes on from its
# newest complete checkpoint when the same line is submitted again.
#SBATCH --job-name=hfgpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@180

set -euo pipefail

processes=$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-8}))
machine_0=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one machine do not meet

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=170 # seconds that launchers leave their processes to save in

# $SLURM_NODEID is each machine's own, so that it is read there.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
  exec accelerate launch --config_file accelerate_configs/fsdp2_multinode.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$0" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$1" --main_process_port "$2" "${@:3}"
' "$processes" "$machine_0" "$port" "$@" &
step=$!

told=""
trap 'told=yes; kill -TERM "$step"' TERM # srun hands it on to every machine
wait "$step" && code=0 || code=$?
if [ -n "$told" ]; then # that wait ended with the signal
  wait "$step" && code=0 || code=$?
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
