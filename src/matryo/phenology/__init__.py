"""The phenology room: NDVI series, the season's dates with their errors, and what drives them."""
