"""What ingest tells Prometheus about itself."""

from prometheus_client import Counter, Gauge, Histogram

ROWS = Counter("dcops_ingest_rows_total", "Rows committed.")
VALUES = Counter("dcops_ingest_values_total", "Readings committed.")
REJECTED = Counter(
    "dcops_ingest_values_rejected_total",
    "Readings that no sane device gives, or with an impossible time.",
)
REPEATED = Counter(
    "dcops_ingest_records_repeated_total", "Records that were committed before and came again."
)
QUARANTINED = Counter("dcops_ingest_records_quarantined_total", "Records that could not be read.")
BATCHES = Counter("dcops_ingest_batches_total", "Batches acknowledged.")
BYTES = Counter("dcops_ingest_received_bytes_total", "Bytes of the frames received.")
REFUSALS = Counter("dcops_ingest_refusals_total", "Refusals sent to nodes.", ["code"])
GROUP_BATCHES = Histogram(
    "dcops_ingest_group_batches",
    "Batches committed together.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000),
)
COMMIT_SECONDS = Histogram(
    "dcops_ingest_commit_seconds",
    "From a group's start to its commit.",
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
)
LINKS = Gauge("dcops_ingest_links", "Nodes connected to this process.")
BACKLOG_BYTES = Gauge("dcops_ingest_backlog_bytes", "Bytes received and not yet committed.")
DATABASE_AWAY = Gauge("dcops_ingest_database_away", "1 while the database does not answer.")
DISK_REFUSING = Gauge(
    "dcops_ingest_disk_refusing", "1 while metrics are refused because the disk budget is used up."
)
