"""Floor 0: what every other package stands on. Nothing here knows of networks, images or searches."""
