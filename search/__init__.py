"""Floor 4: search methods. `python -m search.darts --help` lists what one takes."""
