"""Converts the catalog of a repository to schema 3, whose order of points has no times."""

from pathlib import Path

import lmdb

from cbtfs.store.catalog.environment import ENGINE
from cbtfs.store.catalog.records import DATABASES, META, ORDER, close_value, number_key, open_value
from cbtfs.store.catalog.view import MISSING, SCHEMA, UNPROVEN

_NAME_AT = 18
"""Offset of a point's name in a value of schema 4: after two times, flags and its length."""


def make_older(path: Path, schema: int = 3) -> None:
    """Convert the catalog of the repository at *path* to *schema*.

    The programs that wrote schema 3 recorded neither missing points nor the numbers up to which
    points may be unknown.
    """
    folder = str(path / "catalog")
    with lmdb.open(folder, max_dbs=len(DATABASES), lib_version=ENGINE) as environment:
        meta, order = environment.open_db(META), environment.open_db(ORDER)
        with environment.begin(write=True) as transaction:
            for key, value in [*transaction.cursor(order)]:
                entry = open_value(ORDER, key, value)
                name = entry[_NAME_AT : _NAME_AT + entry[_NAME_AT - 1]]
                transaction.put(key, close_value(ORDER, key, name), db=order)
            for key, _ in [*transaction.cursor(meta)]:
                if key == MISSING or key.startswith(UNPROVEN):
                    transaction.delete(key, db=meta)
            transaction.put(SCHEMA, close_value(META, SCHEMA, number_key(schema)), db=meta)
