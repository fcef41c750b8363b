"""The resizable vocabulary: two blocks of rows, of which the first never moves.

`base` holds the original V0 rows and `extension` the rows that came later; each is padded with zero rows to a multiple of 128.
Growing appends to the extension and leaves every old row bit for bit as it was.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from zhllama_jax import arrays
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import layers

Init = Literal["mean_of_pieces", "mean", "normal"]
_AT_ONCE = 1024
"""New rows whose pieces are gathered at a time: all at once, 18,000 pieces of a 7B take a gigabyte."""


def rows(leaves: Mapping[str, arrays.Array], config: config_lib.LlamaConfig) -> arrays.Array:
    """The logical matrix [V, D] of one vocabulary matrix, without spare rows."""
    parts = [leaves[block.name][: block.rows] for block in config.blocks]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def blocks(rows_VD: arrays.Array, config: config_lib.LlamaConfig) -> dict[str, arrays.Array]:
    """The padded blocks of a logical matrix [V, D]: the inverse of `rows`.

    NumPy in, NumPy out: a checkpoint can be cut into blocks without touching a device.
    """
    if rows_VD.shape[0] != config.vocab_size:
        raise ValueError(f"a matrix of {rows_VD.shape[0]:,} rows does not fit a vocabulary of {config.vocab_size:,}")
    return {block.name: _pad(rows_VD[block.first : block.first + block.rows]) for block in config.blocks}


def grow(
    config: config_lib.LlamaConfig,
    params: Mapping[str, Any],
    *,
    pieces: Sequence[Sequence[int]],
    init: Init = "mean_of_pieces",
    pad_token_id: int | None = None,
    key: arrays.Array | None = None,
) -> tuple[config_lib.LlamaConfig, arrays.Tree]:
    """Appends one row for each entry of `pieces` to the embedding and to the head.

    Args:
      config: the model before.
      params: its weights.
      pieces: for each new id, in order, the old ids that spell its text; an empty entry (a control piece) takes the
        mean of all rows.
      init: "mean_of_pieces" starts each new row at the mean of the rows of its pieces, in the embedding and in the head
        alike; "mean" at the mean of all old rows; "normal" at N(0, 0.02²), as `resize_token_embeddings` of the
        reference did.
      pad_token_id: id of the padding piece in the new vocabulary, if it has one.
      key: PRNG key, needed by "normal" only.

    Returns:
      (the new config, the new params). Old rows are bit-identical; as long as the spare rows of the extension suffice, its
      shape does not change.

    Raises:
      ValueError: nothing to add, a piece outside the old vocabulary, an unknown init, or "normal" without a key.
    """
    larger = grown(config, pieces=pieces, init=init, pad_token_id=pad_token_id, key=key)
    params = dict(params)
    for name in config_lib.MATRICES:
        if name not in params:
            continue  # tied: the head has no rows of its own
        old_VD = rows(params[name], config)
        new_VD = new_rows(old_VD, pieces=pieces, init=init, matrix=name, key=key)
        params[name] = {"base": params[name]["base"], "extension": _pad(jnp.concatenate([old_VD[config.base_rows :], new_VD]))}
    return larger, params


def grown(
    config: config_lib.LlamaConfig,
    *,
    pieces: Sequence[Sequence[int]],
    init: Init = "mean_of_pieces",
    pad_token_id: int | None = None,
    key: arrays.Array | None = None,
) -> config_lib.LlamaConfig:
    """The shape of a model after `grow` with the same arguments.

    Raises:
      ValueError: see `grow`.
    """
    _check(config, pieces, init, key)
    return config.replace(
        vocab_size=config.vocab_size + len(pieces),
        base_vocab_size=config.base_rows,
        pad_token_id=config.pad_token_id if pad_token_id is None else pad_token_id,
    )


def new_rows(
    old_VD: arrays.Array, *, pieces: Sequence[Sequence[int]], init: Init, matrix: str, key: arrays.Array | None = None
) -> arrays.Array:
    """The rows [n, D] that `grow` appends to one matrix, in its dtype.

    Args:
      old_VD: its logical rows; NumPy in, NumPy out.
      pieces, init, key: see `grow`.
      matrix: its name in `params`, of which random rows depend.
    """
    if init == "normal":
        assert key is not None, "_check asks for it"
        shape = (len(pieces), old_VD.shape[1])
        key = jax.random.fold_in(key, config_lib.MATRICES.index(matrix))
        new_VD: arrays.Array = layers.INITIALIZER_RANGE * jax.random.normal(key, shape, jnp.float32)
    else:
        new_VD = mean_rows(old_VD, pieces if init == "mean_of_pieces" else [()] * len(pieces))
    return np.asarray(new_VD.astype(old_VD.dtype)) if isinstance(old_VD, np.ndarray) else new_VD.astype(old_VD.dtype)


def cut(config: config_lib.LlamaConfig, params: Mapping[str, Any], vocab_size: int) -> tuple[config_lib.LlamaConfig, arrays.Tree]:
    """The model without its rows from `vocab_size` on; a padding id among these is forgotten.

    Raises:
      ValueError: there are not so many rows, or a special id other than padding is among those to go.
    """
    if vocab_size == config.vocab_size:
        return config, dict(params)
    less = smaller(config, vocab_size)
    matrices = {name: blocks(rows(params[name], config)[:vocab_size], less) for name in config_lib.MATRICES if name in params}
    return less, {**params, **matrices}


def smaller(config: config_lib.LlamaConfig, vocab_size: int) -> config_lib.LlamaConfig:
    """The shape of a model after `cut`.

    Raises:
      ValueError: see `cut`.
    """
    if vocab_size > config.vocab_size:
        raise ValueError(f"a vocabulary of {config.vocab_size:,} cannot be cut to {vocab_size:,}")
    keeps_pad = config.pad_token_id is not None and config.pad_token_id < vocab_size
    return config.replace(
        vocab_size=vocab_size,
        base_vocab_size=min(config.base_rows, vocab_size),
        pad_token_id=config.pad_token_id if keeps_pad else None,
    )


def mean_rows(rows_VD: arrays.Array, pieces: Sequence[Sequence[int]]) -> arrays.Array:
    """For each entry of `pieces` the mean of those rows, taken in float32; for an empty entry the mean of all rows. In their dtype."""
    # Of NumPy's rows the device has those of one part at a time, and all only where an entry is empty.
    xp = np if isinstance(rows_VD, np.ndarray) else jnp
    starts = range(0, len(pieces), _AT_ONCE)
    mean_VD = xp.concatenate([xp.asarray(_means(rows_VD, pieces[first : first + _AT_ONCE])) for first in starts])
    empty = np.array([not entry for entry in pieces])
    if not empty.any():
        return mean_VD
    all_D = jnp.asarray(rows_VD).astype(jnp.float32).mean(axis=0).astype(rows_VD.dtype)
    return xp.where(xp.asarray(empty)[:, None], xp.asarray(all_D)[None], mean_VD)


def _means(rows_VD: arrays.Array, pieces: Sequence[Sequence[int]]) -> arrays.Array:
    lengths = np.array([len(entry) for entry in pieces])
    flat = np.array([id_ for entry in pieces for id_ in entry], dtype=np.int32)
    owners = np.repeat(np.arange(len(pieces), dtype=np.int32), lengths)
    # One program for all parts: their lists of ids are filled up with row 0, owned by nobody.
    spare = (1 << max(0, len(flat) - 1).bit_length()) - len(flat)
    flat, owners = np.pad(flat, (0, spare)), np.pad(owners, (0, spare), constant_values=_AT_ONCE)
    lengths = np.pad(lengths, (0, _AT_ONCE - len(pieces)))
    return _owned_means(rows_VD[flat], owners, lengths.astype(np.float32))[: len(pieces)]


@jax.jit
def _owned_means(taken_ND: arrays.Array, owners_N: arrays.Array, lengths: arrays.Array) -> arrays.Array:
    total_VD = jax.ops.segment_sum(jnp.asarray(taken_ND, jnp.float32), owners_N, num_segments=_AT_ONCE)
    return (total_VD / jnp.maximum(lengths, 1)[:, None]).astype(taken_ND.dtype)


def _check(config: config_lib.LlamaConfig, pieces: Sequence[Sequence[int]], init: str, key: arrays.Array | None) -> None:
    if init not in get_args(Init):
        raise ValueError(f"init must be one of {', '.join(get_args(Init))}, got {init!r}")
    if init == "normal" and key is None:
        raise ValueError("init 'normal' needs a key")
    if not pieces:
        raise ValueError(f"nothing to add: the model has {config.vocab_size:,} rows already")
    outside = {id_ for entry in pieces for id_ in entry if not 0 <= id_ < config.vocab_size}
    if outside:
        raise ValueError(f"pieces {sorted(outside)[:5]} lie outside the model's vocabulary of {config.vocab_size:,}")


def _pad(rows_VD: Any) -> Any:
    spare = config_lib.padded_rows(rows_VD.shape[0]) - rows_VD.shape[0]
    library = np if isinstance(rows_VD, np.ndarray) else jnp
    return library.pad(rows_VD, ((0, spare), (0, 0)))
