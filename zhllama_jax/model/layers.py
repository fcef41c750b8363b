"""Linear, Embed and RMSNorm: the three modules that own weights.

Each reads its adapter, if there is one, from the `lora` collection under its own path. What an adapter is and how it is made
is not known here: leaves `a`, `b`, `scale` beside a kernel are added to its product, and that is all.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from zhllama_jax import arrays
from zhllama_jax.model import config as config_lib

INITIALIZER_RANGE = 0.02


class Linear(nn.Module):
    """x W, plus ((dropout(x) A) B) · scale where the `lora` collection has an adapter at this path.

    Attributes:
      features: width of the output (O).
      dtype: of the computation; weights are cast to it.
      lora_dropout: dropout on the adapter's input; needs a "dropout" key when `deterministic` is false.
    """

    features: int
    dtype: jnp.dtype
    lora_dropout: float = 0.0

    @nn.compact
    def __call__(self, x_MI: arrays.Array, *, deterministic: bool) -> arrays.Array:
        shape = (x_MI.shape[-1], self.features)
        kernel_IO = self.param("kernel", nn.initializers.normal(INITIALIZER_RANGE), shape, jnp.float32)
        y_MO = x_MI @ kernel_IO.astype(self.dtype)
        if not self.has_variable("lora", "a"):
            return y_MO
        a_IR = self.get_variable("lora", "a").astype(self.dtype)
        b_RO = self.get_variable("lora", "b").astype(self.dtype)
        scale = self.get_variable("lora", "scale").astype(self.dtype)
        dropped_MI = nn.Dropout(self.lora_dropout, name="drop")(x_MI, deterministic=deterministic)
        return y_MO + ((dropped_MI @ a_IR) @ b_RO) * scale


class Embed(nn.Module):
    """A matrix of vocabulary rows in blocks: `base` for ids below V0, `extension` for the rest.

    Each block is padded to a multiple of 128 rows; a vocabulary that was not extended has no `extension` leaf.

    Attributes:
      blocks: see `LlamaConfig.blocks`.
      features: D.
      dtype: of the computation.
    """

    blocks: tuple[config_lib.Block, ...]
    features: int
    dtype: jnp.dtype

    def setup(self) -> None:
        """Declares the blocks."""
        normal = nn.initializers.normal(INITIALIZER_RANGE)
        self.leaves = tuple(
            self.param(block.name, normal, (config_lib.padded_rows(block.rows), self.features), jnp.float32) for block in self.blocks
        )

    def __call__(self, tokens_M: arrays.Array) -> arrays.Array:
        """The rows of the tokens, [M, D]."""
        if len(self.blocks) == 1:
            return self.leaves[0][tokens_M].astype(self.dtype)
        x_MD = jnp.zeros((*tokens_M.shape, self.features), self.dtype)
        for block, rows_VD in zip(self.blocks, self.leaves, strict=True):
            inside_M = block.holds(tokens_M)
            found_MD = rows_VD[jnp.where(inside_M, tokens_M - block.first, 0)].astype(self.dtype)
            x_MD = jnp.where(inside_M[:, None], found_MD, x_MD)
        return x_MD


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, in float32 (Zhang & Sennrich, 2019, arXiv 1910.07467)."""

    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_MD: arrays.Array) -> arrays.Array:
        weight_D = self.param("weight", nn.initializers.ones, (x_MD.shape[-1],), jnp.float32)
        x_MD = x_MD.astype(jnp.float32)
        y_MD = x_MD * jax.lax.rsqrt(jnp.mean(x_MD * x_MD, axis=-1, keepdims=True) + self.eps)
        return (y_MD * weight_D.astype(jnp.float32)[None]).astype(self.dtype)
