"""The catalog: fast answers from LMDB, rebuildable from packs and points. The only user of LMDB."""
