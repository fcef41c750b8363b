"""What a low-rank adapter is made of. No JAX here: the command line reads it at start."""

import dataclasses

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter (Hu et al., 2021, arXiv 2106.09685).

    Attributes:
      rank: R, the width of the bottleneck.
      alpha: numerator of the scale: alpha / rank, or alpha / sqrt(rank) with `rslora`.
      dropout: probability with which an input of the adapter is zeroed in training.
      targets: which kernels get an adapter, by name (`q_proj`) or by a regex over paths (`layers/mlp/.*`); one that decides nothing is
        an error.
      rslora: rank-stabilised scale (Kalajdzievski, 2023, arXiv 2312.03732).
    """

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ATTENTION + MLP
    rslora: bool = False

    def __post_init__(self) -> None:
        targets: object = self.targets
        if isinstance(targets, str):
            raise ValueError(f"lora targets must be a list of names, got {targets!r}")
        object.__setattr__(self, "targets", tuple(self.targets))
        problems = []
        if not isinstance(self.rank, int) or self.rank < 1:
            problems.append(f"lora rank must be a whole number of at least 1, got {self.rank!r}")
        if not self.alpha > 0:
            problems.append(f"lora alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            problems.append(f"lora dropout must lie in [0, 1), got {self.dropout}")
        if not self.targets or len(set(self.targets)) != len(self.targets):
            problems.append(f"lora targets must be one or more distinct names, got {list(self.targets)}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def scale(self) -> float:
        """The factor of the adapter's output."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)
