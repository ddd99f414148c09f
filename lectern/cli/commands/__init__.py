"""One file per command of `lectern`; `lectern.cli` imports every file here."""
