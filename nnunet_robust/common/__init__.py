"""What all parts share: errors, files, folders, digests, seeding, processes."""
