"""How good a learned world is: metrics on held-out episodes, with intervals, baselines and a report."""
