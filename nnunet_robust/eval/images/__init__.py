"""Images and their labels: files, reading and checking, what is measured of them, maps and pictures."""
