"""Parts that the rooms of the formats share."""
