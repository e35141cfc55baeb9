from .page import write_page
from .tables import Results, load_results

__all__ = ["Results", "load_results", "write_page"]
