"""Have the images changed? What is measured of each, a reference, and tests of what comes after it."""
