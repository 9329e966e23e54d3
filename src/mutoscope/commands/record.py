"""Turn a world, or a folder of your own clips, into a data set.

WORLD is a bundled name (doom, doom-basic, doom-gathering, scroll, ...) or any Gymnasium id that gives images.
Recording that was interrupted goes on where it stopped; the same seed gives the same data set, byte for byte.
"""
