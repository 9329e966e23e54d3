"""How a session runs its passes: which attention, which runner, which numbers in the cache. All give the same frames, to what each says."""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import ConfigError, choose
from mutoscope.memory.elements import CODES, ElementName
from mutoscope.memory.extras import StoreExtras
from mutoscope.models.softmax import KERNELS, KernelName, kernel_by_name
from mutoscope.models.transformer import VideoTransformer
from mutoscope.rollout.executor import Executor, Runner
from mutoscope.rollout.static import WAYS, RunnerName, runner_by_name

CommitName = Literal["own", "fused"]


@dataclass(frozen=True)
class Speed:
    """attention: models.softmax.KERNELS; runner: rollout.static; cache: the type of keys and values, memory.elements.

    commits: "own" is a pass for every chunk's commit; "fused" leaves it to the next chunk's first pass, for running free (rollout.fused).
    """

    attention: KernelName = "sdpa"
    runner: RunnerName = "plain"
    cache: ElementName = "plain"
    commits: CommitName = "own"

    def __post_init__(self) -> None:
        choose(dict.fromkeys(map(str, KERNELS)), self.attention, "attention")
        choose(dict.fromkeys(["plain", *WAYS]), self.runner, "runner")
        choose(dict.fromkeys(["plain", *map(str, CODES)]), self.cache, "cache")
        choose({"own": 0, "fused": 0}, self.commits, "commits")
        if self.commits == "fused" and self.runner != "plain":
            raise ConfigError(f"fused commits run as they are, and the runner is '{self.runner}'; use one or the other")

    def executor(self, model: VideoTransformer) -> Executor:
        """The executor of a model."""
        return Executor(model, kernel_by_name(self.attention, model.patch_embedding.weight.device))

    def run(self, model: VideoTransformer) -> Runner:
        """What runs a model's passes."""
        return runner_by_name(self.runner, self.executor(model))

    def extras(self, chunk: int) -> StoreExtras:
        """What the store must have, where chunks are of so many frames."""
        return StoreExtras(self.cache, chunk if self.commits == "fused" else 0)


PLAIN_SPEED = Speed()
