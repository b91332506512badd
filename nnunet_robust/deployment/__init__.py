"""What is done with new images, one by one: recommendation, quality assurance, drift."""
