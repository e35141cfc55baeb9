"""What each page shows, as plain values: a page's JSON twin is its view, and its HTML is drawn from nothing else."""
