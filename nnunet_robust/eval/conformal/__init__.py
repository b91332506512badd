"""What can be promised of a segmentation: bounds and intervals from calibration cases, checks of images, a rating."""
