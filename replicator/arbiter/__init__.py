"""The arbiter: one linearizable register per partition that holds the view record, changed by compare-and-set only."""
