"""The search: space, study, loop, and the choice of a trial."""
