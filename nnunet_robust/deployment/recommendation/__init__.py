"""Which architecture for images like these? By what a sweep measured."""
