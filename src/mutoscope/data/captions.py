"""Captions of a data set, and prompts in a file: what shall be embedded."""

from pathlib import Path

from mutoscope.core.errors import DataError
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.format import MANIFEST

PROMPTS = "prompts"


def captions(dataset: ClipDataset) -> tuple[str, ...]:
    """The different captions of a data set, in the order in which they come; an episode without one is an error where others have one."""
    found = [episode.caption for episode in dataset.episodes]
    if any(found) and not all(found):
        bare = dataset.episodes[found.index("")]
        raise DataError(
            f"episode {bare.index} ({bare.name or bare.seed}) of {dataset.path} has no caption, and others have; caption all or none"
        )
    return tuple(dict.fromkeys(filter(None, found)))


def read_prompts(source: Path) -> tuple[str, ...]:
    """The prompts of a text file, one a line (empty lines are none), or the captions of a data set in a folder."""
    source = Path(source)
    if source.is_dir() and (source / MANIFEST).is_file():
        found = captions(open_dataset(source))
        if not found:
            raise DataError(
                f"the episodes of {source} have no captions; give a data set that has some, or a text file with a prompt a line"
            )
        return found
    if not source.is_file():
        raise DataError(f"{source} is neither a data set with captions nor a text file with a prompt a line")
    try:
        lines = [line.strip() for line in source.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no text in UTF-8 ({error})") from error
    if not any(lines):
        raise DataError(f"{source} holds no prompts; write one a line")
    return tuple(dict.fromkeys(filter(None, lines)))
