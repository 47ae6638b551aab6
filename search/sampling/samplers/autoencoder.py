"""The networks of NAO: an encoder to a continuous space, a predictor of scores there, a decoder
back."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.sampling.encoding import Variable


class Losses(NamedTuple):
    """The terms of the loss, scalar means over a batch; training descends their weighted sum."""

    prediction: Tensor
    """Squared error of the predicted scores."""
    reconstruction: Tensor
    """Negative log-likelihood of a value, in nats, given the ones before it and the states."""
    entropy: Tensor
    """Entropy of the decoder's distributions for a value, in nats."""

    def total(self, share: float, entropy: float) -> Tensor:
        """Returns share * prediction + (1 - share) * reconstruction - entropy * entropy of the
        decoder.

        The first two terms are those of Luo et al. 2018, equation 1, with `share` for lambda.
        """
        return share * self.prediction + (1 - share) * self.reconstruction - entropy * self.entropy


class Autoencoder(nn.Module):
    """Encoder, performance predictor and decoder of NAO (Luo et al. 2018, section 3.2).

    An architecture is the sequence of the values of its `variables`. Each value is a token;
    variables of the same sort with equally many options share their tokens (the operations, say),
    and an embedding of the place is added to tell them apart. The latent representation is one
    vector of length 1 for each variable, the state of a bidirectional LSTM plus the embedding. The
    predictor reads the direction of their mean. The decoder, an LSTM that begins from that
    direction, attends to the states; its distribution for a variable is over the values of that
    variable alone, so that every decoded sequence is an architecture.

    Values are int64 [n, variables] and states [n, variables, hidden] for any n.
    """

    def __init__(self, variables: Sequence[Variable], hidden: int) -> None:
        """`hidden` is the length of a latent vector, an even number.

        Raises ValueError for an odd one.
        """
        super().__init__()
        if hidden % 2:
            raise ValueError(f"hidden: must be even, for two directions of an LSTM, not {hidden}")
        firsts, vocabulary = _tokens(variables)
        self.tokens = nn.Embedding(vocabulary, hidden)
        self.places = nn.Parameter(torch.randn(len(variables), hidden))
        self.encoder = nn.LSTM(hidden, hidden // 2, batch_first=True, bidirectional=True)
        self.predictor = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
        self.start = nn.Parameter(torch.zeros(hidden))
        self.decoder = nn.LSTM(hidden, hidden, batch_first=True)
        self.attention = nn.Linear(2 * hidden, hidden)
        self.output = nn.Linear(hidden, vocabulary)
        self.firsts: Tensor
        self.register_buffer("firsts", firsts, persistent=False)
        self.foreign: Tensor
        places = torch.arange(vocabulary) - firsts.unsqueeze(1)
        foreign = (places < 0) | (places >= torch.tensor([variable.options for variable in variables]).unsqueeze(1))
        self.register_buffer("foreign", foreign, persistent=False)

    def encode(self, values: Tensor) -> Tensor:
        """Returns the latent states of architectures."""
        embedded = self.tokens(values + self.firsts) + self.places
        states, _ = self.encoder(embedded)
        return F.normalize(states + embedded, dim=-1)

    def predict(self, states: Tensor) -> Tensor:
        """Returns predicted scores between 0 and 1, [n]."""
        predicted: Tensor = self.predictor(_direction(states))
        return predicted.squeeze(-1)

    def move(self, states: Tensor, step: float) -> Tensor:
        """Moves the states by `step` times the gradient of the predicted score, back to length 1.

        This is equation 2 of the paper, for all states of an architecture at once. Returns states
        without a graph.
        """
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.predict(leaf).sum(), leaf)
        return F.normalize(states.detach() + step * gradient, dim=-1)

    def log_probs(self, states: Tensor, values: Tensor) -> Tensor:
        """Returns log-probabilities of all tokens for each variable, given the states and the
        earlier values.

        They are [n, variables, vocabulary]. The value v of variable t is token `firsts[t]` + v;
        tokens of other variables have probability 0, with a finite log-probability.
        """
        before = self.tokens(values[:, :-1] + self.firsts[:-1]) + self.places[:-1]
        inputs = torch.cat([self.start.expand(len(values), 1, -1), before], 1)
        outputs, _ = self.decoder(inputs, _memory(states))
        return self._log_probs(outputs, states, slice(None))

    @torch.no_grad()
    def decode(self, states: Tensor) -> Tensor:
        """Chooses for each variable in turn the likeliest value, given those before: values
        [n, variables]."""
        inputs, memory = self.start.expand(len(states), 1, -1), _memory(states)
        tokens: list[Tensor] = []
        for place in range(len(self.firsts)):
            outputs, memory = self.decoder(inputs, memory)
            tokens.append(self._log_probs(outputs, states, slice(place, place + 1)).argmax(-1))
            inputs = self.tokens(tokens[-1]) + self.places[place]
        return torch.cat(tokens, 1) - self.firsts

    def losses(self, values: Tensor, scores: Tensor) -> Losses:
        """Returns the losses of architectures and their `scores` between 0 and 1.

        The first `len(scores)` of `values` have a score.
        """
        states = self.encode(values)
        log_probs = self.log_probs(states, values)
        chosen = log_probs.gather(-1, (values + self.firsts).unsqueeze(-1))
        prediction = F.mse_loss(self.predict(states[: len(scores)]), scores)
        return Losses(prediction, -chosen.mean(), entropy(log_probs).mean())

    def _log_probs(self, outputs: Tensor, states: Tensor, places: slice) -> Tensor:
        """Turns outputs of the decoder [n, places, hidden] into log-probabilities, by attention to
        the states (Luo et al. 2018, decoder)."""
        weights = ((outputs + self.places[places]) @ states.transpose(1, 2)).softmax(-1)
        mixed = self.attention(torch.cat([weights @ states, outputs], -1)).tanh()
        logits: Tensor = self.output(mixed)
        return logits.masked_fill(self.foreign[places], torch.finfo(logits.dtype).min).log_softmax(-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Returns the entropy, in nats, of distributions over the last dimension.

    Log-probabilities of impossible values have to be finite.
    """
    return -(log_probs.exp() * log_probs).sum(-1)


def _tokens(variables: Sequence[Variable]) -> tuple[Tensor, int]:
    """Returns the token of the value 0 of each variable, int64 [variables], and the number of
    tokens."""
    firsts: dict[tuple[bool, int], int] = {}
    count = 0
    for variable in variables:
        if (sort := (variable.is_inputs, variable.options)) not in firsts:
            firsts[sort] = count
            count += variable.options
    return torch.tensor([firsts[variable.is_inputs, variable.options] for variable in variables]), count


def _direction(states: Tensor) -> Tensor:
    """Returns the direction of the mean of the states, [n, hidden]."""
    return F.normalize(states.mean(1), dim=-1)


def _memory(states: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the state that the decoder begins from: it knows the latent states alone, so that it
    follows them when they are moved."""
    direction = _direction(states).unsqueeze(0)
    return direction, torch.zeros_like(direction)
