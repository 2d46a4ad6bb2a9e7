"""Who did what, when and from where: one append-only table, written in the transaction of the change it tells of."""
