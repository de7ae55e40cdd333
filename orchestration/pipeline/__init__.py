"""Generate, pre-pre-train, transfer, pre-train and evaluate as one job; the demo is one of these."""
