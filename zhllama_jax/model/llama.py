"""The whole forward pass of LLaMA (Touvron et al., 2023, arXiv 2302.13971), as functions of plain nested dicts.

`hidden_states` and `logits` are the front; the modules below them only give paths and shapes. Tokens are flat, [B·T, D],
between attention calls: the CPU backend multiplies two flat matrices several times faster than a batch of them, and the other
backends do not mind. The layers are stacked on a leading axis and run by one scan.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from zhllama_jax import arrays, tree
from zhllama_jax.model import attention, layers, rope
from zhllama_jax.model import cache as cache_lib
from zhllama_jax.model import config as config_lib

REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How to compute, not what: none of these changes the function, but for rounding and dropout.

    Attributes:
      dtype: of activations and matrix products; norms, softmax, RoPE and logits are float32 anyway.
      remat: what the backward pass recomputes: "none" (saves all), "dots" (saves matrix products), "full" (saves only
        each layer's input).
      unroll: layers per iteration of the scan.
      lora_dropout: dropout on the adapters' inputs; acts only where a dropout key is given.
      sharding: where flat activations [B·T, D] lie; None leaves that to the compiler. Told nothing, it may well gather the tokens of all
        devices on each where weights are split, instead of the weights of one layer.
    """

    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    lora_dropout: float = 0.0
    sharding: jax.sharding.Sharding | None = None

    def __post_init__(self) -> None:
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat must be one of {', '.join(REMAT_POLICIES)}, got {self.remat!r}")


class _Scene(NamedTuple):
    """What every layer sees alike."""

    turn: rope.Rotation
    mask_BTS: arrays.Array
    cursor: arrays.Array | None


class SelfAttention(nn.Module):
    """Causal attention with rotary positions and grouped key/value heads."""

    config: config_lib.LlamaConfig
    options: Options
    deterministic: bool

    @nn.compact
    def __call__(self, x_MD: arrays.Array, scene: _Scene, kv: Any, layer: arrays.Array) -> tuple[arrays.Array, Any]:
        config = self.config
        batch, length = scene.turn.cos_BTh.shape[:2]

        def project(name: str, num_heads: int) -> arrays.Array:
            linear = layers.Linear(num_heads * config.head_width, self.options.dtype, self.options.lora_dropout, name=name)
            return linear(x_MD, deterministic=self.deterministic).reshape(batch, length, num_heads, config.head_width)

        q_BTNH = rope.apply(project("q_proj", config.num_attention_heads), scene.turn)
        k_BSKH = rope.apply(project("k_proj", config.num_kv_heads), scene.turn)
        v_BSKH = project("v_proj", config.num_kv_heads)
        if kv is not None:
            assert scene.cursor is not None, "a cache has a cursor"
            k_LBSKH, k_BSKH = cache_lib.write(kv[0], k_BSKH, layer, scene.cursor)
            v_LBSKH, v_BSKH = cache_lib.write(kv[1], v_BSKH, layer, scene.cursor)
            kv = (k_LBSKH, v_LBSKH)
        y_BTNH = attention.attend(q_BTNH, k_BSKH.astype(q_BTNH.dtype), v_BSKH.astype(q_BTNH.dtype), scene.mask_BTS)
        output = layers.Linear(config.hidden_size, self.options.dtype, self.options.lora_dropout, name="o_proj")
        return output(y_BTNH.reshape(batch * length, -1), deterministic=self.deterministic), kv


class MLP(nn.Module):
    """down(silu(gate x) · up x): SwiGLU (Shazeer, 2020, arXiv 2002.05202)."""

    config: config_lib.LlamaConfig
    options: Options
    deterministic: bool

    @nn.compact
    def __call__(self, x_MD: arrays.Array) -> arrays.Array:
        def linear(name: str, features: int) -> Any:
            module: Any = layers.Linear(features, self.options.dtype, self.options.lora_dropout, name=name)
            return functools.partial(module, deterministic=self.deterministic)

        gate_MF = linear("gate_proj", self.config.intermediate_size)(x_MD)
        up_MF = linear("up_proj", self.config.intermediate_size)(x_MD)
        return linear("down_proj", self.config.hidden_size)(jax.nn.silu(gate_MF) * up_MF)


class Block(nn.Module):
    """One decoder layer; carries (activations, keys and values) through the scan."""

    config: config_lib.LlamaConfig
    options: Options
    deterministic: bool

    @nn.compact
    def __call__(self, carry: tuple[arrays.Array, Any], layer: arrays.Array, scene: _Scene) -> tuple[tuple[arrays.Array, Any], None]:
        x_MD, kv = carry
        config, dtype = self.config, self.options.dtype
        shared = (config, self.options, self.deterministic)
        normed_MD = layers.RMSNorm(config.rms_norm_eps, dtype, name="input_layernorm")(x_MD)
        attended_MD, kv = SelfAttention(*shared, name="self_attn")(normed_MD, scene, kv, layer)
        x_MD = _placed(x_MD + attended_MD, self.options)
        normed_MD = layers.RMSNorm(config.rms_norm_eps, dtype, name="post_attention_layernorm")(x_MD)
        return (_placed(x_MD + MLP(*shared, name="mlp")(normed_MD), self.options), kv), None


class Llama(nn.Module):
    """Embedding, decoder layers, final norm; the head is `logits`."""

    config: config_lib.LlamaConfig
    options: Options
    deterministic: bool = True

    @nn.compact
    def __call__(self, tokens_BT: arrays.Array, scene: _Scene, kv: Any) -> tuple[arrays.Array, Any]:
        config, options = self.config, self.options
        vocabulary = (config.blocks, config.hidden_size, options.dtype)
        x_MD = _placed(layers.Embed(*vocabulary, name="embed_tokens")(tokens_BT.reshape(-1)), options)
        block: Any = Block
        if options.remat != "none":
            block = nn.remat(Block, policy=REMAT_POLICIES[options.remat], prevent_cse=False)
        stack = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=config.num_hidden_layers,
            unroll=min(options.unroll, config.num_hidden_layers),
        )
        index_L = jnp.arange(config.num_hidden_layers)
        (x_MD, kv), _ = stack(config, options, self.deterministic, name="layers")((x_MD, kv), index_L, scene)
        if self.is_initializing() and not config.tie_word_embeddings:
            layers.Embed(*vocabulary, name="lm_head")(jnp.zeros((1,), jnp.int32))
        x_MD = layers.RMSNorm(config.rms_norm_eps, options.dtype, name="norm")(x_MD)
        return x_MD.reshape(*tokens_BT.shape, config.hidden_size), kv


def hidden_states(
    config: config_lib.LlamaConfig,
    weights: Mapping[str, Any],
    tokens_BT: arrays.Array,
    *,
    positions_BT: arrays.Array | None = None,
    segment_ids_BT: arrays.Array | None = None,
    cache: cache_lib.KVCache | None = None,
    options: Options = Options(),
    dropout_key: arrays.Array | None = None,
) -> tuple[arrays.Array, cache_lib.KVCache | None]:
    """The final, normed hidden states of the tokens.

    Args:
      config: the model's shape.
      weights: collections `params` and, optionally, `lora`.
      tokens_BT: logical ids, int32.
      positions_BT: positions for RoPE; None counts from the cache's cursor, or from 0.
      segment_ids_BT: documents in a row, 0 for padding. Without a cache, tokens see only their own segment; with one,
        0 marks slots that nobody may see and every other value means "visible".
      cache: keys and values so far; the T tokens are written at its cursor. The cache must have T free slots.
      options: how to compute.
      dropout_key: PRNG key of the adapters' dropout; None switches dropout off.

    Returns:
      (x_BTD in `options.dtype`, the cache with its cursor moved on by T, or None).

    Raises:
      ValueError: an adapter at a path where no kernel is, or an incomplete one.
    """
    _check_adapters(weights)
    batch, length = tokens_BT.shape
    cursor, kv = None, None
    if cache is not None:
        valid_BT = jnp.ones((batch, length), bool) if segment_ids_BT is None else segment_ids_BT != 0
        cache = cache_lib.mark(cache, valid_BT)
        cursor, kv = cache.cursor, (cache.k_LBSKH, cache.v_LBSKH)
        mask_BTS = attention.cache_mask(cache.valid_BS, cursor, length)
    elif segment_ids_BT is not None:
        mask_BTS = attention.segment_mask(segment_ids_BT)
    else:
        mask_BTS = attention.causal_mask(length)
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(length)[None] + (0 if cursor is None else cursor), (batch, length))
    turn = _turn(config, positions_BT, segment_ids_BT)
    module = Llama(config, options, deterministic=dropout_key is None)
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    x_BTD, kv = module.apply(dict(weights), tokens_BT, _Scene(turn, mask_BTS, cursor), kv, rngs=rngs)
    if cache is not None:
        cache = cache._replace(k_LBSKH=kv[0], v_LBSKH=kv[1], cursor=cache.cursor + length)
    return x_BTD, cache


def layer(config: config_lib.LlamaConfig, weights: Mapping[str, Any], x_BTD: arrays.Array, *, options: Options = Options()) -> arrays.Array:
    """One decoder layer by itself, for who cannot hold all of them: texts from position 0 on, without padding.

    Args:
      config: the model's shape.
      weights: collections `params` and, optionally, `lora`, of this layer alone: leaves without the leading axis.
      x_BTD: its input.
      options: how to compute; nothing is saved for a backward pass.
    """
    batch, length, width = x_BTD.shape
    positions_BT = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
    scene = _Scene(_turn(config, positions_BT, None), attention.causal_mask(length), None)
    block = Block(config, options, True)
    (x_MD, _), _ = block.apply(dict(weights), (x_BTD.reshape(-1, width), None), jnp.zeros((), jnp.int32), scene)
    return x_MD.reshape(x_BTD.shape)


def _turn(config: config_lib.LlamaConfig, positions_BT: arrays.Array, segment_ids_BT: arrays.Array | None) -> rope.Rotation:
    return rope.rotation(
        positions_BT,
        head_dim=config.head_width,
        theta=config.rope_theta,
        scaling=config.rope_scaling,
        trained=config.max_position_embeddings,
        segment_ids_BT=segment_ids_BT,
    )


def _placed(x_MD: arrays.Array, options: Options) -> arrays.Array:
    """Activations under the sharding that the options name; a constraint on the compiler, not a copy."""
    return x_MD if options.sharding is None else jax.lax.with_sharding_constraint(x_MD, options.sharding)


def _check_adapters(weights: Mapping[str, Any]) -> None:
    """Refuses adapters that no module would read; modules look for theirs by path, so others would be passed over in silence.

    Raises:
      ValueError: with their paths.
    """
    leaves = tree.flatten(weights.get("lora", {})).keys()
    if not leaves:
        return
    kernels = {path.removesuffix("/kernel") for path in tree.flatten(weights["params"]) if path.endswith("/kernel")}
    adapted = {path.rpartition("/")[0] for path in leaves} & kernels
    wrong = leaves ^ {f"{module}/{name}" for module in adapted for name in ("a", "b", "scale")}
    if wrong:
        raise ValueError(f"adapters are a, b and scale beside a kernel: {', '.join(sorted(wrong))} are not, or are missing")


def head_blocks(config: config_lib.LlamaConfig, params: Mapping[str, Any]) -> list[tuple[arrays.Array, config_lib.Block]]:
    """The head's blocks as (rows [padded, D], which they are), in the order of the ids."""
    return [(params[config.head_matrix][block.name], block) for block in config.blocks]


def logits(config: config_lib.LlamaConfig, params: Mapping[str, Any], x_D: arrays.Array) -> arrays.Array:
    """Float32 logits over the V logical ids of hidden states [..., D]; spare rows are left out, so nobody can sample them."""
    x_TD = x_D.reshape(-1, x_D.shape[-1])  # flat, as everywhere: XLA of jax 0.7 has no batched bfloat16 product on some processors
    parts = [
        jnp.einsum("TD,VD->TV", x_TD, rows_VD.astype(x_D.dtype), preferred_element_type=jnp.float32)[:, : block.rows]
        for rows_VD, block in head_blocks(config, params)
    ]
    logits_TV = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    return logits_TV.reshape(*x_D.shape[:-1], -1)


def init(config: config_lib.LlamaConfig, key: arrays.Array, dtype: Any = jnp.float32) -> arrays.Tree:
    """Random weights N(0, 0.02²) with unit norms and zero spare rows, made under jit: a tree of `params`."""
    return _init(config, key, jnp.dtype(dtype))


def abstract(config: config_lib.LlamaConfig, dtype: Any = jnp.float32) -> arrays.Tree:
    """The shapes of `init`, without data."""
    return jax.eval_shape(lambda key: _init(config, key, jnp.dtype(dtype)), jax.random.key(0))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _init(config: config_lib.LlamaConfig, key: arrays.Array, dtype: jnp.dtype) -> arrays.Tree:
    tokens_BT = jnp.zeros((1, 1), jnp.int32)
    turn = rope.rotation(tokens_BT, head_dim=config.head_width, theta=config.rope_theta)
    params = Llama(config, Options()).init(key, tokens_BT, _Scene(turn, attention.causal_mask(1), None), None)["params"]
    for matrix in params.keys() & set(config_lib.MATRICES):
        for block in config.blocks:
            params[matrix][block.name] = params[matrix][block.name].at[block.rows :].set(0)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
