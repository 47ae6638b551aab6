"""The accuracy and the speed of trained networks."""
