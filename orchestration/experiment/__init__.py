"""Experiments one can believe: arms that differ in named factors, checked, compared by paired seeds, and reported."""
