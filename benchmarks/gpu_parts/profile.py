"""The kernels of a search step by time."""

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.aot import kernels
from benchmarks.gpu_parts.job import Job, Verdict
from benchmarks.search_step import our_step
from benchmarks.timing import Step
from ops.kernels.launch import triton
from training.report.markdown import table


def _kernel_times(one: Step, steps: int, device: torch.device) -> dict[str, tuple[float, int]]:
    """Returns microseconds and calls by kernel (on the CPU: by operator), of so many steps."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        for _ in range(steps):
            one()
        if on_gpu:
            torch.cuda.synchronize(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in profiled.key_averages()
        if event.device_type == wanted and not event.is_user_annotation
    }


def run(job: Job) -> Verdict:
    """Records kernels by time in some steps with and without a graph, and the share of our own."""
    names = {"fusenas::"} if triton is None else {"fusenas::", *(name for _, name in kernels())}
    text, values, words, passed = "", {}, [], True
    for title, graph in (("with a graph", None), ("without a graph", False)):
        if job.small and graph is None:
            continue
        batch, steps = (2, 1) if job.small else (64, 10)
        one = our_step(job.settings(), batch, "fused" if job.small else "auto", graph)
        for _ in range(1 if job.small else 5):
            one()
        times = _kernel_times(one, steps, job.place)
        total = sum(spent for spent, _ in times.values())
        own = sum(spent for name, (spent, _) in times.items() if any(name.startswith(ours) for ours in names))
        passed &= own > 0
        ordered = sorted(times.items(), key=lambda item: -item[1][0])
        rows = [
            [f"`{name[:80]}`", f"{spent / steps:.1f}", f"{calls / steps:.1f}", f"{100 * spent / max(total, 1e-9):.1f} %"]
            for name, (spent, calls) in ordered[:25]
        ]
        share = f"{100 * own / max(total, 1e-9):.0f} %"
        calls = sum(calls for _, calls in times.values()) / steps
        text += (
            f"## {title.capitalize()}\n\n{total / steps / 1000:.2f} ms a step in {calls:.0f} kernels, {share} of it in ours\n\n"
        )
        text += table(["kernel", "us a step", "calls a step", "share"], rows) + "\n"
        values[title] = {name: {"us": spent / steps, "calls": calls / steps} for name, (spent, calls) in ordered}
        words.append(f"{title}: {total / steps / 1000:.2f} ms of kernels a step, {share} in ours")
        job.write("profile", text, values)
        print(table(["kernel", "us a step", "calls a step", "share"], rows[:10]))
        job.tell("; ".join(words))
    return Verdict(passed, "; ".join(words))
