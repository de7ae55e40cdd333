"""Keeping a lake whole: verification, healing, garbage collection, import, export and lineage."""
