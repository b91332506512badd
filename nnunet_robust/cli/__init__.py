"""The command `nnunet-robust`."""
