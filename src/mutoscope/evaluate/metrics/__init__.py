"""One metric per file, as pure functions on arrays. Frames are uint8 RGB `[..., frame, height, width, 3]`."""
