"""What a plan asks of GPUs: memory under each way of training, hours, dollars, and the speed of the finished model.

Numbers and text. Imports no torch.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from hfgpt.training.accelerators import Accelerator
from hfgpt.training.cost import Utilization, hours
from hfgpt.training.inference_cost import decode_bound, inference_weight_bytes, kv_cache_bytes
from hfgpt.training.memory import Memory, Process, largest_batch, training_memory
from hfgpt.training.plan import Plan

# CUDA's context and the allocator's fragmentation take the rest: an allowance, not a measurement.
USABLE_SHARE = 0.92
DECODE_BATCHES = (1, 16)
PARTS = ("weights", "gradients", "optimizer", "buffers", "activations", "logits")


@dataclass(frozen=True)
class MemoryRow:
    """One way to train: its memory on one GPU, and the most rows of a pass that fit, None without a GPU's size."""

    process: Process
    memory: Memory
    most_rows: int | None
    is_recipe: bool

    @property
    def name(self) -> str:
        p = self.process
        words = ["fsdp2" if p.strategy == "fsdp2" else "ddp" if p.num_processes > 1 else "one GPU"]
        return " + ".join(words + ["checkpointing"] * p.activation_checkpointing + ["fp8"] * p.fp8)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "is_recipe": self.is_recipe,
            **{part: getattr(self.memory, part) for part in PARTS},
            "peak": self.memory.peak,
            "peak_moment": self.memory.peak_moment,
            "largest_per_device_batch_size": self.most_rows,
        }


@dataclass(frozen=True)
class Estimate:
    """Everything about GPUs that follows from a plan; what is not known is None and is left out of the text."""

    plan: Plan
    rows: list[MemoryRow]
    num_gpus: int
    accelerator: Accelerator | None = None
    utilization: Utilization | None = None
    price: float | None = None

    @property
    def hours(self) -> float | None:
        if self.accelerator is None or self.utilization is None or self.plan.length.steps is None:
            return None
        flops = self.plan.total_tokens * self.plan.flops_per_token
        return hours(flops, self.accelerator, self.num_gpus, self.utilization.mfu)

    @property
    def dollars(self) -> float | None:
        return self.hours * self.num_gpus * self.price if self.hours is not None and self.price is not None else None

    def as_dict(self) -> dict[str, Any]:
        architecture, context = self.plan.architecture, self.plan.batch.max_length
        inference: dict[str, Any] = {
            "weight_bytes": inference_weight_bytes(architecture),
            "kv_cache_bytes": kv_cache_bytes(architecture, context),
            "context": context,
        }
        if self.accelerator is not None:
            inference["decode_bound_tokens_per_second"] = self._decode_bounds(self.accelerator)
        return {
            "gpu": asdict(self.accelerator) if self.accelerator else None,
            "num_gpus": self.num_gpus,
            "memory": [row.as_dict() for row in self.rows],
            "mfu": self.utilization.mfu if self.utilization else None,
            "mfu_source": self.utilization.source if self.utilization else None,
            "hours": self.hours,
            "gpu_hours": self.hours * self.num_gpus if self.hours is not None else None,
            "price": self.price,
            "dollars": self.dollars,
            "inference": inference,
        }

    def as_text(self) -> str:
        lines = [self._memory_heading(), *self._memory_table()]
        if self.hours is not None and self.accelerator is not None and self.utilization is not None:
            gpu, used = self.accelerator, self.utilization
            lines += [
                f"time        {self.hours:,.2f} hours of training on {self.num_gpus} x {gpu.name} at an MFU of "
                f"{used.mfu:.1%} of {gpu.bf16_flops:.3g} FLOP/s",
                f"            MFU: {used.source}",
            ]
            if self.price is not None:
                lines.append(
                    f"cost        ${self.dollars:,.2f} = {self.hours * self.num_gpus:,.2f} GPU-hours x "
                    f"${self.price:.2f}; evaluations, samples and saves come on top"
                )
        return "\n".join([*lines, *self._inference_lines()])

    @property
    def _unit(self) -> int:
        """Bytes of the memory table's unit: GiB, or MiB where every way to train takes less than one of those."""
        return 2**30 if max(row.memory.peak for row in self.rows) >= 2**30 else 2**20

    def _memory_heading(self) -> str:
        process = self.rows[0].process
        what = "each GPU" if process.on_gpu else "the CPU"
        kind = "bfloat16" if process.bf16 else "float32"
        size = ""
        if self.accelerator is not None:
            gpu = self.accelerator
            size = f"; {gpu.name} has {gpu.memory_bytes / 2**30:.1f} GiB, {USABLE_SHARE:.0%} of it usable"
        unit = "GiB" if self._unit == 2**30 else "MiB"
        return f"memory      {unit} on {what}, training in {kind} with {process.rows} rows a pass{size}"

    def _memory_table(self) -> list[str]:
        table = [["", *PARTS, "peak", "most rows"]]
        for row in self.rows:
            sizes = [*(getattr(row.memory, part) for part in PARTS), row.memory.peak]
            parts = [f"{size / self._unit:,.2f}" for size in sizes]
            most = "" if row.most_rows is None else f"{row.most_rows:,}" if row.most_rows else "none"
            table.append([("> " if row.is_recipe else "  ") + row.name, *parts, most])
        if self.rows[0].most_rows is None:
            table = [cells[:-1] for cells in table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for name, *cells in table:
            numbers = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
            lines.append(f"            {name:<{widths[0]}}{numbers}")
        lines.append("            > this recipe; peak is the fullest moment of a step, when not all parts stand")
        if not self.rows[0].process.on_gpu:
            lines.append("            what tensors take: the C library may hold on to more (docs/planning.md)")
        return lines

    def _inference_lines(self) -> list[str]:
        architecture, context = self.plan.architecture, self.plan.batch.max_length
        cache = kv_cache_bytes(architecture, context)
        lines = [
            f"chat        {_mib(inference_weight_bytes(architecture))} MiB of weights, and {_mib(cache)} MiB of KV "
            f"cache for each conversation of {context:,} tokens, in bfloat16"
        ]
        if self.accelerator is not None:
            bounds = self._decode_bounds(self.accelerator)
            speeds = ", ".join(f"{speed:,.0f} tokens/s for {batch} at once" for batch, speed in bounds.items())
            lines.append(f"            at most {speeds}, by the bandwidth and FLOP/s of one {self.accelerator.name}")
        return lines

    def _decode_bounds(self, accelerator: Accelerator) -> dict[int, float]:
        architecture, context = self.plan.architecture, self.plan.batch.max_length
        return {batch: decode_bound(architecture, accelerator, batch, context) for batch in DECODE_BATCHES}


def make_estimate(
    plan: Plan,
    process: Process,
    *,
    accelerator: Accelerator | None = None,
    memory_bytes: float | None = None,
    utilization: Utilization | None = None,
    price: float | None = None,
) -> Estimate:
    """Memory of `process` and of the other ways to train the same, and time and cost where they are known.

    `memory_bytes` is the size of one GPU, by default the accelerator's.
    """
    if memory_bytes is None and accelerator is not None:
        memory_bytes = accelerator.memory_bytes
    has_fp8 = process.bf16 and (accelerator is None or accelerator.fp8_flops is not None)
    ways: list[Process] = []
    for strategy in ("ddp", "fsdp2") if process.num_processes > 1 else ("ddp",):
        plain = replace(process, strategy=strategy, activation_checkpointing=False, fp8=False)
        ways += [plain, replace(plain, activation_checkpointing=True)]
        ways += [replace(plain, fp8=True)] if has_fp8 else []
    rows = []
    for way in ways if process in ways else [process, *ways]:
        most = largest_batch(plan.architecture, way, USABLE_SHARE * memory_bytes) if memory_bytes else None
        rows.append(MemoryRow(way, training_memory(plan.architecture, way), most, way == process))
    return Estimate(plan, rows, process.num_processes, accelerator, utilization, price)


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f}"
