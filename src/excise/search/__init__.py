"""The search: its space, its study, and the choice among what it found."""
