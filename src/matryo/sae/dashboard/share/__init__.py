"""What can be given to others: tables, one HTML file, a static site, Neuronpedia's JSON, a notebook's card."""
