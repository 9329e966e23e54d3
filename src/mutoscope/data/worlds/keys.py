"""What the keys and the poses of the worlds mean: which undo each other, which turn and which walk, which numbers are degrees."""

OPPOSITES = (("forward", "backward"), ("left", "right"), ("turn_left", "turn_right"), ("up", "down"), ("look_up", "look_down"))
# Pairs of keys that turn the viewer on the spot, and pairs that carry it away along its view: out first, then back.
TURNS = (("turn_right", "turn_left"),)
WALKS = (("forward", "backward"),)
# What moves a window over a picture sideways, where there is no viewer to turn.
SLIDES = (("right", "left"),)
# In discrete worlds a key of its own; elsewhere pressing nothing.
STAND = "stand"
# The numbers of a pose that say where the camera is (map units), and how it is turned (degrees, which come round at 360).
POSE_PLACE = ("x", "y", "z")
POSE_ANGLES = ("angle", "pitch")
FULL_TURN = 360.0
