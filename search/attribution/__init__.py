"""Attribution: the share of a score that each part of a supernet has."""
