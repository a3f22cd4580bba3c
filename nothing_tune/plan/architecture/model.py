"""What a decoder is made of: the shapes that memory and speed are counted from. Plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


class Unlisted(Exception):
    """This cannot be told by arithmetic; the text says why. The simulation (`--simulate`) may be able to."""


@dataclass(frozen=True)
class Linear:
    """One kind of matrix that tokens are multiplied with, over all layers.

    Attributes:
        name: Leaf name that PEFT targets, such as `q_proj`.
        rows: Output features.
        columns: Input features.
        count: How many there are, over all layers and experts.
        bias: Whether it adds a vector of `rows`.
        share: Share of the tokens that pass each of them: experts a token over experts, 1.0 for those that see every token.
        parameter: A slice of one 3-D parameter instead of a module (experts in transformers 5): bitsandbytes does not
            quantise it and PEFT's `all-linear` does not reach it.
    """

    name: str
    rows: int
    columns: int
    count: int
    bias: bool = False
    share: float = 1.0
    parameter: bool = False

    @property
    def weights(self) -> int:
        """Weights of one of them, the bias not counted."""
        return self.rows * self.columns

    @property
    def parameters(self) -> int:
        """Parameters of all of them, biases included."""
        return self.count * (self.weights + self.rows * self.bias)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in the place of the MLP.

    Attributes:
        count: Experts of a layer.
        chosen: Experts that a token passes.
        width: Intermediate size of one.
        shared: Intermediate size of the expert that every token passes; 0 for none.
    """

    count: int
    chosen: int
    width: int
    shared: int = 0


@dataclass(frozen=True)
class Block:
    """One decoder layer, as its forward pass is written in transformers 5.23.

    Attributes:
        order: `pre` (norm before attention and MLP), `post` (norm after both), `sandwich` (both), `parallel` (attention and
            MLP of one norm, added together) or `parallel-two` (the same with a norm each).
        norm: `rms`, `rms32` (weight applied in float32), `layer` (torch's), `layer32` (written out in float32) or
            `bare` (no weights).
        norm_bias: Whether the norm has a bias besides its weight.
        fused_qkv: One matrix gives queries, keys and values.
        heads_norm: Norm of queries and keys: empty, `head` (one weight of head_dim), `all` (one over all heads) or `each`
            (one weight a head).
        rotary: Share of head_dim that is rotated; 0 for layers without positions.
        joined: Whether rotated and other parts are put together anew (partial rotation, Phi-3).
        attention_bias: Biases of (queries, keys and values), (output).
        gated: `gate * up` in two matrices, `fused` in one, or `plain`: no gate.
        mlp_bias: Whether the MLP's matrices have biases.
        activation: Name in the config, such as `silu`.
        scaled: Whether each branch is multiplied by a number before it is added (Granite).
        dropout: (attention weights, branches) shares dropped while training.
        softcap: Whether attention scores are capped by tanh, which only eager attention does.
        window: Tokens that attention looks back; None for all.
        experts: None for a dense MLP.
        names: Leaf names: queries, keys, values (or the fused one), output, MLP in order of use.
        intermediate: Width of the dense MLP (0 where there are only experts).
    """

    order: str = "pre"
    norm: str = "rms"
    norm_bias: bool = False
    fused_qkv: bool = False
    heads_norm: str = ""
    rotary: float = 1.0
    joined: bool = False
    attention_bias: tuple[bool, bool] = (False, False)
    gated: str = "gate"
    mlp_bias: bool = False
    activation: str = "silu"
    scaled: bool = False
    dropout: tuple[float, float] = (0.0, 0.0)
    softcap: bool = False
    window: int | None = None
    experts: Experts | None = None
    names: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    intermediate: int = 0


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder-only model.

    Attributes:
        family: `model_type` of its config.
        layers: Decoder layers.
        hidden: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        intermediate: Width of the MLP; of one expert where there are only experts.
        vocab: Rows of the embedding.
        tied: The output layer is the embedding.
        context: `max_position_embeddings`, tokens; None where the config has none.
        window: Tokens that the most restricted layer looks back; None for all.
        linears: Every matrix but the output layer.
        other: All remaining parameters: norms, routers, biases of the output layer.
        blocks: `(block, how many)`: the layers, alike ones together, in order of their first use.
        embedding_scaled: The embedding is multiplied by a number (Gemma, Granite).
        head_bias: The output layer has a bias.
        routed: Whether a router's auxiliary loss is trained along.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    context: int | None
    window: int | None
    linears: tuple[Linear, ...]
    other: int
    blocks: tuple[tuple[Block, int], ...] = field(default=())
    embedding_scaled: bool = False
    head_bias: bool = False
    routed: bool = False

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, which are those of the output layer too."""
        return self.vocab * self.hidden

    @property
    def output(self) -> int:
        """Parameters of an output layer of its own; 0 where it is the embedding."""
        return 0 if self.tied else self.embedding

    @property
    def parameters(self) -> int:
        """All parameters, a shared matrix counted once."""
        return self.embedding + self.output + sum(x.parameters for x in self.linears) + self.other

    @property
    def active_parameters(self) -> int:
        """Those that one token is multiplied with: the matrices it passes and the output layer."""
        return self.embedding + sum(math.floor(x.weights * x.count * x.share) for x in self.linears)
