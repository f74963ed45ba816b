"""Heads that turn a trunk's features into logits: attention over time, or a plain average.

The attention head is the one used with R(2+1)D in the "late temporal modelling" line of work: one transformer
block over a class token and one token per step in time, in place of the average over time.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn


class StdNorm(nn.Module):
    """gain * (x - mean) / (std + eps) + bias over the last axis, std unbiased and eps outside the root.

    Not `nn.LayerNorm`, which divides by sqrt(biased variance + eps).
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., channels)."""
        centred = x - x.mean(-1, keepdim=True)
        return self.gain * centred / (x.std(-1, keepdim=True) + self.eps) + self.bias


class SelfAttention(nn.Module):
    """Multi-head attention with separate query, key and value layers; dropout on the attention weights."""

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, kept_keys: Tensor | None = None) -> Tensor:
        """Mix the tokens.

        Args:
            x: (B, L, C).
            kept_keys: bool (B, L), False hides a token from every query; None keeps all.

        Returns:
            (B, L, C).
        """

        def split(tokens: Tensor) -> Tensor:
            # (B, L, C) -> (B, heads, L, C / heads)
            return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, heads, L, L)
        if kept_keys is not None:
            scores = scores.masked_fill(~kept_keys[:, None, None, :], -math.inf)
        mixed = self.dropout(scores.softmax(-1)) @ value
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)))


class TemporalAttention(nn.Module):
    """One pre-norm transformer block over the steps in time, read out at a class token.

    Args:
        channels: of the features; a multiple of `heads`.
        num_tokens: steps in time; the position table has one entry more, for the class token.
        num_classes: K.
        heads: attention heads.
        dropout: after the positions, on the attention weights, inside and after both halves of the block.
        classifier_dropout: before the last linear layer.
        keep_probability: in training, the probability that a token may be attended to, drawn for each sample
            and token. The class token is always kept. 1 masks nothing.
    """

    def __init__(
        self,
        channels: int,
        num_tokens: int,
        num_classes: int,
        *,
        heads: int = 8,
        dropout: float = 0.1,
        classifier_dropout: float = 0.8,
        keep_probability: float = 1.0,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels: found {channels}, wanted a multiple of the {heads} attention heads")
        if not 0 < keep_probability <= 1:
            raise ValueError(f"keep_probability: found {keep_probability}, wanted a number in (0, 1]; 1 masks nothing")
        self.num_tokens = num_tokens
        self.keep_probability = keep_probability
        self.class_token = nn.Parameter(torch.empty(1, 1, channels))
        self.position = nn.Parameter(torch.empty(1, num_tokens + 1, channels))
        self.norm1 = StdNorm(channels)
        self.attention = SelfAttention(channels, heads=heads, dropout=dropout)
        self.norm2 = StdNorm(channels)
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, 4 * channels),
            nn.GELU(approximate="tanh"),
            nn.Dropout(dropout),
            nn.Linear(4 * channels, channels),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier_dropout = nn.Dropout(classifier_dropout)
        self.classifier = nn.Linear(channels, num_classes)
        for table in (self.class_token, self.position):
            nn.init.normal_(table, std=0.02)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Classify features.

        Args:
            features: (B, C, T', H', W') with T' = num_tokens.

        Returns:
            Logits (B, K).
        """
        tokens = features.mean((3, 4)).transpose(1, 2)  # (B, C, T', H', W') -> (B, T', C)
        if tokens.shape[1] != self.num_tokens:
            raise ValueError(
                f"features: found {tokens.shape[1]} steps in time, wanted {self.num_tokens}; "
                "give clips of as many frames as the classifier was built for"
            )
        x = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        x = self.dropout(x + self.position)
        x = x + self.dropout(self.attention(self.norm1(x), self._draw_kept_keys(x)))
        x = x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.dropout(x)
        return cast(Tensor, self.classifier(self.classifier_dropout(x[:, 0])))

    def _draw_kept_keys(self, x: Tensor) -> Tensor | None:
        if not self.training or self.keep_probability == 1:
            return None
        kept = torch.rand(x.shape[:2], device=x.device) < self.keep_probability
        kept[:, 0] = True  # the class token
        return kept


class AverageHead(nn.Module):
    """The average over time and space, then dropout and a linear layer.

    Args:
        channels: of the features.
        num_classes: K.
        classifier_dropout: before the linear layer.
    """

    def __init__(self, channels: int, num_classes: int, *, classifier_dropout: float = 0.0) -> None:
        super().__init__()
        self.classifier_dropout = nn.Dropout(classifier_dropout)
        self.classifier = nn.Linear(channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Classify features (B, C, T', H', W') to logits (B, K)."""
        pooled = features.mean((2, 3, 4))
        return cast(Tensor, self.classifier(self.classifier_dropout(pooled)))
