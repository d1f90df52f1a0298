"""The seam to a model: classifier protocols, links, the meter, linearisation."""
