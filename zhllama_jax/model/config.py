"""The shape of a LLaMA, under Hugging Face's names. No JAX here: the command line reads it at start."""

import dataclasses
from typing import Any, NamedTuple

from zhllama_jax.model import rope_config

LLAMA_VOCAB_SIZE = 32_000
MATRICES = ("embed_tokens", "lm_head")
"""The vocabulary matrices by their names in `params`; a model that ties them has the first only."""


class Block(NamedTuple):
    """One block of rows of a vocabulary matrix: id `first + r` lives in its row r, for r below `rows`.

    Attributes:
      name: of the leaf, "base" or "extension".
      first: the id of its row 0.
      rows: logical rows; what the leaf has beyond them only pads it.
    """

    name: str
    first: int
    rows: int

    def holds(self, ids: Any) -> Any:
        """Whether an id lives in this block; of an array of ids, for each."""
        return (ids >= self.first) & (ids < self.first + self.rows)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """What fixes a LLaMA's weights and its forward pass.

    Attributes:
      vocab_size: rows of the vocabulary that exist logically (V); spare rows that only pad a block are not counted.
      hidden_size: model width (D).
      intermediate_size: width of the gated MLP (F).
      num_hidden_layers: decoder blocks (L).
      num_attention_heads: query heads (N).
      num_key_value_heads: key/value heads (K); must divide N. None means N.
      head_dim: width of one head (H), even. None means D / N.
      max_position_embeddings: the context length trained for, in tokens; see `context` for models with RoPE scaling.
      rms_norm_eps: added to the mean square before the root.
      rope_theta: base of the rotary frequencies.
      rope_scaling: how the rotary frequencies are stretched; None leaves them.
      tie_word_embeddings: whether the head reads the embedding's rows.
      base_vocab_size: rows of the original vocabulary (V0); ids from V0 on live in the extension block. None
        means V, a model that was not extended.
      bos_token_id: id that begins a text.
      eos_token_id: id that ends a text.
      pad_token_id: id of the padding piece; None where the tokenizer has none.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: rope_config.RopeScaling | None = None
    tie_word_embeddings: bool = False
    base_vocab_size: int | None = None
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        problems = [
            f"{name} must be a whole number above 0, got {getattr(self, name)!r}" for name in sizes if not _positive(getattr(self, name))
        ]
        if problems:
            raise ValueError("; ".join(problems))
        derived = {
            "num_key_value_heads": self.num_attention_heads,
            "head_dim": self.hidden_size // self.num_attention_heads,
            "base_vocab_size": self.vocab_size,
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        if self.rope_scaling is not None:
            object.__setattr__(self, "rope_scaling", self.rope_scaling.of(self.max_position_embeddings))

    def _problems(self) -> list[str]:
        found = []
        if not _positive(self.num_key_value_heads) or self.num_attention_heads % self.num_kv_heads:
            found.append(f"num_key_value_heads {self.num_key_value_heads} must divide num_attention_heads {self.num_attention_heads}")
        if not _positive(self.head_dim) or self.head_width % 2:
            found.append(f"head_dim {self.head_dim} must be an even number above 0 (RoPE turns pairs)")
        if self.head_dim == self.hidden_size // self.num_attention_heads and self.hidden_size % self.num_attention_heads:
            found.append(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}")
        if not _positive(self.base_vocab_size) or self.base_rows > self.vocab_size:
            found.append(f"base_vocab_size {self.base_vocab_size} must lie between 1 and vocab_size {self.vocab_size}")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                found.append(f"{name} must be a number above 0, got {value!r}")
        if self.rope_scaling is not None:
            found += self._scaling_problems(self.rope_scaling)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 0 <= value < self.vocab_size):
                found.append(f"{name} {value!r} is no id of a vocabulary of {self.vocab_size}")
        return found

    def _scaling_problems(self, scaling: Any) -> list[str]:
        if not isinstance(scaling, rope_config.RopeScaling):
            return [f"rope_scaling must be a RopeScaling or None, got {scaling!r}"]
        if scaling.kind == "dynamic" and self.head_dim == 2:
            return ["rope_scaling of kind dynamic needs a head_dim above 2"]
        if scaling.kind == "yarn" and self.rope_theta == 1:
            return ["rope_scaling of kind yarn needs another rope_theta than 1"]
        return []

    @property
    def context(self) -> int:
        """The most tokens that a text may have: the length trained for, or what RoPE scaling makes of it."""
        scaling = self.rope_scaling
        return self.max_position_embeddings if scaling is None else scaling.context(self.max_position_embeddings)

    @property
    def base_rows(self) -> int:
        """V0: logical rows of the base block."""
        assert self.base_vocab_size is not None, "__post_init__ fills base_vocab_size"
        return self.base_vocab_size

    @property
    def extension_rows(self) -> int:
        """Logical rows of the extension block; 0 for a model that was not extended."""
        return self.vocab_size - self.base_rows

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that every vocabulary matrix is made of, in the order of the ids: the one map between id and (block, row)."""
        base = Block("base", 0, self.base_rows)
        return (base, Block("extension", self.base_rows, self.extension_rows)) if self.extension_rows else (base,)

    @property
    def head_matrix(self) -> str:
        """The vocabulary matrix that makes the logits."""
        return MATRICES[0] if self.tie_word_embeddings else MATRICES[1]

    @property
    def num_kv_heads(self) -> int:
        """K: key/value heads."""
        assert self.num_key_value_heads is not None, "__post_init__ fills num_key_value_heads"
        return self.num_key_value_heads

    @property
    def head_width(self) -> int:
        """H: width of one head."""
        assert self.head_dim is not None, "__post_init__ fills head_dim"
        return self.head_dim

    def replace(self, **changes: Any) -> "LlamaConfig":
        """A copy with some fields changed, checked like a new one.

        Where width or query heads change, heads that divide the width evenly, and key/value heads that are as many as the query heads,
        follow unless `changes` says otherwise. `base_vocab_size` stays: what `vocab_size` gains is an extension.
        """
        if changes.keys() & {"hidden_size", "num_attention_heads"}:
            if self.head_width * self.num_attention_heads == self.hidden_size:
                changes = {"head_dim": None, **changes}
            if self.num_kv_heads == self.num_attention_heads:
                changes = {"num_key_value_heads": None, **changes}
        return dataclasses.replace(self, **changes)


_SIZES: dict[str, dict[str, Any]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "33b": {"hidden_size": 6656, "intermediate_size": 17920, "num_hidden_layers": 60, "num_attention_heads": 52},
    "65b": {"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80, "num_attention_heads": 64, "rms_norm_eps": 1e-5},
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
    },
    "30m": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
    "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 4},
    "tiny": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
    "micro": {"hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
}
SIZES = tuple(_SIZES)


def named(name: str, **changes: Any) -> LlamaConfig:
    """The configuration of a named size, with the original vocabulary of 32,000 unless `changes` says otherwise.

    7b, 13b, 33b, 65b are LLaMA's own (params.json of the release); 1b is TinyLlama's; 30m, small, tiny, micro are ours for
    one machine.

    Raises:
      ValueError: the name is unknown.
    """
    if name.lower() not in _SIZES:
        raise ValueError(f"unknown model size {name!r}: choose one of {', '.join(_SIZES)}")
    return LlamaConfig(**{"vocab_size": LLAMA_VOCAB_SIZE, **_SIZES[name.lower()], **changes})


def padded_rows(rows: int) -> int:
    """Rows that a block of `rows` logical rows takes in flight: the next multiple of 128, which every power of two up to 128 divides."""
    return -(-rows // 128) * 128


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
