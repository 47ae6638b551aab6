"""Floor 0: small tools that every other package uses.

Nothing here knows of networks, images or searches.
"""
