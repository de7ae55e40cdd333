"""From scores to verdicts: paired differences, intervals, corrections and checks."""
