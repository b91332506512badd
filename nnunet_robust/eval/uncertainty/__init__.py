"""How sure is a segmentation, and is it so with reason? Pure functions of probabilities, label maps and scores."""
