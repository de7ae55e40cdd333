"""The report of an experiment: page, charts, tables, Markdown."""
