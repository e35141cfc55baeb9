"""One file per command: the only place where config, run folder and parts meet."""
