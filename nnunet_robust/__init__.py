"""Which segmentation architecture stays accurate when the images get worse? An extension of nnU-Net v2.

Importing this package imports neither torch nor nnunetv2: Python's start-up hook (`nnunet_robust.hook`) passes here.
"""

__version__ = "0.1.0"
