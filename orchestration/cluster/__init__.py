"""Starting, joining and watching a Ray cluster."""
