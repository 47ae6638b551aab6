"""Ensembles: from the logits of several networks to the probabilities or the class of all."""

import math

import torch.nn.functional as F
from torch import Tensor


def average_log_probabilities(logits: Tensor) -> Tensor:
    """Returns the logarithm of the mean of the softmax probabilities of K networks.

    `logits` are [K, B, classes], the result is float64 [B, classes].

    It is itself a logit of the ensemble. Even probabilities of very sure networks do not underflow;
    the order of the networks changes no bit.
    """
    ordered = logits.double().log_softmax(2).sort(0).values  # floating sums depend on the order
    return ordered.logsumexp(0) - math.log(len(logits))


def majority_vote(logits: Tensor) -> Tensor:
    """Returns the class [B] that most of K networks with `logits` [K, B, classes] rank first.

    Among classes with equal votes it is the one with the highest average probability, then the
    first.
    """
    votes = F.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    fewer = votes < votes.amax(1, keepdim=True)
    return average_log_probabilities(logits).masked_fill(fewer, -math.inf).argmax(1)
