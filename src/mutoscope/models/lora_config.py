"""What a low-rank adapter is: its rank, its scale, and the layers that have one."""

from dataclasses import dataclass

from mutoscope.core.errors import ConfigError

ATTENTION = tuple(f"{kind}.{part}" for kind in ("self_attn", "cross_attn") for part in ("q", "k", "v", "o"))


@dataclass(frozen=True)
class LoraConfig:
    """`W + alpha / rank B A` in place of W, where A `[rank, in]` and B `[out, rank]` learn and W does not (LoRA, arXiv 2106.09685, eq. 3).

    targets  linear layers by the end of their names: of all blocks those that a model has
    whole    modules that learn whole beside them, such as action_embedding, which published weights do not have
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = (*ATTENTION, "ffn.0", "ffn.2")
    whole: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ConfigError(f"an adapter needs a rank of at least 1 and an alpha above 0, got {self.rank} and {self.alpha}")
        if not self.targets:
            raise ConfigError("an adapter needs targets, such as self_attn.q; to train modules whole, train all weights")

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank

    @property
    def text(self) -> str:
        """One line for a manifest."""
        whole = f" whole={','.join(self.whole)}" if self.whole else ""
        return f"lora rank={self.rank} alpha={self.alpha:g} targets={','.join(self.targets)}{whole}"
