"""Search spaces, one file each with the network around its cells."""
