"""The browser pages of the lake."""
