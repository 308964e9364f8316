"""CLIP's text tower: a causal transformer that reads a sentence and answers with an embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from simclr.checks import is_whole
from simclr.errors import InputError
from simclr.models.tokenizer import Tokenizer, Tokens

MAX_WIDTH, MAX_DEPTH, MAX_CONTEXT = 4096, 64, 1024
DIGEST = 32  # bytes of SHA-256
AT_ONCE = 512  # sentences that are embedded together


class TextTransformer(nn.Module):
    """Sentences to embeddings (Radford et al. 2021, section 2.4): the transformer's output where a sentence ends.

    Tokens int64 [B, context] to embeddings [B, out_features], not normalised (the loss does that). Each token sees
    those before it alone, so that what follows the end, padding for instance, changes nothing.
    tokenizer: makes the tokens; what it has learned is part of the tower's state, beside the weights that rest on it.
    width, depth, heads, context: of the transformer; a sentence has room for context - 2 tokens. Parameters have
    open_clip's names. Raises ValueError for a size out of range.
    """

    def __init__(
        self, tokenizer: Tokenizer, out_features: int, width: int, depth: int, heads: int, context: int
    ) -> None:
        super().__init__()
        for name, value, most in (("width", width, MAX_WIDTH), ("depth", depth, MAX_DEPTH)):
            if not is_whole(value) or not 1 <= value <= most:
                raise ValueError(f"{name}={value} is not usable; it is a whole number from 1 to {most}")
        if not is_whole(context) or not 3 <= context <= MAX_CONTEXT:
            raise ValueError(f"context={context} is not usable; it is a whole number from 3 to {MAX_CONTEXT}")
        if not is_whole(heads) or heads < 1 or width % heads:
            raise ValueError(f"heads={heads} is not usable; it is a whole number that divides width={width}")
        self.tokenizer, self.context, self.heads, self.out_features = tokenizer, context, heads, out_features
        self.token_embedding = nn.Embedding(tokenizer.vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = _Blocks(width, depth, heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, out_features))
        self.initialise()
        self._learned = _packed("")

    def initialise(self) -> None:
        """Weights as CLIP begins with: standard deviations that fall with width and depth."""
        width, blocks = self.token_embedding.embedding_dim, self.transformer.resblocks
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        for block in self.transformer.blocks():
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=(2 * width * len(blocks)) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=(2 * width * len(blocks)) ** -0.5)

    def learn_words(self, sentences: Sequence[str]) -> None:
        """Let the tokenizer learn from these sentences."""
        self.tokenizer.fit(sentences)
        self._learned = _packed(self.tokenizer.state())

    @property
    def learned(self) -> str:
        """What the tokenizer has learned, as JSON."""
        return bytes(self._learned[DIGEST:].tolist()).decode()

    def tokens(self, sentences: Sequence[str]) -> Tokens:
        """Sentences as the tower reads them: int64 [N, context]."""
        return self.tokenizer.encode(sentences, self.context)

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Embeddings of sentences, [N, out_features], some at a time, on the tower's device."""
        tokens = self.tokens(sentences).ids.to(self.text_projection.device)
        return torch.cat([self(part) for part in tokens.split(AT_ONCE)])

    def forward(self, tokens: Tensor) -> Tensor:
        end = (tokens == self.tokenizer.end).int().argmax(dim=1)
        # Nobody needs what follows the last end. To ask a GPU for it would be a wait; a graph has one length for all.
        cut = tokens.device.type == "cpu" and not torch.compiler.is_compiling()
        seen = int(end.max()) + 1 if cut else self.context
        x = self.token_embedding(tokens[:, :seen]) + self.positional_embedding[:seen]
        x = self.transformer(x)
        return self.ln_final(x[torch.arange(len(x), device=x.device), end]) @ self.text_projection

    # torch keeps these two beside the parameters, in every checkpoint.
    def get_extra_state(self) -> Tensor:
        return self._learned

    def set_extra_state(self, state: Tensor) -> None:
        """Raises InputError for a tokenizer that is not the one which was kept."""
        again = "it was changed, or damaged; use another checkpoint"
        if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.ndim != 1 or len(state) < DIGEST:
            raise InputError(f"the checkpoint's tokenizer is none: {again}")
        state = state.cpu()
        content = bytes(state[DIGEST:].tolist())
        if hashlib.sha256(content).digest() != bytes(state[:DIGEST].tolist()):
            raise InputError(f"the checkpoint's tokenizer does not have the digest that was kept with it: {again}")
        if content:
            try:
                self.tokenizer.restore(content.decode())
            except ValueError as error:
                raise InputError(f"the checkpoint's tokenizer cannot be used: {error}; {again}") from error
        self._learned = state.clone()


class _Blocks(nn.Module):
    """Blocks, one after the other, under open_clip's name for them."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))

    def blocks(self) -> list[_Block]:
        return [cast(_Block, block) for block in self.resblocks]

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device, dtype=x.dtype)
        for block in self.resblocks:
            x = block(x, hidden)
        return x


class _Block(nn.Module):
    """Attention and MLP, each behind a layer norm and beside a residual path, under open_clip's names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = _MLP(width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=hidden, is_causal=True, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(nn.functional.gelu(self.c_fc(x)))


def _packed(state: str) -> Tensor:
    """A tokenizer's state behind its digest, as bytes: uint8 [32 + N]."""
    content = state.encode()
    return torch.frombuffer(bytearray(hashlib.sha256(content).digest() + content), dtype=torch.uint8)
