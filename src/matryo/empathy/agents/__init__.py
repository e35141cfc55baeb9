"""Agents: `select_action` and `update`, nothing else; learning ones are ensembles of any number of members."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
