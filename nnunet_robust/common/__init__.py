"""What all parts share: errors, files, locks, folders, digests, seeding, processes, the console."""
