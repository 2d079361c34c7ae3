"""A small GPT over bytes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trainer.config import GptConfig

VOCABULARY = 256


class Block(nn.Module):
    """Attention and a perceptron, each added to what came in."""

    def __init__(self, shape: GptConfig) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        self.attention_norm = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.mix = nn.Linear(shape.width, shape.width)
        self.perceptron_norm = nn.LayerNorm(shape.width)
        self.up = nn.Linear(shape.width, 4 * shape.width)
        self.down = nn.Linear(4 * shape.width, shape.width)

    def forward(self, hidden: Any) -> Any:
        """Map [batch, context, width] to the same shape."""
        batch, context, width = hidden.shape
        parts = self.qkv(self.attention_norm(hidden)).split(width, dim=2)
        query, key, value = (
            part.view(batch, context, self.heads, -1).transpose(1, 2) for part in parts
        )
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True
        )
        mixed = self.mix(seen.transpose(1, 2).reshape(batch, context, width))
        hidden = hidden + functional.dropout(mixed, self.dropout, self.training)
        lifted = functional.gelu(self.up(self.perceptron_norm(hidden)))
        return hidden + functional.dropout(self.down(lifted), self.dropout, self.training)


class Gpt(nn.Module):
    """Predicts the next byte."""

    def __init__(self, shape: GptConfig) -> None:
        super().__init__()
        self.context = shape.context
        self.token = nn.Embedding(VOCABULARY, shape.width)
        self.place = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        for block in self.blocks:  # what is added up stays as small in deep models (GPT-2)
            nn.init.normal_(block.mix.weight, std=0.02 / math.sqrt(2 * shape.layers))
            nn.init.normal_(block.down.weight, std=0.02 / math.sqrt(2 * shape.layers))

    def forward(self, tokens: Any) -> Any:
        """Map bytes [batch, context] to logits [batch, context, 256]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.token(tokens) + self.place(places)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def loss_of(logits: Any, successors: Any) -> Any:
    """Return the mean cross entropy in nats per byte."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), successors.flatten())


def flops_per_token(model: nn.Module, shape: GptConfig) -> float:
    """Return operations of forward and backward per byte: 6N + 12LTd (PaLM, appendix B).

    N leaves out embeddings, which are looked up and not multiplied.
    """
    embedded = (VOCABULARY + shape.context) * shape.width
    multiplied = sum(parameter.numel() for parameter in model.parameters()) - embedded
    return 6.0 * multiplied + 12.0 * shape.layers * shape.context * shape.width
