"""Fused kernels of the supernet's mixed edges, in Triton: one file a kernel, its plain-torch
reference beside it.

Every kernel is a `torch.library` custom op over maps of NHWC memory, [maps, B, H, W, C], that
writes into tensors which the caller allocates. It runs as Triton where `launch.runs_kernel` says so
and as its reference everywhere else, in any floating type; `ops.fused` composes the ops to whole
cells and hand-writes their backward pass. Statistics and sums are float32 (float64 for float64
maps) and are combined in a fixed order, without atomics, so that a run repeats bit for bit.
"""
