"""Quality assurance of new images: checks, ratings, calibrated bounds."""
