"""The controller of ENAS (Pham et al. 2018, section 2.2): a recurrent network that decides an
architecture choice by choice."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

INITIAL = 0.1
"""Weights begin uniform between minus this number and this number (section 3.1)."""


class Controller(nn.Module):
    """A distribution of tuples of values, `options[t]` possible ones for variable t, as
    `Encoding.variables` lists them.

    An LSTM reads the embedding of the decision before, at first a learned vector, and a linear head
    says how likely each value of the next variable is: the softmax of `tanh_constant` * tanh(logits
    / `temperature`) (Bello et al. 2017), which keeps any two values within a factor of exp(2
    `tanh_constant`). Each variable has a head and embeddings of its own, stored side by side and
    padded to the most options. If tuples of values are the architectures one to one, the
    probability of an architecture is exact.
    """

    def __init__(
        self,
        options: Sequence[int],
        hidden: int,
        temperature: float,
        tanh_constant: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        count, most = len(options), max(options)
        self.temperature = temperature
        self.tanh_constant = tanh_constant
        self.start = nn.Parameter(torch.empty(hidden))
        self.embeddings = nn.Parameter(torch.empty(count - 1, most, hidden))
        self.cell = nn.LSTM(hidden, hidden, batch_first=True)
        self.heads = nn.Parameter(torch.empty(count, most, hidden))
        self.biases = nn.Parameter(torch.empty(count, most))
        self.padding: Tensor
        self.register_buffer("padding", torch.arange(most) >= torch.tensor(options).unsqueeze(1), persistent=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-INITIAL, INITIAL, generator=generator)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-probability and entropy of architectures [n, variables].

        Each is [n] and differentiable in the weights.

        The entropy is the sum over the variables of the entropy of each decision, given those
        before: its mean over sampled architectures is the entropy of the controller's distribution.
        """
        log_probs = self._log_probs(values)
        chosen = log_probs.gather(-1, values.unsqueeze(-1)).squeeze(-1)
        return chosen.sum(-1), -(log_probs.exp() * log_probs).sum((-1, -2))

    def log_prob(self, values: Tensor) -> Tensor:
        """Returns the log-probability [n] of architectures [n, variables]."""
        log_prob, _ = self(values)
        return log_prob

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples `count` independent architectures, [count, variables]."""
        inputs, state = self.start.expand(count, 1, -1), None
        values = torch.empty(count, len(self.heads), dtype=torch.long)
        for number in range(len(self.heads)):
            hidden, state = self.cell(inputs, state)
            log_probs = self._decide(hidden, slice(number, number + 1))
            values[:, number] = torch.multinomial(log_probs.squeeze(1).exp(), 1, generator=generator).squeeze(1)
            if number < len(self.embeddings):
                inputs = self.embeddings[number, values[:, number]].unsqueeze(1)
        return values

    def _log_probs(self, values: Tensor) -> Tensor:
        """Returns log-probabilities of all values of each variable given those before it,
        [n, variables, most options]."""
        before = self.embeddings[torch.arange(len(self.embeddings)), values[:, :-1]]
        hidden, _ = self.cell(torch.cat([self.start.expand(len(values), 1, -1), before], 1))
        return self._decide(hidden, slice(None))

    def _decide(self, hidden: Tensor, variables: slice) -> Tensor:
        """Maps hidden states [n, variables, hidden] to log-probabilities
        [n, variables, most options]."""
        logits = torch.einsum("nth,toh->nto", hidden, self.heads[variables]) + self.biases[variables]
        logits = self.tanh_constant * torch.tanh(logits / self.temperature)
        # The lowest number, as the entropy would make NaN of -inf.
        return logits.masked_fill(self.padding[variables], torch.finfo(logits.dtype).min).log_softmax(-1)
