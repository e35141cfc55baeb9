from .foreign import Foreign
from .sources import READERS, load_foreign, locate
from .written import WRITERS, largest_difference, write_sae

__all__ = ["READERS", "WRITERS", "Foreign", "largest_difference", "load_foreign", "locate", "write_sae"]
