"""What a person at a terminal sees: text made fit to be shown, tables, progress."""
