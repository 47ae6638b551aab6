"""What several networks say together: from the logits of each to the probabilities or the class of the ensemble."""

import math

import torch.nn.functional as F
from torch import Tensor


def average_log_probabilities(logits: Tensor) -> Tensor:
    """Logarithm [B, classes], float64, of the mean of the softmax probabilities of K networks with `logits` [K, B, classes].

    It is itself a logit of the ensemble. Nothing underflows, however sure the networks are; their order changes no bit.
    """
    ordered = logits.double().log_softmax(2).sort(0).values  # floating sums depend on the order
    return ordered.logsumexp(0) - math.log(len(logits))


def majority_vote(logits: Tensor) -> Tensor:
    """Class [B] that most of K networks with `logits` [K, B, classes] have as the largest of an image.

    Of classes with the same number of votes it is the one with the highest average probability, then the first.
    """
    votes = F.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    fewer = votes < votes.amax(1, keepdim=True)
    return average_log_probabilities(logits).masked_fill(fewer, -math.inf).argmax(1)
