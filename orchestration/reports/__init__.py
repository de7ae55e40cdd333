"""What all reports share: style, charts and pictures."""
