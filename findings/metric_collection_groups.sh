#!/usr/bin/env bash
# A MetricCollection of torchmetrics reports a wrong top-5 accuracy when its first batch has no mistake.
#
# A good engineer expects that metrics in a collection give what they give alone, and that only those share their counts
# which count the same (accuracy, recall and F1 do; top 1 and top 5 do not).
#
# As a default (compute_groups=True) the collection compares the counts after the first batch, and metrics whose counts are
# equal then share them for good. After a batch in which the largest logit is always the label's, those of top 1 and top 5
# are equal, and from then on top 5 is counted as top 1, without a warning; the same batches in another order give the right
# value. Only counts by class are merged like this, which the default average="macro" has. With average="micro" the counts of
# top 1 are single numbers, but top 5 keeps them by class all the same and is merged with the macro average of recall.
# compute_groups=False gives the right values.
#
# Seen with torchmetrics 1.9.0 and torch 2.13.0 for the CPU. In the second batch all labels have the second largest logit. The
# script printed:
#
#   torchmetrics 1.9.0, torch 2.13.0+cpu
#   top 1 and top 5, macro:      top1 0.50, top5 0.50, groups [['top1', 'top5']]
#     second batch first:        top1 0.50, top5 1.00, groups [['top1'], ['top5']]
#     compute_groups=False:      top1 0.50, top5 1.00
#   recall macro, top 5 micro:   recall 0.50, top5 0.50, groups [['recall', 'top5']]
#     second batch first:        recall 0.50, top5 1.00, groups [['recall'], ['top5']]
#     compute_groups=False:      recall 0.50, top5 1.00
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
cd "$folder"
cat > surprise.py <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

CLASSES = 10
LABELS = torch.arange(CLASSES)
NO_MISTAKE = torch.eye(CLASSES)
ALL_SECOND = torch.eye(CLASSES) + 2 * torch.eye(CLASSES).roll(1, 1)
PAIRS = {
    "top 1 and top 5, macro": lambda: {
        "top1": MulticlassAccuracy(CLASSES),
        "top5": MulticlassAccuracy(CLASSES, top_k=5),
    },
    "recall macro, top 5 micro": lambda: {
        "recall": MulticlassRecall(CLASSES),
        "top5": MulticlassAccuracy(CLASSES, top_k=5, average="micro"),
    },
}


def outcome(metrics, batches, **options):
    """The two values in words, and which metrics share counts."""
    collection = MetricCollection(metrics, **options)
    for logits in batches:
        collection.update(logits, LABELS)
    values = collection.compute()
    return ", ".join(f"{name} {values[name]:.2f}" for name in metrics), list(collection.compute_groups.values())


print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
same = True
for title, make in PAIRS.items():
    one, five = make()
    wrong, groups = outcome(make(), (NO_MISTAKE, ALL_SECOND))
    print(f"{title + ':':28} {wrong}, groups {groups}")
    reverse, reverse_groups = outcome(make(), (ALL_SECOND, NO_MISTAKE))
    print(f"{'  second batch first:':28} {reverse}, groups {reverse_groups}")
    right, _ = outcome(make(), (NO_MISTAKE, ALL_SECOND), compute_groups=False)
    print(f"{'  compute_groups=False:':28} {right}")
    same = same and (wrong, groups) == (f"{one} 0.50, {five} 0.50", [[one, five]])
    same = same and reverse == right == f"{one} 0.50, {five} 1.00"
print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
venv/bin/python surprise.py
