"""Methods of search judged by the table of NAS-Bench-201: `python -m benchmarks.nasbench201`."""
