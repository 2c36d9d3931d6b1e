"""Preparing data on many machines: the shards of one preparation as tasks of datatrove's executors (this machine's
processes, Slurm, Ray), on a file system that all machines share. Its files are those of `prepare_data`, byte for byte.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfgpt.arguments import DataArguments
from hfgpt.cores import available_cores
from hfgpt.data.assembly import assemble
from hfgpt.data.hub_files import download_shards
from hfgpt.data.preparation import Completion, preparation_lock
from hfgpt.data.preparation_plan import PreparationPlan, plan_preparation
from hfgpt.data.prepared import RECORD, PreparedData, open_prepared, tokenizer_identity, write_json
from hfgpt.data.shard_task import prepare_shard
from hfgpt.errors import UserError

EXECUTORS = ("local", "slurm", "ray")


def prepare_on_cluster(
    data: DataArguments,
    tokenizer_folder: Path,
    output_dir: Path,
    *,
    executor: str,
    tasks: int | None = None,
    workers: int = -1,
    slurm: dict[str, Any] | None = None,
) -> PreparedData | None:
    """Prepares section `data` as `prepare_data` does, in `tasks` (by default one a source shard) independent tasks,
    `workers` at a time (-1: all, on this machine one a core).

    `slurm` goes to datatrove's SlurmPipelineExecutor: `partition` and `time` (as "12:00:00") are needed, and `qos`,
    `mem_per_cpu_gb`, `env_command`, `sbatch_args` ... are possible. Ray is the cluster that RAY_ADDRESS names, or one
    on this machine. Killed tasks go on from their last complete block when the same call is made again.

    Returns None for Slurm: the jobs are queued then, and the last of them puts the rows together. Raises
    UserError as prepare_data does, and if the extra `hfgpt[cluster]` is not installed.
    """
    if executor not in EXECUTORS:
        raise UserError(f"--executor is {executor}; it must be one of {', '.join(EXECUTORS)}.")
    if data.prepared or data.streaming:
        raise UserError("data.prepared and data.streaming leave nothing to prepare on a cluster: remove them.")
    if tasks is not None and tasks < 1:
        raise UserError(f"--tasks is {tasks}; give at least 1.")
    if workers == 0 or workers < -1:
        raise UserError(f"--workers is {workers}; give at least 1, or -1 for all tasks at once.")
    _require("datatrove")
    if executor == "ray":
        _require("ray")
    output_dir, tokenizer_folder = Path(output_dir).resolve(), Path(tokenizer_folder).resolve()
    plan = plan_preparation(data, tokenizer_folder, tokenizer_identity(tokenizer_folder), output_dir)
    if prepared := open_prepared(plan.folder):
        return prepared
    tasks = min(tasks or len(plan.shards), len(plan.shards))
    logs = plan.folder.with_name(f"{plan.folder.name}.logs")
    if executor == "slurm":
        _submit_to_slurm(plan, logs, tasks, workers, slurm or {})
        return None
    with preparation_lock(plan):
        if prepared := open_prepared(plan.folder):
            return prepared
        (plan.folder / RECORD).unlink(missing_ok=True)
        if plan.settings.max_train_rows is None:
            download_shards(plan.shards)
        failures = _Failures(logs)
        failures.clear()
        run = _run_on_ray if executor == "ray" else _run_here
        try:
            run(PrepareShards(plan, failures), logs, tasks, workers)
        finally:
            failures.raise_first()
        completion = Completion(plan)
        if not completion.is_enough:
            raise RuntimeError(f"{len(completion.missing)} shards were not completed; datatrove's logs are in {logs}")
        return assemble(plan)


class PrepareShards:
    """A step of a datatrove pipeline: task `rank` of `world_size` prepares every world_size-th shard."""

    def __init__(self, plan: PreparationPlan, failures: "_Failures"):
        self.plan = plan
        self.failures = failures

    def __call__(self, documents: Any, rank: int = 0, world_size: int = 1) -> None:
        encode = self.plan.encoder().encode
        completion = Completion(self.plan)
        has_limit = self.plan.settings.max_train_rows is not None
        for index in range(rank, len(self.plan.shards), world_size):
            try:
                if has_limit and self._is_enough(completion):
                    return
                for _ in prepare_shard(self.plan.folder, index, self.plan.shards[index], encode, self.plan.settings):
                    if has_limit and self._is_enough(completion):
                        return
            except UserError as error:
                self.failures.add(index, error)
                raise

    @staticmethod
    def _is_enough(completion: Completion) -> bool:
        completion.look()
        return completion.is_enough

    def __repr__(self) -> str:
        return f"prepare {len(self.plan.shards)} shards in {self.plan.folder}"


class AssembleShards:
    """The step after all tasks of PrepareShards: one task puts the rows together."""

    def __init__(self, plan: PreparationPlan):
        self.plan = plan

    def __call__(self, documents: Any, rank: int = 0, world_size: int = 1) -> None:
        with preparation_lock(self.plan):
            assemble(self.plan)

    def __repr__(self) -> str:
        return f"assemble {self.plan.folder}"


class _Failures:
    """UserErrors of tasks on other machines, which executors only log: files that the caller reads."""

    def __init__(self, logs: Path):
        self.folder = logs / "failures"

    def add(self, shard: int, error: UserError) -> None:
        write_json(self.folder / f"{shard:05d}.json", str(error))

    def clear(self) -> None:
        for path in self.folder.glob("*.json"):
            path.unlink()

    def raise_first(self) -> None:
        for path in sorted(self.folder.glob("*.json")):
            raise UserError(json.loads(path.read_text(encoding="utf-8")))


def _run_here(step: Callable, logs: Path, tasks: int, workers: int) -> None:
    from datatrove.executor import LocalPipelineExecutor

    workers = workers if workers > 0 else min(tasks, available_cores())
    # What is complete is told by our own marks, which see a damaged file; datatrove's only know that a task ended.
    LocalPipelineExecutor([step], tasks=tasks, workers=workers, logging_dir=str(logs), skip_completed=False).run()


def _run_on_ray(step: Callable, logs: Path, tasks: int, workers: int) -> None:
    import ray
    from datatrove.executor import RayPipelineExecutor

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False)
    try:
        RayPipelineExecutor([step], tasks=tasks, workers=workers, logging_dir=str(logs), skip_completed=False).run()
    finally:
        if ours:
            ray.shutdown()


def _submit_to_slurm(plan: PreparationPlan, logs: Path, tasks: int, workers: int, options: dict[str, Any]) -> None:
    from datatrove.executor import SlurmPipelineExecutor

    missing = [name for name in ("partition", "time") if name not in options]
    if missing:
        example = "--slurm '{partition: NAME, time: \"12:00:00\"}'"
        raise UserError(f"Slurm needs to know its {' and '.join(missing)}: give {example}.")
    # Compute nodes run this very environment, where no other is named.
    options = {"env_command": f'export PATH="{Path(sys.executable).parent}:$PATH"', "qos": ""} | options
    shared = {"skip_completed": False, **options}
    prepare = SlurmPipelineExecutor(
        [PrepareShards(plan, _Failures(logs))],
        tasks=tasks,
        workers=workers,
        job_name=f"hfgpt-prepare-{plan.folder.name}",
        logging_dir=str(logs),
        **shared,
    )
    SlurmPipelineExecutor(
        [AssembleShards(plan)],
        tasks=1,
        job_name=f"hfgpt-assemble-{plan.folder.name}",
        logging_dir=str(logs / "assemble"),
        depends=prepare,
        **shared,
    ).run()


def _require(module: str) -> None:
    try:
        __import__(module)
    except ImportError as error:
        raise UserError(
            f"Preparing on a cluster needs {module}, which is not installed: pip install 'hfgpt[cluster]'."
        ) from error
