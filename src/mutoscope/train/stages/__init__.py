"""One short file per stage: where the clip comes from, which objective, who learns."""
