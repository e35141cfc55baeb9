from .documents import Document as Document
from .documents import Source as Source
from .packs import PACKS as PACKS
from .packs import Pack as Pack
from .packs import PackSource as PackSource
from .rows import RowsConfig as RowsConfig
from .rows import TokenRows as TokenRows
from .rows import pack_rows as pack_rows
