"""Pages that say what a run was and what came of it."""
