"""What a store may have beyond its policy: elements of eight bits, spare slots. For which policies, is said here."""

from dataclasses import dataclass, replace

from mutoscope.core.errors import ConfigError
from mutoscope.memory.elements import ElementName
from mutoscope.memory.head_store import AnySpec, HeadSpec
from mutoscope.memory.policy import EmaSink, cache_of, policy_name


@dataclass(frozen=True)
class StoreExtras:
    """`elements` of keys and values, and `spare` slots for a chunk that is opened before the one before it was committed."""

    elements: ElementName = "plain"
    spare: int = 0


PLAIN_STORE = StoreExtras()


def takes_extras(spec: AnySpec) -> bool:
    """Whether a cache can have extras: its policy goes by a frame's number, and neither chooses nor blends by content."""
    return not (isinstance(spec, HeadSpec) or spec.criterion != "nothing" or isinstance(cache_of(spec.policy), EmaSink))


def with_extras(spec: AnySpec, extras: StoreExtras) -> AnySpec:
    """The cache with extras; a policy that cannot have them is a ConfigError."""
    if extras == PLAIN_STORE:
        return spec
    if isinstance(spec, HeadSpec) or not takes_extras(spec):
        raise ConfigError(
            f"the memory '{policy_name(spec.policy)}' reads its own keys to choose or blend frames; keys and values of eight bits and "
            "spare slots are for memories that go by a frame's number: full, window, sink, deep-sink, rolling, recency"
        )
    return replace(spec, elements=extras.elements, spare=extras.spare)
