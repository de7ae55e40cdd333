"""Version logs: linearizable, append-only histories made of create-if-absent objects."""
