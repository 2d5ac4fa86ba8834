"""How signatures are checked while testing: by beartype, an int doing for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
